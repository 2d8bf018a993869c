"""Canonical graph → what a backend parses. One rewrite per file; the tables here say which row needs which."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import onnx

from edge.errors import EdgeError, one_of
from edge.lower.stages import stages
from edge.spec import TargetSpec

# Row → its passes, in order. Each is a module here with a function of the same name: model -> model.
# ``tensorrt`` keeps the nodes of our plugin; ``standard-nodes`` replaces them and leaves all else as it is.
PASSES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("residual_adds", "unsigned", "replace_ops"),
    "openvino": ("residual_adds", "sixteen_bit", "replace_ops"),
    "tensorrt": ("sixteen_bit",),
    "standard-nodes": ("sixteen_bit", "replace_ops"),
}
# The form of the crop, fastest first by measurement (docs/lowering.md).
CROPS: Mapping[str, str] = {"onnxruntime": "matmul", "openvino": "grid_sample_each", "standard-nodes": "grid_sample"}
QUANTISED_ONLY = frozenset({"residual_adds", "unsigned"})


def lower(
    model: onnx.ModelProto, *, backend: str, precision: str, float16: str | None = None, reduced_range: bool | None = None
) -> onnx.ModelProto:
    """The graph as ``backend`` should see it.

    Args:
        model: canonical graph, with Q/DQ where the precision is int8; not changed.
        backend: a key of ``PASSES``: the row that a backend says it takes (``edge.backends.lowering``).
        precision: ``fp32``, ``fp16`` or ``int8``.
        float16: ``bf16`` or ``fp16`` types the backbones so, in any precision; None keeps them in float32.
        reduced_range: whether int8 weights get 7 bits, where the row makes activations unsigned (``TargetSpec.reduced_range``).
    """
    if backend not in PASSES:
        raise EdgeError("lower", f"There is no lowering for a backend {backend!r}", f"Change `backend` to {one_of(PASSES)}")
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    for name in PASSES[backend]:
        if (name in QUANTISED_ONLY and precision != "int8") or (name == "sixteen_bit" and float16 is None):
            continue
        rewrite = getattr(import_module(f"edge.lower.{name}"), name)
        options = {
            "replace_ops": {"crop": CROPS.get(backend)},
            "sixteen_bit": {"float16": float16},
            "unsigned": {"reduced_range": bool(reduced_range)},
        }.get(name, {})
        lowered = rewrite(lowered, **options)
    return lowered


def lower_stages(model: onnx.ModelProto, target: TargetSpec, *, row: str) -> dict[str, bytes]:
    """Every stage of a canonical graph as a target should see it, by name (``edge.lower.stages``), serialised.

    Args:
        row: of ``PASSES``.
    """
    options = {"precision": target.precision, "float16": target.float16, "reduced_range": target.reduced_range}
    return {name: lower(stage, backend=row, **options).SerializeToString(deterministic=True) for name, stage in stages(model).items()}


def reference(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph in standard nodes for ONNX Runtime that every engine is judged against; ``model`` is not changed."""
    return lower(model, backend="onnxruntime", precision="fp32")
