"""Mark, by name, the nodes that must compute in float32 where the runtime chooses types itself
(TensorRT 8)."""

from __future__ import annotations

import onnx

from edge.graph import FLOAT32_PREFIX
from edge.lower.backbone import backbones


def float32_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite the canonical ``model`` in place and return it.

    1. The name of every node outside the backbones, ``edge.lower.backbone.backbones``, gets the
       prefix ``float32/``: what decides about classes and boxes, as in ``sixteen_bit``.
    2. QuantizeLinear and DequantizeLinear keep theirs: their types follow from what they stand
       between.
    """
    inside, _ = backbones(model)
    for node in model.graph.node:
        if node.name not in inside and not node.op_type.endswith("Linear"):
            node.name = FLOAT32_PREFIX + node.name
    return model
