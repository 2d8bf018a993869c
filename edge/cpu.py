"""What this machine's processor can do, where results depend on it, and how much of it this process
may use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

# What decides the speed of 8-bit and 16-bit arithmetic, in the kernel's spelling: x86, then Arm.
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_tile"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
VNNI = ("avx512_vnni", "avx_vnni")


def cores() -> int:
    """Cores that this process may run on."""
    # Only Linux tells a process which cores are its own: elsewhere the function is missing.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_field(table: Path, *names: str) -> str:
    """The first of these fields that a table of the kernel has, as ``/proc/cpuinfo`` is one; empty
    where it has none of them."""
    try:
        told = table.read_text(errors="replace")
    except OSError:
        return ""
    found = (re.search(rf"^{name}\s*:[ \t]*(.*)$", told, re.MULTILINE) for name in names)
    return next((field[1].strip() for field in found if field), "")


def instructions(root: Path = Path("/")) -> tuple[str, ...]:
    """Which of ``INSTRUCTIONS`` the processor has; none where nothing tells it."""
    flags = kernel_field(root / "proc/cpuinfo", "flags", "Features").split()
    return tuple(name for name in INSTRUCTIONS if name in flags)


def needs_reduced_range(root: Path = Path("/")) -> bool:
    """Whether kernels for uint8 × int8 add pairs of products in 16 bits here: x86 without VNNI, or
    not known."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return x86 and not set(VNNI) & set(instructions(root))
