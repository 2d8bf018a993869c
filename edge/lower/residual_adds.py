"""Round the second input of residual Adds too, where a runtime needs both to add in int8."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import helper, numpy_helper

RESIDUAL_SCALES = "edge.residual_scales"  # metadata: JSON object, value name → scale


def residual_adds(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. An Add of which one input comes from a DequantizeLinear and the other is named in the
       metadata ``edge.residual_scales`` gets a QuantizeLinear and a DequantizeLinear on the other,
       with the scale found there and zero point 0. OpenVINO and ONNX Runtime leave the Add, and the
       activation after it, outside the convolution otherwise; TensorRT documents the opposite, so
       the canonical graph has the shortcut only.
    2. A value that is rounded already (another reader wanted it) is read from there.
    3. Every other Add, and a graph without that metadata, stays as it is.
    """
    properties = {each.key: each.value for each in model.metadata_props}
    scales: dict[str, float] = json.loads(properties.get(RESIDUAL_SCALES, "{}"))
    if not scales:
        return model
    graph = model.graph
    source = {name: node for node in graph.node for name in node.output}
    zeros = [each.name for each in graph.initializer if each.data_type == onnx.TensorProto.INT8 and not each.dims]
    rounded = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}

    def from_int8(name: str) -> bool:
        return name in source and source[name].op_type == "DequantizeLinear"

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Add" and sum(map(from_int8, node.input)) == 1:
            position = 1 if from_int8(node.input[0]) else 0
            value = node.input[position]
            if value in rounded and rounded[value] in restored:  # 2
                node.input[position] = restored[rounded[value]]
            elif value in scales:  # 1
                if not zeros:
                    zeros.append("int8_zero")
                    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), zeros[0]))
                scale = f"{value}/scale"
                graph.initializer.append(numpy_helper.from_array(np.array(scales[value], np.float32), scale))
                nodes.append(helper.make_node("QuantizeLinear", [value, scale, zeros[0]], [f"{value}/int8"], name=f"{value}/q"))
                nodes.append(helper.make_node("DequantizeLinear", [f"{value}/int8", scale, zeros[0]], [f"{value}/dq"], name=f"{value}/dq"))
                rounded[value], restored[f"{value}/int8"] = f"{value}/int8", f"{value}/dq"
                node.input[position] = f"{value}/dq"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model
