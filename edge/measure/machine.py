"""The machine a figure holds for: what it is, and what happened to it while something was measured.

Everything is read from ``/proc`` and ``/sys`` below a root, so that tests can hand in a tree of
their own. What is not there is left out or None; nothing here raises.
"""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from edge import cpu
from edge.measure.memory import megabytes
from edge.plain import LEFT_OUT

BUSY_ELSEWHERE = 0.10  # share of all cores that other processes may take before a run is called disturbed
STOLEN = 0.02
SLOWED = 0.90  # lowest clock, as a share of the highest seen, that is no throttling


@dataclass(frozen=True)
class Container:
    """What a container allows; None where it sets no limit."""

    cpu_limit: float | None
    memory_limit_mb: float | None


@dataclass(frozen=True)
class Jetson:
    """A Jetson's board and its power mode."""

    model: str
    power_mode: str | None


@dataclass(frozen=True)
class Machine:
    """A machine, for every report; None for what it does not tell.

    Attributes:
        cores: that this process may use.
        instructions: of ``edge.cpu.INSTRUCTIONS``.
        gpu: names of the GPUs.
    """

    cpu: str
    architecture: str
    cores: int
    cores_online: int
    instructions: tuple[str, ...]
    memory_mb: float | None
    governor: str | None
    clock_mhz: float | None
    system: str
    python: str
    container: Container
    gpu: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    jetson: Jetson | None = field(default=None, metadata=LEFT_OUT)


def describe(root: Path = Path("/")) -> Machine:
    """This machine."""
    clock = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    gpus = [cpu.kernel_field(path, "Model") for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))]
    board = _text(root / "proc/device-tree/model").strip("\0 \n")
    return Machine(
        cpu=cpu.kernel_field(root / "proc/cpuinfo", "model name", "Model", "Hardware") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=cpu.cores(),
        cores_online=os.cpu_count() or 1,
        instructions=cpu.instructions(root),
        memory_mb=megabytes(root / "proc/meminfo", "MemTotal"),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        clock_mhz=clock / 1e3 if clock is not None else None,
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        container=Container(_cpu_limit(root), _memory_limit_mb(root)),
        gpu=tuple(gpus) or None,
        jetson=Jetson(board, _power_mode(root)) if board else None,
    )


def sentence(machine: Machine) -> str:
    """The description in one line."""
    wide = [name.replace("_", "-") for name in machine.instructions if name != "amx_tile"]
    jetson = machine.jetson
    parts = [
        (jetson.model if jetson else "") or machine.cpu or "unknown processor",
        f"{machine.cores} of {machine.cores_online} cores",
        " ".join(wide[-5:]),
        f"{machine.memory_mb / 1024:.0f} GB" if machine.memory_mb else "",
        *(machine.gpu or ()),
        f"power mode {jetson.power_mode}" if jetson and jetson.power_mode else "",
        f"governor {machine.governor}" if machine.governor else "",
    ]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class State:
    """The counters of one moment; two of them tell what happened between.

    Attributes:
        seconds: monotonic time.
        busy, stolen, total: processor seconds of all cores since boot.
        own: processor seconds of this process and its finished children.
        throttled: thermal throttle events since boot; None where they are not counted.
        clock_mhz: lowest current clock over the cores; None where it is not told.
    """

    seconds: float
    busy: float
    stolen: float
    total: float
    own: float
    throttled: int | None
    clock_mhz: float | None


def state(root: Path = Path("/")) -> State:
    """Read the counters now."""
    fields = [float(value) for value in _text(root / "proc/stat").split("\n")[0].split()[1:9]]
    user, nice, system, idle, wait, irq, soft, steal = [*fields, *[0.0] * (8 - len(fields))][:8]
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # Windows has no such function, and no counters either
    own = os.times()
    events = [_number(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    clocks = [_number(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [clock for clock in clocks if clock is not None]
    return State(
        seconds=time.monotonic(),
        busy=(user + nice + system + irq + soft) / tick,
        stolen=steal / tick,
        total=(user + nice + system + irq + soft + idle + wait + steal) / tick,
        own=own.user + own.system + own.children_user + own.children_system,
        throttled=int(sum(event for event in events if event is not None)) if events else None,
        clock_mhz=min(known) / 1e3 if known else None,
    )


@dataclass(frozen=True)
class Disturbance:
    """What happened to the machine during a run: shares of all cores' time, and the lowest clock
    before and after."""

    busy_elsewhere: float
    stolen: float
    clock_mhz: tuple[float | None, float | None]


def between(before: State, after: State, *, own_s: float = 0.0) -> tuple[tuple[str, ...], Disturbance]:
    """Throttling, a falling clock, stolen time and other processes, between two states.

    Args:
        own_s: processor seconds that the measurement itself used in other processes.

    Returns:
        (sentences for the verdict, empty where nothing disturbed; the figures).
    """
    reasons = []
    total = after.total - before.total
    own = (after.own - before.own) + own_s
    elsewhere = max(0.0, (after.busy - before.busy) - own) / total if total > 0 else 0.0
    stolen = (after.stolen - before.stolen) / total if total > 0 else 0.0
    if after.throttled is not None and before.throttled is not None and after.throttled > before.throttled:
        reasons.append(f"throttled: {after.throttled - before.throttled} thermal events during the run")
    if before.clock_mhz and after.clock_mhz and after.clock_mhz < SLOWED * before.clock_mhz:
        reasons.append(f"throttled: the clock fell from {before.clock_mhz:.0f} to {after.clock_mhz:.0f} MHz")
    if elsewhere > BUSY_ELSEWHERE:
        reasons.append(f"disturbed: other processes took {elsewhere:.0%} of the processor (limit {BUSY_ELSEWHERE:.0%})")
    if stolen > STOLEN:
        reasons.append(f"disturbed: the hypervisor took {stolen:.0%} of the processor (limit {STOLEN:.0%})")
    return tuple(reasons), Disturbance(round(elsewhere, 4), round(stolen, 4), (before.clock_mhz, after.clock_mhz))


def _cpu_limit(root: Path) -> float | None:
    """Cores the container may use: cgroup v2 ``cpu.max``, else v1 quota over period."""
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota:
        quota = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except ValueError:
        return None


def _memory_limit_mb(root: Path) -> float | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(root / "sys/fs/cgroup" / name)
        # The largest page-aligned number stands for "none".
        if limit is not None and limit < 1 << 60:
            return limit / 2**20
    return None


def _power_mode(root: Path) -> str | None:
    """The nvpmodel mode: its number in the status file, its name in the table beside it."""
    number = re.search(r"(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not number:
        return None
    name = re.search(rf"POWER_MODEL\s+ID={number[1]}\s+NAME=(\S+)\s*>", _text(root / "etc/nvpmodel.conf"))
    return f"{number[1]} ({name[1]})" if name else number[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path).strip())
    except ValueError:
        return None
