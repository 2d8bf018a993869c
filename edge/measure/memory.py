"""Resident memory of this process, in megabytes (2**20 bytes)."""

from __future__ import annotations

import sys
from pathlib import Path

from edge.cpu import kernel_field


def resident_mb(status: Path = Path("/proc/self/status")) -> float | None:
    """Memory held now; None where nothing tells it."""
    held = megabytes(status, "VmRSS")
    if held is None:
        try:
            import psutil
        except ImportError:
            return None
        held = psutil.Process().memory_info().rss / 2**20
    return held


def peak_mb(status: Path = Path("/proc/self/status")) -> float | None:
    """Most memory ever held.

    ``/proc`` first: ``ru_maxrss`` survives exec, so a small process started by a large one would
    show the large one's.
    """
    peak = megabytes(status, "VmHWM")
    if peak is None:
        try:
            import resource
        except ImportError:
            return resident_mb(status)
        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return peak


def reset_peak(switch: Path = Path("/proc/self/clear_refs")) -> bool:
    """Let the peak start again from what is held now (Linux 4.0 and later); False where that is not
    possible."""
    try:
        switch.write_text("5")
    except OSError:
        return False
    return True


def megabytes(table: Path, name: str) -> float | None:
    """A field in kB of a table of the kernel's."""
    kilobytes = kernel_field(table, name).removesuffix("kB").strip()
    return int(kilobytes) / 1024 if kilobytes.isdigit() else None
