"""The machine is read from a tree: here one made up, and once the real one."""

from __future__ import annotations

import json

import pytest

from edge.measure import machine, memory
from edge.plain import to_plain


def stat(user, idle, steal=0):
    return f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n"


def test_description_holds_what_decides_the_speed(plant):
    root = plant(
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast CPU 9\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n",
            "proc/meminfo": "MemTotal:       2097152 kB\nMemFree: 1 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
        },
    )
    facts = machine.describe(root)
    assert facts.cpu == "Fast CPU 9"
    assert facts.instructions == ("avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert (facts.memory_mb, facts.governor, facts.clock_mhz) == (2048, "performance", 2400)
    assert facts.container == machine.Container(1.5, 1024)
    assert "jetson" not in to_plain(facts)
    line = machine.sentence(facts)
    assert "Fast CPU 9" in line
    assert "amx-int8" in line
    json.dumps(to_plain(facts), allow_nan=False)


def test_jetson_names_its_board_and_power_mode(plant):
    root = plant(
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            "var/lib/nvpmodel/status": "pmode:0002",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0002 NAME=15W >\n< POWER_MODEL ID=0 NAME=MAXN >\n",
        },
    )
    facts = machine.describe(root)
    assert facts.jetson == machine.Jetson("NVIDIA Jetson Orin Nano", "0002 (15W)")
    assert "power mode 0002 (15W)" in machine.sentence(facts)


def test_an_empty_machine_still_answers(tmp_path):
    facts = machine.describe(tmp_path)
    assert facts.instructions == ()
    assert facts.memory_mb is None
    assert machine.sentence(facts)
    assert machine.between(machine.state(tmp_path), machine.state(tmp_path))[0] == ()


def test_version_one_of_the_cgroup_limits_is_read(plant):
    root = plant(
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert machine.describe(root).container == machine.Container(0.5, None)


def test_throttling_and_a_falling_clock_are_found(plant):
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    clock = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    before = machine.state(plant({"proc/stat": stat(100, 900), count: "3", clock: "2000000"}))
    after = machine.state(plant({"proc/stat": stat(100, 1900), count: "5", clock: "1500000"}))
    reasons, _ = machine.between(before, after)
    assert any("2 thermal events" in reason for reason in reasons)
    assert any("from 2000 to 1500 MHz" in reason for reason in reasons)


def test_other_processes_and_stolen_time_disturb(plant):
    before = machine.state(plant({"proc/stat": stat(0, 0)}))
    after = machine.state(plant({"proc/stat": stat(50_000, 45_000, 5_000)}))
    text = "; ".join(machine.between(before, after)[0])
    assert "other processes took 50%" in text
    assert "hypervisor took 5%" in text


def test_memory_is_read_from_the_status_file(tmp_path):
    status = tmp_path / "status"
    status.write_text("VmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n")
    assert memory.peak_mb(status) == 200
    assert memory.resident_mb(status) == 100


def test_peak_can_start_again():
    held = bytearray(64 << 20)
    high = memory.peak_mb()
    del held
    if not memory.reset_peak():
        pytest.skip("this kernel does not reset the peak")
    assert memory.peak_mb() < high - 32


def test_memory_is_found_without_proc(tmp_path):
    peak, held = memory.peak_mb(tmp_path / "none"), memory.resident_mb(tmp_path / "none")
    assert peak is not None
    assert peak > 1
    if held is not None:
        assert held > 1


def test_this_machine_can_be_described():
    facts = machine.describe()
    assert facts.cores >= 1
    assert facts.cpu
    before = machine.state()
    assert machine.between(before, machine.state())[1].busy_elsewhere >= 0
    with pytest.raises(AttributeError):
        before.busy = 0  # type: ignore[misc]
