"""Which nodes of a graph the rules of ``calib.placement`` speak about, and whose values they need."""

from __future__ import annotations

import onnx

from edge.ops import DOMAIN

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# Ops that hand activations of a backbone on.
CARRIERS = frozenset({"Add", "Clip", "HardSwish", "LeakyRelu", "MaxPool", "Min", "Relu"})


def backbone_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Rule 1 of ``calib.placement.quantize``, in graph order."""
    constants = {each.name for each in graph.initializer}
    leads_on: set[str] = set()  # values from which a weighted node can be reached
    found: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if node.domain == DOMAIN:
            continue
        weighted = node.op_type in WEIGHTED and node.input[1] in constants
        reaches = any(name in leads_on for name in node.output)
        if weighted and reaches and node.op_type == "Conv":
            found.append(node)
        if reaches or weighted:
            leads_on.update(node.input)
    return found[::-1]


def residual_adds(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]]:
    """Rule 5 there: the Adds of two backbone values, each with the position (0 or 1) of its shortcut."""
    constants = {each.name for each in graph.initializer}
    convolutions = {node.name for node in backbone_convolutions(graph)}
    depth: dict[str, int] = {}  # backbone value → nodes on the longest way to it
    found = []
    for node in graph.node:
        activations = [name for name in node.input if name and name not in constants]
        if node.name in convolutions:
            depth[node.output[0]] = depth.get(activations[0], 0) + 1
        elif node.op_type in CARRIERS and activations and all(name in depth for name in activations):
            depth[node.output[0]] = max(depth[name] for name in activations) + 1
            if node.op_type == "Add" and len(activations) == 2:
                found.append((node, 0 if depth[activations[0]] < depth[activations[1]] else 1))
    return found


def observed(graph: onnx.GraphProto) -> list[str]:
    """Names of the values whose ranges the rules need: inputs of the backbones' convolutions, both inputs of their Adds."""
    convolutions = backbone_convolutions(graph)
    values = [node.input[0] for node in convolutions]
    values += [name for node, _ in residual_adds(graph) for name in node.input]
    return list(dict.fromkeys(values))
