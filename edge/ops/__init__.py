"""The custom ops of the canonical graph, domain ``edge``: one file each with name, schema, NumPy
reference and decompositions into standard ONNX nodes."""

from __future__ import annotations

import atexit
from importlib import import_module

DOMAIN = "edge"
VERSION = 1
# Name → (its file, the first part of the names of its node and of the nodes that replace it).
OPS = {
    "RegionBoxes": ("edge.ops.region_boxes", "boxes"),
    "RoiResize": ("edge.ops.roi_resize", "crop"),
}


def register_schemas() -> None:
    """Make the ops known to ``onnx.checker`` and ``onnx.shape_inference``; calling it again changes
    nothing."""
    import onnx

    for name, (module, _) in OPS.items():
        if not onnx.defs.has(name, DOMAIN):
            import_module(module).register_schema()
            # onnx holds our shape rules, which are Python: it must let go of them while the
            # interpreter still runs.
            atexit.register(_deregister_schema, name)


def _deregister_schema(name: str) -> None:
    import onnx

    if onnx.defs.has(name, DOMAIN):
        onnx.defs.deregister_schema(name, VERSION, DOMAIN)
