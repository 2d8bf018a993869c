"""Region-attention multi-label recognisers on edge devices: build, measure and run engine bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.engine import Engine, Prediction

__version__ = "0.1.0"
__all__ = ["EdgeError", "Engine", "Prediction", "__version__"]

_HOMES = {"Engine": "edge.engine", "Prediction": "edge.engine", "EdgeError": "edge.errors"}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import edge` costs neither NumPy nor a vendor library.
    if name not in _HOMES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
