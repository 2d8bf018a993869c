"""Round activations that cannot be negative to uint8: the same range in twice the steps."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edge.graph import prune

KEEPS_SIGN = frozenset({"DequantizeLinear", "MaxPool", "QuantizeLinear"})


def positive(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. A pair on an activation that cannot be negative (from a Relu, or a Clip from 0 on, through
       any MaxPool) gets zero point 0 of uint8 and scale · 127/255: half the rounding error, and on
       x86 the type that the kernels take anyway. After a Clip the range ends at its upper bound at
       the latest; a runtime then drops the Clip.
    2. Every other pair stays int8: a zero point would cost OpenVINO nodes of their own.
    """
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    source = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        bound = upper_bound(node.input[0], source, constants) if node.op_type == "QuantizeLinear" else None
        if bound is None:
            continue
        scale = np.float32(numpy_helper.to_array(constants[node.input[1]]) * (127 / 255))
        if scale * np.float32(255) > bound:
            scale = np.nextafter(np.float32(bound / 255), np.float32(0))
        for position, name, value in ((1, f"{node.input[1]}/uint8", np.asarray(scale)), (2, "uint8_0", np.zeros((), np.uint8))):
            if name not in constants:
                constants[name] = graph.initializer.add()
                constants[name].CopyFrom(numpy_helper.from_array(value, name))
            node.input[position] = name
    for node in graph.node:  # the pair's second half follows the first
        if node.op_type == "DequantizeLinear" and node.input[0] in source:
            node.input[1:] = source[node.input[0]].input[1:]
    prune(graph)
    return model


def upper_bound(value: str, source: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> float | None:
    """The upper bound of a value that cannot be negative (infinity after a Relu), None where it can
    be."""
    node = source.get(value)
    while node is not None and node.op_type in KEEPS_SIGN:
        node = source.get(node.input[0])
    if node is None:
        return None
    if node.op_type == "Relu":
        return np.inf
    if (
        node.op_type == "Clip"
        and len(node.input) > 1
        and node.input[1] in constants
        and numpy_helper.to_array(constants[node.input[1]]) == 0
    ):
        return float(numpy_helper.to_array(constants[node.input[2]])) if len(node.input) > 2 and node.input[2] in constants else np.inf
    return None
