"""The C++ runtime through its C API: whether it looks at the regions that Python looks at, and how
long it takes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge.backends.base import Facts
from edge.engine import Engine

POINTERS = ("scores", "global_scores", "local_scores", "regions", "region_classes")


class Outputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS]


def compare(library: Path, bundle: Path, images: Iterable[np.ndarray]) -> Facts:
    """Both runtimes at the bundle's effort over the same images, one after another.

    Args:
        library: ``libmcar_edge.so``, built with the bundle's backend.
        images: (1, 3, S, S) float32 each.

    Raises:
        RuntimeError: the runtime refuses the bundle, with its words.
    """
    api = ctypes.CDLL(str(library))
    api.edge_engine_error.restype = ctypes.c_char_p
    api.edge_engine_free.argtypes = [ctypes.c_void_p]
    handle = ctypes.c_void_p()
    if api.edge_engine_load(os.fsencode(bundle), ctypes.byref(handle)):
        raise RuntimeError(api.edge_engine_error().decode())
    count = other = looks = 0
    error = 0.0
    try:
        with Engine.load(bundle) as engine:
            classes, regions = len(engine.labels), int(engine.spec.options["regions"])
            scores, looked = np.empty((1, classes), np.float32), np.empty((1, regions), np.uint8)
            outputs, own = Outputs(scores.ctypes.data), ctypes.c_double(-1)
            for image in images:
                expected = engine.infer(image)
                address = (image.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(1))
                if api.edge_engine_infer_within(handle, *address, own, own, ctypes.byref(outputs), looked.ctypes.data_as(ctypes.c_void_p)):
                    raise RuntimeError(api.edge_engine_error().decode())
                count, looks = count + 1, looks + int(looked.sum())
                other += not np.array_equal(looked.astype(bool), expected["regions_looked"])
                error = max(error, float(np.abs(scores - expected["scores"]).max()))
    finally:
        api.edge_engine_free(handle)
    return {"images": count, "images_with_other_regions": other, "mean_looks": looks / max(count, 1), "score_error": error}
