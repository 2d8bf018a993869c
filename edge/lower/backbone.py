"""What the backbones of a graph are: for calibration, which rounds them, and for lowering, which
types them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx

from edge.graph import FLOAT32_NODES
from edge.ops import DOMAIN

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Ops that pass activations on, or reduce them with a wider accumulator inside.
CARRIERS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "MaxPool", "Min", "Mul", "PRelu", "Pad", "ReduceMean", "Relu"}
)


def weighted_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The weighted nodes of the backbones, in graph order.

    1. A weighted node is a Conv, Gemm or MatMul with a constant second input, quantised or not. A
       node that the model's metadata names under ``edge.float32_nodes`` is none.
    2. It belongs to a backbone if another weighted node can be reached from it without passing an
       op of ours. The others are classifiers: they read the final feature map, and a wrong bit
       there moves a score, a class map, a box.
    """
    graph = model.graph
    exact = json.loads(next((each.value for each in model.metadata_props if each.key == FLOAT32_NODES), "[]"))
    constants = {each.name for each in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants}
    leads_on: set[str] = set()  # values from which a weighted node can be reached
    found = []
    for node in reversed(graph.node):
        if node.domain == DOMAIN:  # 2
            continue
        weighted = node.op_type in WEIGHTED and node.input[1] in constants and node.name not in exact  # 1
        reaches = any(name in leads_on for name in node.output)
        if weighted and reaches:
            found.append(node)
        if weighted or reaches:
            leads_on.update(node.input)
    return found[::-1]


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions of the backbones, in graph order: what int8 rounds."""
    return [node for node in weighted_nodes(model) if node.op_type == "Conv"]


def backbones(model: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Names of the backbones' nodes, and of the floating-point values that they give.

    1. The weighted nodes, ``weighted_nodes``, belong to a backbone.
    2. So does each carrier all of whose activations come from it.
    3. So does a QuantizeLinear if its input does; a DequantizeLinear if its QuantizeLinear or one
       of its weighted readers does.
    """
    graph = model.graph
    constants = {each.name for each in graph.initializer}
    inner = weighted_nodes(model)
    fed = {name for node in inner for name in node.input}
    backbone, values, quantised = {node.name for node in inner}, set(), set()
    for node in graph.node:
        activations = [name for name in node.input if name and name not in constants]
        if node.name in backbone:  # 1
            values.update(node.output)
        elif node.op_type == "QuantizeLinear":  # 3
            if node.input[0] in values:
                backbone.add(node.name)
                quantised.update(node.output)
        elif node.op_type == "DequantizeLinear":
            if node.input[0] in quantised or node.output[0] in fed:
                backbone.add(node.name)
                values.update(node.output)
        elif node.op_type in CARRIERS and activations and all(name in values for name in activations):  # 2
            backbone.add(node.name)
            values.update(node.output)
    return backbone, values


@dataclass(frozen=True)
class ResidualAdd:
    """An Add of two values of a backbone.

    Attributes:
        node: the Add.
        shortcut: position (0 or 1) of its shortcut, the input with the shorter way from the graph's
            input.
    """

    node: onnx.NodeProto
    shortcut: int


def residual_adds(model: onnx.ModelProto) -> list[ResidualAdd]:
    """The Adds of two values of a backbone of convolutions, in graph order."""
    constants = {each.name for each in model.graph.initializer}
    names = {node.name for node in convolutions(model)}
    depth: dict[str, int] = {}  # backbone value → nodes on the longest way to it
    found = []
    for node in model.graph.node:
        activations = [name for name in node.input if name and name not in constants]
        if node.name in names:
            depth[node.output[0]] = depth.get(activations[0], 0) + 1
        elif node.op_type in CARRIERS and activations and all(name in depth for name in activations):
            depth[node.output[0]] = max(depth[name] for name in activations) + 1
            if node.op_type == "Add" and len(activations) == 2:
                found.append(ResidualAdd(node, 0 if depth[activations[0]] < depth[activations[1]] else 1))
    return found


def observed(model: onnx.ModelProto) -> list[str]:
    """Names of the values whose ranges int8 needs: inputs of the backbones' convolutions, both
    inputs of their Adds."""
    values = [node.input[0] for node in convolutions(model)]
    values += [name for add in residual_adds(model) for name in add.node.input]
    return list(dict.fromkeys(values))
