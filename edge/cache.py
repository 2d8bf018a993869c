"""Where what can be made again is kept: engines' timings, kernels, reference outputs, the plugin
built for this machine."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/mcar-edge/<name>``, else ``~/.cache/mcar-edge/<name>``; it may not be there
    yet.

    Without a home (a container's user who has none) it is a place where nothing can be kept, nor be
    found.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mcar-edge" / name
