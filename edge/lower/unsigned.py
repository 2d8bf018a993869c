"""Turn signed int8 activations into uint8, as ONNX Runtime's x86 kernels want them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.graph import prune
from edge.lower.positive import positive

REDUCED = 63  # largest |weight| with 7 bits
INT32 = 2**31 - 1


def unsigned(model: onnx.ModelProto, *, reduced_range: bool) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. A pair on an activation that cannot be negative gets zero point 0 and twice the steps
       (``edge.lower.positive``).
    2. Every other pair gets zero point 128 and keeps its scale: the same steps, shifted.
    3. Biases of convolutions of which input and weights are quantised become int32 in steps of
       input scale × weight scale: the integer kernels add them so, and only some versions convert
       them by themselves. One that does not fit 32 bits stays float.
    4. Weights stay int8 per channel. With ``reduced_range`` they are rounded again to ±63 of a
       scale that grows accordingly: without VNNI the x86 kernels add two products in 16 bits, which
       255 · 127 · 2 exceeds.
    5. A MaxPool between two pairs of the same scale selects among the integers themselves; ONNX
       Runtime does not see that it could.
    """
    graph = positive(model).graph  # 1
    constants = {each.name: each for each in graph.initializer}
    source = {name: node for node in graph.node for name in node.output}
    added: dict[str, onnx.TensorProto] = {}

    def constant(name: str, value: np.ndarray) -> str:
        if name not in constants and name not in added:
            added[name] = numpy_helper.from_array(value, name)
        return name

    def array(name: str) -> np.ndarray:
        return numpy_helper.to_array(constants[name] if name in constants else added[name])

    for node in graph.node:
        if node.op_type == "QuantizeLinear" and not _is_uint8(constants[node.input[2]]):  # 2
            node.input[2] = constant("uint8_128", np.full((), 128, np.uint8))
    for node in graph.node:  # the pair's second half follows the first
        if node.op_type == "DequantizeLinear" and node.input[0] in source:
            node.input[1:] = source[node.input[0]].input[1:]

    nodes = list(graph.node)
    for node in nodes:
        if node.op_type == "MaxPool" and source.get(node.input[0], node).op_type == "DequantizeLinear":  # 5
            before = source[node.input[0]]
            readers = [each for each in nodes if node.output[0] in each.input]
            if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and _same(before, readers[0], array):
                node.input[0], node.output[0] = before.input[0], readers[0].output[0]
                graph.node.remove(readers[0])
    if reduced_range:
        for weight, scale in {
            (n.input[0], n.input[1]) for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
        }:  # 4
            constants[weight].CopyFrom(numpy_helper.from_array(np.round(array(weight) * (REDUCED / 127)).astype(np.int8), weight))
            constants[scale].CopyFrom(numpy_helper.from_array(array(scale) * np.float32(127 / REDUCED), scale))

    nodes = []
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in constants:  # 3
            data, weight = source.get(node.input[0]), source.get(node.input[1])
            if data is not None and weight is not None and {data.op_type, weight.op_type} == {"DequantizeLinear"}:
                steps = array(data.input[1]).astype(np.float64) * array(weight.input[1]).astype(np.float64)
                integers = np.round(array(node.input[2]) / steps)
                if np.abs(integers).max() <= INT32:
                    bias = f"{node.name}/bias"
                    inputs = [
                        constant(f"{bias}/int32", integers.astype(np.int32)),
                        constant(f"{bias}/scale", steps.astype(np.float32)),
                        constant(f"int32_zeros_{steps.size}", np.zeros(steps.size, np.int32)),
                    ]
                    nodes.append(helper.make_node("DequantizeLinear", inputs, [bias], name=bias, axis=0))
                    node.input[2] = bias
        nodes.append(node)

    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.values())
    prune(graph)
    return model


def _is_uint8(zero: onnx.TensorProto) -> bool:
    return zero.data_type == onnx.TensorProto.UINT8


def _same(one: onnx.NodeProto, other: onnx.NodeProto, array: Callable[[str], np.ndarray]) -> bool:
    """Whether two Linear nodes have the same scale and zero point."""
    return all(array(a) == array(b) for a, b in zip(one.input[1:], other.input[1:], strict=True))
