"""The two custom ops of the canonical graph, domain ``edge``: one file each with name, schema, NumPy reference and
decompositions into standard ONNX nodes."""

from __future__ import annotations

DOMAIN = "edge"
VERSION = 1


def register_schemas() -> None:
    """Make both ops known to ``onnx.checker`` and ``onnx.shape_inference``; calling it again changes nothing."""
    from edge.ops import region_boxes, roi_resize

    region_boxes.register_schema()
    roi_resize.register_schema()
