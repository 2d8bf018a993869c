"""Type the backbones in a 16-bit float; everything that decides about classes and boxes stays
float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.errors import EdgeError, one_of
from edge.graph import prune
from edge.lower.backbone import backbones

FLOAT16 = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def sixteen_bit(model: onnx.ModelProto, *, float16: str) -> onnx.ModelProto:
    """Rewrite the canonical ``model`` (edge ops still in it) in place and return it.

    1. The backbones, ``edge.lower.backbone.backbones``, get 16 bits; their QuantizeLinear and
       DequantizeLinear 16-bit scales, as strongly typed TensorRT asks.
    2. Classifiers, nodes that are to stay exact, and all that follows them stay float32: logits,
       sigmoid, top K, boxes, crops, fusion.
    3. Constants read by the backbone (weights, biases, bounds, scales) get 16 bits; float32 readers
       keep the original.
    4. Where a value crosses the border it is cast, once for all readers.
    """
    if float16 not in FLOAT16:
        raise EdgeError("lower", f"There is no 16-bit float {float16!r}", f"Change `float16` to {one_of(FLOAT16)}")
    graph = model.graph
    backbone, halves = backbones(model)
    constants = {each.name: each for each in graph.initializer}
    narrowed: dict[str, str] = {}  # 3: float32 constant → its 16-bit copy
    crossed: dict[str, str] = {}  # 4: value → its name on the other side of the border
    nodes: list[onnx.NodeProto] = []

    for node in graph.node:
        inside = node.name in backbone
        for position, name in enumerate(node.input):
            if name in constants:
                if inside and constants[name].data_type == TensorProto.FLOAT:  # 3
                    if name not in narrowed:
                        narrowed[name] = f"{name}/{float16}"
                        copy = _narrow(constants[name], float16, scale=node.op_type.endswith("Linear") and position == 1)
                        copy.name = narrowed[name]
                        graph.initializer.append(copy)
                    node.input[position] = narrowed[name]
            elif name and (name in halves) != inside and not _is_integer(node, position):  # 4
                if name not in crossed:
                    kind = float16 if inside else "fp32"
                    # Named after its reader: a cast of the crops is no part of the crop.
                    crossed[name] = f"{node.name or name}/{kind}_{position}"
                    to = FLOAT16[float16] if inside else TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [crossed[name]], name=crossed[name], to=to))
                node.input[position] = crossed[name]
        nodes.append(node)

    for output in graph.output:  # 4: outputs keep name and type
        if output.name in halves:
            nodes.extend(_widened_output(nodes, output.name))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    prune(graph)
    return model


def _is_integer(node: onnx.NodeProto, position: int) -> bool:
    """Inputs that are whole numbers whatever the type of the node: what a DequantizeLinear reads,
    shapes and axes."""
    return (
        node.op_type == "DequantizeLinear"
        or (node.op_type == "Pad" and position in (1, 3))
        or (node.op_type == "ReduceMean" and position == 1)
    )


def _narrow(tensor: onnx.TensorProto, float16: str, *, scale: bool) -> onnx.TensorProto:
    """A 16-bit copy, rounded to nearest even; refuses values that overflow."""
    values = numpy_helper.to_array(tensor).astype(np.float32)
    if float16 == "fp16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if scale:
            halves = np.maximum(halves, np.float16(2**-24))  # a scale of zero is refused by TensorRT
        if np.isinf(halves).any():
            worst = float(np.abs(values).max())
            raise EdgeError("lower", f"{tensor.name} contains {worst:g}, and the largest fp16 value is 65504", "Change `precision` to fp32")
        return numpy_helper.from_array(halves)
    return numpy_helper.from_array(values.astype(ml_dtypes.bfloat16))


def _widened_output(nodes: list[onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """Rename the 16-bit value behind a graph output and return the Cast that produces the
    output."""
    inner = f"{name}/narrow"
    for node in nodes:
        for names in (node.input, node.output):
            for position, each in enumerate(names):
                if each == name:
                    names[position] = inner
    return [helper.make_node("Cast", [inner], [name], name=f"{name}/fp32_output", to=TensorProto.FLOAT)]
