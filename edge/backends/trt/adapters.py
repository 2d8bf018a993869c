"""The two adapters to CUDA, by name.

``bindings`` is NVIDIA's cuda-bindings, in the device's primary context. ``pycuda`` is for an application that already
lives in a PyCUDA context: its context is used, in whichever thread calls.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.backends.trt.cuda import Bindings, Cuda
from edge.backends.trt.pycuda import PyCuda
from edge.errors import EdgeError, one_of

ADAPTERS: dict[str, Callable[[], Cuda]] = {"bindings": Bindings, "pycuda": PyCuda}


def open_cuda(name: str = "bindings") -> Cuda:
    """The adapter of that name: ``bindings`` or ``pycuda``."""
    if name not in ADAPTERS:
        raise EdgeError("cuda", f"There is no CUDA adapter {name!r}", f"Change `cuda` to {one_of(ADAPTERS)}")
    return ADAPTERS[name]()
