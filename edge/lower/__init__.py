"""Canonical graph → what a backend parses. One rewrite per file; the tables here say which row
needs which."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx

from edge.errors import EdgeError, one_of
from edge.graph import FLOAT32_PREFIX, WHOLE
from edge.lower.float32_names import float32_names
from edge.lower.opset_17 import opset_17
from edge.lower.positive import positive
from edge.lower.replace_ops import replace_ops
from edge.lower.residual_adds import residual_adds
from edge.lower.sixteen_bit import sixteen_bit
from edge.lower.stages import stages
from edge.lower.uint8_input import uint8_input
from edge.lower.unsigned import unsigned
from edge.spec import ImageSpec, TargetSpec

# Row → its passes, in order: each a module here. Those of int8 and of 16-bit floats are left out
# where there is nothing to do. ``tensorrt`` and ``tensorrt-8`` (8.5 and 8.6) keep the nodes of our
# plugin; ``standard-nodes`` replaces them and leaves all else as it is.
PASSES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("residual_adds", "unsigned", "replace_ops"),
    "openvino": ("residual_adds", "positive", "sixteen_bit", "replace_ops"),
    "tensorrt": ("sixteen_bit",),
    "tensorrt-8": ("float32_names", "opset_17"),
    "standard-nodes": ("sixteen_bit", "replace_ops"),
}
# The form of the crop, fastest first by measurement (docs/lowering.md).
CROPS: Mapping[str, str] = {"onnxruntime": "matmul", "openvino": "grid_sample_each", "standard-nodes": "matmul"}


def lower(
    model: onnx.ModelProto,
    *,
    backend: str,
    precision: str,
    float16: str | None = None,
    reduced_range: bool | None = None,
    image: ImageSpec | None = None,
) -> onnx.ModelProto:
    """The graph as ``backend`` should see it.

    Args:
        model: canonical graph, with Q/DQ where the precision is int8; not changed.
        backend: a key of ``PASSES``: the row that a backend says it takes
            (``edge.backends.lowering``).
        precision: ``fp32``, ``fp16`` or ``int8``.
        float16: ``bf16`` or ``fp16`` types the backbones so, in any precision; None keeps them in
            float32.
        reduced_range: whether int8 weights get 7 bits, where the row makes activations unsigned
            (``TargetSpec.reduced_range``).
        image: where its ``input`` is uint8, the graph takes bytes and normalises them by it.
    """
    if backend not in PASSES:
        raise EdgeError("lower", f"There is no lowering for the backend {backend!r}", f"Change `backend` to {one_of(PASSES)}")
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    for name in PASSES[backend]:
        if name == "replace_ops":
            lowered = replace_ops(lowered, crop=CROPS[backend])
        elif name == "sixteen_bit" and float16 is not None:
            lowered = sixteen_bit(lowered, float16=float16)
        elif name == "float32_names" and float16 is not None:
            lowered = float32_names(lowered)
        elif name == "opset_17":
            lowered = opset_17(lowered)
        elif name == "residual_adds" and precision == "int8":
            lowered = residual_adds(lowered)
        elif name == "positive" and precision == "int8":
            lowered = positive(lowered)
        elif name == "unsigned" and precision == "int8":
            lowered = unsigned(lowered, reduced_range=bool(reduced_range))
    if image is not None and image.input == "uint8":  # in every row, and last: no pass knows of bytes
        named = "float32_names" in PASSES[backend] and float16 is not None
        lowered = uint8_input(lowered, image, prefix=FLOAT32_PREFIX if named else "")
    return lowered


def lower_stages(
    model: onnx.ModelProto, target: TargetSpec, *, row: str, in_stages: bool, image: ImageSpec | None = None
) -> dict[str, bytes]:
    """A canonical graph as a target should see it, serialised: its stages (``edge.lower.stages``)
    by name, or whole.

    Args:
        row: of ``PASSES``.
        in_stages: whether the target's backend takes stages.
        image: as in ``lower``.
    """
    lowered = partial(
        lower, backend=row, precision=target.precision, float16=target.float16, reduced_range=target.reduced_range, image=image
    )
    parts = stages(model) if in_stages else {WHOLE: model}
    return {name: lowered(part).SerializeToString(deterministic=True) for name, part in parts.items()}


def reference(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph in standard nodes for ONNX Runtime that every engine is judged against;
    ``model`` is not changed."""
    return lower(model, backend="onnxruntime", precision="fp32")
