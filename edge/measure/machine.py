"""The machine a figure holds for: what it is, and what happened to it while something was measured.

Everything is read from ``/proc`` and ``/sys`` below a root, so that tests can hand in a tree of their own. What is not
there is left out or None; nothing here raises.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What decides the speed of 8-bit and 16-bit arithmetic, in the kernel's spelling (x86, then Arm).
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_tile")
INSTRUCTIONS_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
BUSY_ELSEWHERE = 0.10  # share of all cores that other processes may take before a run is called disturbed
STOLEN = 0.02
SLOWED = 0.90  # lowest clock, as a share of the highest seen, that is no throttling


def describe(root: Path = Path("/")) -> dict[str, Any]:
    """The machine in plain types, for every report.

    Returns:
        ``cpu``, ``architecture``, ``cores`` (this process may use), ``cores_online``, ``instructions``, ``memory_mb``,
        ``governor``, ``clock_mhz``, ``system``, ``python``, ``container`` {``cpu_limit``, ``memory_limit_mb``},
        ``gpu`` and ``jetson`` {``model``, ``power_mode``} where there is one.
    """
    processors = _text(root / "proc/cpuinfo")
    flags = set(_field(processors, "flags", "Features").split())
    clock = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    facts: dict[str, Any] = {
        "cpu": _field(processors, "model name", "Model", "Hardware") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cores_online": os.cpu_count() or 1,
        "instructions": [name for name in (*INSTRUCTIONS, *INSTRUCTIONS_ARM) if name in flags],
        "memory_mb": _kilobytes(_text(root / "proc/meminfo"), "MemTotal"),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "clock_mhz": clock / 1e3 if clock is not None else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "container": {"cpu_limit": _cpu_limit(root), "memory_limit_mb": _memory_limit_mb(root)},
    }
    gpu = [_field(_text(path), "Model") for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))]
    if gpu:
        facts["gpu"] = gpu
    board = _text(root / "proc/device-tree/model").strip("\0 \n")
    if board:
        facts["jetson"] = {"model": board, "power_mode": _power_mode(root)}
    return facts


def sentence(machine: Mapping[str, Any]) -> str:
    """The description in one line."""
    wide = [name.replace("_", "-") for name in machine.get("instructions", []) if name not in ("amx_tile",)]
    parts = [
        machine.get("jetson", {}).get("model") or machine.get("cpu", "unknown processor"),
        f"{machine.get('cores')} of {machine.get('cores_online')} cores",
        " ".join(wide[-5:]),
        f"{machine['memory_mb'] / 1024:.0f} GB" if machine.get("memory_mb") else "",
        *(machine.get("gpu") or []),
        f"power mode {machine['jetson']['power_mode']}" if machine.get("jetson", {}).get("power_mode") else "",
        f"governor {machine['governor']}" if machine.get("governor") else "",
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
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
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
    """What happened to the machine during a run, as sentences for the verdict."""

    reasons: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def between(before: State, after: State, *, own_s: float | None = None) -> Disturbance:
    """Throttling, a falling clock, stolen time and other processes, between two states.

    Args:
        own_s: processor seconds that the measurement itself used, where it ran in other processes.
    """
    reasons = []
    total = after.total - before.total
    own = (after.own - before.own) + (own_s or 0.0)
    elsewhere = max(0.0, (after.busy - before.busy) - own) / total if total > 0 else 0.0
    stolen = (after.stolen - before.stolen) / total if total > 0 else 0.0
    if after.throttled is not None and before.throttled is not None and after.throttled > before.throttled:
        reasons.append(f"throttled: {after.throttled - before.throttled} thermal events during the run")
    if before.clock_mhz and after.clock_mhz and after.clock_mhz < SLOWED * before.clock_mhz:
        reasons.append(f"throttled: the clock fell from {before.clock_mhz:.0f} to {after.clock_mhz:.0f} MHz")
    if elsewhere > BUSY_ELSEWHERE:
        reasons.append(f"disturbed: other processes took {elsewhere:.0%} of the processor, at most {BUSY_ELSEWHERE:.0%} will do")
    if stolen > STOLEN:
        reasons.append(f"disturbed: the hypervisor took {stolen:.0%} of the processor, at most {STOLEN:.0%} will do")
    facts = {"busy_elsewhere": round(elsewhere, 4), "stolen": round(stolen, 4), "clock_mhz": [before.clock_mhz, after.clock_mhz]}
    return Disturbance(tuple(reasons), facts)


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


def _kilobytes(text: str, name: str) -> float | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def _field(text: str, *names: str) -> str:
    for name in names:
        found = re.search(rf"^{name}\s*:[ \t]*(.*)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return ""


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
