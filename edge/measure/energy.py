"""Energy, where the machine can tell: INA3221 sensors on a Jetson, NVML on a GPU, RAPL on an x86
processor.

A source reads joules since some start, or watts now; ``Meter`` turns either into joules of a
stretch of time.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")  # the rail that feeds the whole Jetson module, by generation


@dataclass(frozen=True)
class Source:
    """Where energy is read.

    Attributes:
        name: of the source, for the report.
        covers: what the figure includes.
        joules: joules since some fixed start, or None for a source of power.
        watts: watts now, or None for a source of energy.
    """

    name: str
    covers: str
    joules: Callable[[], float] | None = None
    watts: Callable[[], float] | None = None


def find(root: Path = Path("/"), *, gpu: bool = False, nvml: Callable[[], ctypes.CDLL] | None = None) -> tuple[Source | None, str]:
    """The source that covers the processor an engine runs on: a Jetson's module, else the GPU or
    the processor, never the idle one.

    Args:
        gpu: whether the engine runs on a GPU.

    Returns:
        (source, ""), or (None, why energy is not available here).
    """
    module, without_module = _ina3221(root)
    if module:
        return module, ""
    source, reason = _nvml(nvml or _open_nvml) if gpu else _rapl(root)
    return source, "" if source else f"{without_module}; {reason}"


class Meter:
    """Joules between entering and leaving; watts are sampled and integrated in a thread.

    Args:
        source: from ``find``.
        period_s: seconds between samples of a source of power.
    """

    def __init__(self, source: Source, period_s: float = 0.02, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._period, self._clock = source, period_s, clock
        self.joules = self.seconds = 0.0

    def __enter__(self) -> Meter:
        self._start = self._clock()
        if self._source.joules:
            self._before = self._source.joules()
        else:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._integrate, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._source.joules:
            self.joules = self._source.joules() - self._before
        else:
            self._stop.set()
            self._thread.join()
        self.seconds = self._clock() - self._start

    def _integrate(self) -> None:
        assert self._source.watts
        last, power = self._start, self._source.watts()
        while not self._stop.wait(self._period):
            now, sample = self._clock(), self._source.watts()
            self.joules += (now - last) * (power + sample) / 2
            last, power = now, sample
        self.joules += (self._clock() - last) * power


@dataclass(frozen=True)
class Energy:
    """Energy of one image in millijoules, idle subtracted and not, with the power it was taken
    from.

    Attributes:
        source, covers: of the ``Source``.
    """

    source: str
    covers: str
    mj_per_image: float
    mj_per_image_total: float
    watts: float
    idle_watts: float


@dataclass(frozen=True)
class NoEnergy:
    """Why there is no figure of energy."""

    reason: str
    source: None = None


def per_image(
    call: Callable[[], object],
    images: int,
    source: Source,
    *,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Energy of one image, with and without what the idle machine takes anyway."""
    with Meter(source, clock=clock) as idle:
        sleep(seconds)
    calls = 0
    with Meter(source, clock=clock) as busy:
        start = clock()
        while clock() - start < seconds:
            call()
            calls += 1
    idle_watts = idle.joules / idle.seconds if idle.seconds else 0.0
    net = max(0.0, busy.joules - idle_watts * busy.seconds)
    return Energy(
        source=source.name,
        covers=source.covers,
        mj_per_image=1e3 * net / (calls * images),
        mj_per_image_total=1e3 * busy.joules / (calls * images),
        watts=busy.joules / busy.seconds if busy.seconds else 0.0,
        idle_watts=idle_watts,
    )


def _ina3221(root: Path) -> tuple[Source | None, str]:
    """Voltage and current of the rail that feeds the module; millivolts and milliamperes in hwmon
    files."""
    rails: dict[str, tuple[Path, Path]] = {}
    for label in root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"):
        number = label.name[2:-6]
        pair = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if all(path.is_file() for path in pair):
            rails[label.read_text().strip()] = pair
    name = next((name for name in TOTAL_RAILS if name in rails), None)
    if name is None:
        return None, "no INA3221 sensor of the module's input"
    volts, amperes = rails[name]
    return Source(f"ina3221 {name}", "the whole module", watts=lambda: float(volts.read_text()) * float(amperes.read_text()) / 1e6), ""


def _rapl(root: Path) -> tuple[Source | None, str]:
    """Package counters in microjoules; they wrap around, so every reading is added to what went
    before."""
    zones = sorted(path for path in root.glob("sys/class/powercap/intel-rapl:*") if path.name.count(":") == 1)
    if not zones:
        return None, "no RAPL counters (virtual machine, or another processor)"
    try:
        counters = [(zone / "energy_uj", float((zone / "max_energy_range_uj").read_text())) for zone in zones]
        last = [float(path.read_text()) for path, _ in counters]
    except PermissionError:
        return None, "RAPL counters are readable by root only"
    except (OSError, ValueError) as error:
        return None, f"RAPL counters do not read ({error})"
    summed = 0.0

    def joules() -> float:
        nonlocal summed
        for index, (path, wrap) in enumerate(counters):
            now = float(path.read_text())
            summed += (now - last[index]) % wrap
            last[index] = now
        return summed / 1e6

    return Source("rapl", f"{len(zones)} processor package{'s' if len(zones) > 1 else ''}, without memory and board", joules=joules), ""


def _nvml(open_library: Callable[[], ctypes.CDLL]) -> tuple[Source | None, str]:
    """Total energy of the first GPU since the driver was loaded, millijoules (Volta and later)."""
    try:
        library = open_library()
    except OSError:
        return None, "no NVML library"
    device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
        return None, "NVML finds no GPU"
    if library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)):
        return None, "this GPU does not count its energy"

    def joules() -> float:
        library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))
        return energy.value / 1e3

    return Source("nvml", "the first GPU, without processor and board", joules=joules), ""


def _open_nvml() -> ctypes.CDLL:
    return ctypes.CDLL("libnvidia-ml.so.1")
