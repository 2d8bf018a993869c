"""Energy from each kind of source, planted in a tree or faked."""

from __future__ import annotations

import ctypes
import time

import pytest

from edge.measure import energy

RAPL = {"sys/class/powercap/intel-rapl:0/" + name: text for name, text in (("energy_uj", "9000000"), ("max_energy_range_uj", "10000000"))}


class Nvml:
    """A GPU that has taken five joules."""

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device, out):
        ctypes.cast(out, ctypes.POINTER(ctypes.c_ulonglong))[0] = 5000
        return 0


def absent():
    raise OSError("no library")


@pytest.mark.parametrize(("gpu", "counter"), [(True, "NVML"), (False, "RAPL")])
def test_a_machine_without_sensors_says_why(tmp_path, gpu, counter):
    source, reason = energy.find(tmp_path, gpu=gpu, nvml=absent)
    assert source is None
    assert "INA3221" in reason
    assert counter in reason


def test_jetson_sensor_of_the_module_input_is_preferred(tmp_path, plant):
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"
    rails = {"1": "VDD_IN", "2": "VDD_CPU_GPU_CV"}
    for number, name in rails.items():
        plant({folder + f"in{number}_label": name, folder + f"in{number}_input": "5000", folder + f"curr{number}_input": "2000"})
    plant(RAPL)
    for gpu in (True, False):
        source, _ = energy.find(tmp_path, gpu=gpu, nvml=Nvml)
        assert source is not None
        assert source.name == "ina3221 VDD_IN"
    assert source.watts is not None
    assert source.watts() == pytest.approx(10)


def test_rapl_counts_through_a_wrap(tmp_path, plant):
    plant(RAPL)
    plant({"sys/class/powercap/intel-rapl:0:0/energy_uj": "5", "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "10"})
    source, _ = energy.find(tmp_path, nvml=absent)
    assert source is not None
    assert source.joules is not None
    start = source.joules()
    plant({"sys/class/powercap/intel-rapl:0/energy_uj": "2000000"})
    assert source.joules() - start == pytest.approx(3)


def test_nvml_reads_the_gpu_counter(tmp_path):
    source, _ = energy.find(tmp_path, gpu=True, nvml=Nvml)
    assert source is not None
    assert source.name == "nvml"
    assert source.joules is not None
    assert source.joules() == 5


def test_the_processor_that_the_engine_runs_on_is_read(tmp_path, plant):
    assert energy.find(tmp_path, gpu=False, nvml=Nvml)[0] is None, "the idle GPU says nothing of an engine on the CPU"
    plant(RAPL)
    for gpu, name in ((True, "nvml"), (False, "rapl")):
        source, _ = energy.find(tmp_path, gpu=gpu, nvml=Nvml)
        assert source is not None
        assert source.name == name
    assert energy.find(tmp_path, gpu=True, nvml=absent)[0] is None, "the processor says nothing of an engine on the GPU"


def test_idle_power_is_subtracted(clock):
    used = [0.0]

    def sleep(seconds, watts=5):
        clock.spend(seconds)
        used[0] += watts * seconds

    source = energy.Source("fake", "all", joules=lambda: used[0])
    figures = energy.per_image(lambda: sleep(0.5, 20), 4, source, seconds=2, clock=clock, sleep=sleep)
    assert figures.idle_watts == pytest.approx(5)
    assert figures.watts == pytest.approx(20)
    assert figures.mj_per_image_total == pytest.approx(2500)
    assert figures.mj_per_image == pytest.approx(1875)


def test_a_source_of_power_is_integrated():
    source = energy.Source("fake", "all", watts=lambda: 12.0)
    with energy.Meter(source, period_s=0.005) as meter:
        time.sleep(0.05)
    assert meter.joules / meter.seconds == pytest.approx(12, rel=0.1)
