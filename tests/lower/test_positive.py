"""Activations that cannot be negative: uint8 with zero point 0, everything else as it was."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edge.lower.positive import positive


def pair_of(model: onnx.ModelProto, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of the pair on a value; both halves must agree."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == value)
    other = next(each for each in model.graph.node if each.op_type == "DequantizeLinear" and each.input[0] == node.output[0])
    assert list(node.input[1:]) == list(other.input[1:])
    return constants[node.input[1]], constants[node.input[2]]


def test_steps_double_after_an_activation_and_nowhere_else(quantised: onnx.ModelProto) -> None:
    rounded = {node.input[0] for node in quantised.graph.node if node.op_type == "QuantizeLinear"}
    signed = next(node for node in quantised.graph.node if node.op_type == "Relu" and node.output[0] in rounded)
    signed.op_type = "LeakyRelu"
    before = {node.input[0]: pair_of(quantised, node.input[0]) for node in quantised.graph.node if node.op_type == "QuantizeLinear"}
    source = {name: node.op_type for node in quantised.graph.node for name in node.output}
    made = positive(quantised)
    onnx.checker.check_model(made)
    kinds = set()
    for value, (scale, zero) in before.items():
        now, now_zero = pair_of(made, value)
        kinds.add(now_zero.dtype.name)
        if source.get(value) in ("Relu", "Clip", "MaxPool"):
            assert now_zero.dtype == np.uint8
            assert now_zero == 0
            assert now <= scale * 127 / 255 * (1 + 1e-6)
        else:
            assert (now, now_zero, now_zero.dtype) == (scale, zero, np.int8)
    assert kinds == {"int8", "uint8"}


def test_weights_stay_int8(quantised: onnx.ModelProto) -> None:
    kinds = {each.name: each.data_type for each in positive(quantised).graph.initializer if each.name.endswith(".int8")}
    assert kinds
    assert set(kinds.values()) == {onnx.TensorProto.INT8}
