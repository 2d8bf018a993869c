"""What this machine's processor can do, where results depend on it."""

from __future__ import annotations

import platform
from pathlib import Path

VNNI = ("avx512_vnni", "avx_vnni")  # as Linux names them


def needs_reduced_range() -> bool:
    """Whether kernels for uint8 × int8 add pairs of products in 16 bits here: x86 without VNNI, or not known."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return not set(VNNI) & set(flags)
