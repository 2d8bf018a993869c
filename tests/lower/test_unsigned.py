"""uint8 activations that stand for the same values, int32 biases, weights of 7 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.cpu import needs_reduced_range
from edge.lower.replace_ops import replace_ops
from edge.lower.unsigned import unsigned


class Found:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in model.graph.node}
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.source = {name: node for node in model.graph.node for name in node.output}

    def pair(self, value: str) -> tuple[float, np.ndarray]:
        """Scale and zero point with which a value is rounded; both halves must agree."""
        rounding = next(node for node in self.nodes.values() if node.op_type == "QuantizeLinear" and node.input[0] == value)
        restoring = next(node for node in self.nodes.values() if node.op_type == "DequantizeLinear" and node.input[0] == rounding.output[0])
        assert list(rounding.input[1:]) == list(restoring.input[1:])
        return float(self.constants[rounding.input[1]]), self.constants[rounding.input[2]]


def test_after_relu_and_pooling_the_same_range_has_twice_the_steps(quantised: onnx.ModelProto) -> None:
    scale, zero = Found(unsigned(quantised, reduced_range=False)).pair("global/pool/out")
    assert (zero.dtype, int(zero)) == (np.dtype(np.uint8), 0)
    assert scale == pytest.approx(0.05 * 127 / 255)


def test_the_range_after_a_clip_ends_at_its_bound(quantised: onnx.ModelProto) -> None:
    for each in quantised.graph.initializer:
        if each.name.endswith("block.conv2/in/scale"):
            each.CopyFrom(numpy_helper.from_array(np.float32(9 / 127).reshape(()), each.name))
    scale, zero = Found(unsigned(quantised, reduced_range=False)).pair("global/block/clip/out")
    assert int(zero) == 0
    assert 5.9999 < np.float32(scale) * np.float32(255) <= 6


def test_a_value_of_both_signs_is_shifted_by_128_and_keeps_its_scale(quantised: onnx.ModelProto) -> None:
    node = next(node for node in quantised.graph.node if node.name == "global/block/clip")
    node.op_type = "Identity"  # the value may be negative now
    del node.input[1:]
    scale, zero = Found(unsigned(quantised, reduced_range=False)).pair("global/block/clip/out")
    assert (zero.dtype, int(zero)) == (np.dtype(np.uint8), 128)
    assert scale == pytest.approx(0.05)


def test_biases_become_integers_of_the_product_of_the_scales(quantised: onnx.ModelProto) -> None:
    exact = {each.name: numpy_helper.to_array(each) for each in quantised.graph.initializer}
    found = Found(unsigned(quantised, reduced_range=False))
    for stream in ("global", "local"):
        convolution = found.nodes[f"{stream}/last"]
        integers, steps, _ = (found.constants[name] for name in found.source[convolution.input[2]].input)
        scales = [found.constants[found.source[name].input[1]] for name in convolution.input[:2]]
        assert integers.dtype == np.int32
        np.testing.assert_allclose(steps, scales[0] * scales[1], rtol=1e-6)
        np.testing.assert_allclose(integers * steps, exact["last.bias"], atol=float(steps.max()))
        assert found.nodes[f"{stream}/stem"].input[2] == "stem.bias"  # not quantised: float bias
        assert found.nodes[f"{stream}/classifier"].input[2] == "classifier.bias"
    assert "last.bias" not in found.constants


def test_a_bias_beyond_32_bits_stays_float(quantised: onnx.ModelProto) -> None:
    for each in quantised.graph.initializer:
        if each.name == "last.steps":
            each.CopyFrom(numpy_helper.from_array(np.full(16, 1e-12, np.float32), each.name))
    found = Found(unsigned(quantised, reduced_range=False))
    assert found.nodes["global/last"].input[2] == "last.bias"


def test_reduced_range_keeps_two_products_within_16_bits(quantised: onnx.ModelProto) -> None:
    before = {each.name: numpy_helper.to_array(each) for each in quantised.graph.initializer}
    found = Found(unsigned(quantised, reduced_range=True))
    for layer in ("block.conv1", "block.conv2", "last"):
        weights, steps = found.constants[f"{layer}.int8"].astype(int), found.constants[f"{layer}.steps"]
        assert 2 * 255 * np.abs(weights).max() <= 2**15 - 1
        step = steps.reshape(-1, 1, 1, 1)
        assert (np.abs(weights * step - before[f"{layer}.int8"] * 0.01) <= step * 0.5001).all()  # scaled once, though both streams read it


def test_the_answers_are_those_of_the_signed_graph(
    quantised: onnx.ModelProto, image: np.ndarray, run: Callable[[onnx.ModelProto, np.ndarray], list[np.ndarray]]
) -> None:
    signed = onnx.ModelProto()
    signed.CopyFrom(quantised)
    expected = run(replace_ops(signed, crop="matmul"), image)
    lowered = replace_ops(unsigned(quantised, reduced_range=needs_reduced_range()), crop="matmul")
    onnx.checker.check_model(lowered, full_check=True)
    for value, truth in zip(run(lowered, image), expected, strict=True):
        if value.dtype == np.float32 and value.ndim == 2:
            assert np.abs(value - truth).max() < 0.1


def test_pooling_between_equal_scales_selects_among_integers(quantised: onnx.ModelProto) -> None:
    nodes = {node.name: node for node in quantised.graph.node}
    pooled, relu = nodes["global/pool"], "global/stem/relu/out"
    pair = list(nodes["global/block.conv1/in/q"].input[1:])
    extra = [
        onnx.helper.make_node("QuantizeLinear", [relu, *pair], ["pre/int8"], name="pre/q"),
        onnx.helper.make_node("DequantizeLinear", ["pre/int8", *pair], ["pre/dq"], name="pre/dq"),
    ]
    position = [node.name for node in quantised.graph.node].index("global/pool")
    pooled.input[0] = "pre/dq"
    for node in reversed(extra):
        quantised.graph.node.insert(position, node)
    shortcut = nodes["global/block/shortcut/q"]  # one rounding for both readers, as placement leaves it
    quantised.graph.node.remove(shortcut)
    nodes["global/block/shortcut/dq"].input[0] = nodes["global/block.conv1/in/q"].output[0]

    found = Found(unsigned(quantised, reduced_range=False))
    onnx.checker.check_model(quantised, full_check=True)
    assert found.source[found.nodes["global/pool"].input[0]].op_type == "QuantizeLinear"
    assert found.nodes["global/pool"].output[0] == found.nodes["global/block.conv1/in/dq"].input[0]
    assert "pre/dq" not in found.nodes
    assert found.source[found.nodes["local/pool"].input[0]].op_type == "Relu"
