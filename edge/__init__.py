"""Region-attention multi-label recognisers on edge devices: build, measure and run engine
bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.errors import EdgeError
    from edge.prediction import Prediction
    from edge.video.frames import stream

__version__ = "0.2.0"
__all__ = ["EdgeError", "Engine", "Prediction", "__version__", "stream"]

_HOMES = {"Engine": "edge.engine", "Prediction": "edge.prediction", "EdgeError": "edge.errors", "stream": "edge.video.frames"}


# Lazy, so that `import edge` costs neither NumPy nor a vendor library.
def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    from importlib import import_module

    home = import_module(_HOMES[name])
    found: object = vars(home)[name]
    return found
