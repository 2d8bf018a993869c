"""Bring a graph to opset 17, for the parsers of TensorRT 8.5 and 8.6.

They take newer graphs without a word and misread them: axes that are an input, as from opset 18 on,
mean all axes to them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.errors import EdgeError
from edge.graph import prune
from edge.ops import DOMAIN

OPSET, IR_VERSION = 17, 8
AXES_AS_ATTRIBUTE = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"})  # an input from opset 18 on
# Attributes that came later, with the value that means what opset 17 does.
LATER = {"noop_with_empty_axes": 0, "saturate": 1}
MISREAD = frozenset({"GridSample", "NonZero", "RoiAlign", "CumSum"})  # ops that no graph for these versions may rest on


def opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. Constant axes of a reduction become an attribute. Attributes that came later go, where they
       say what opset 17 does.
    2. An int8 weight becomes a float32 one with a QuantizeLinear behind it: these parsers take no
       int8 constants. The products of integer and scale round to the same integers again.
    3. What these parsers would misread is refused (``check``).
    """
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    rounded: dict[str, str] = {}  # 2: int8 weight → its QuantizeLinear's output
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in AXES_AS_ATTRIBUTE and len(node.input) == 2 and node.input[1] in constants:  # 1
            node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constants[node.input[1]]).tolist()))
            del node.input[1]
        for attribute in [each for each in node.attribute if LATER.get(each.name) == each.i]:
            node.attribute.remove(attribute)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:  # 2
            weight = node.input[0]
            if weight not in rounded:
                rounded[weight] = f"{weight}/rounded"
                axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
                floats = _dequantised(constants[weight], constants[node.input[1]], axis)
                floats.name = f"{weight}/float32"
                graph.initializer.append(floats)
                inputs = [floats.name, *node.input[1:]]
                nodes.append(helper.make_node("QuantizeLinear", inputs, [rounded[weight]], name=rounded[weight], axis=axis))
            node.input[0] = rounded[weight]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    prune(graph)
    model.ir_version = IR_VERSION
    for each in model.opset_import:
        if each.domain == "":
            each.version = OPSET
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """Refuse, in one line, a graph that the parsers of TensorRT 8.5 and 8.6 would misread or
    refuse."""
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.domain != DOMAIN and (found := _misread(node, constants)):
            raise EdgeError("lower", f"TensorRT 8 misreads {node.op_type} {node.name!r}: {found}", "Report the graph")


def _misread(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """What of a node those parsers misread; empty for nothing."""
    if not onnx.defs.has(node.op_type) or node.domain or node.op_type in MISREAD:
        return "it does not know this op as it is meant here"
    schema = onnx.defs.get_schema(node.op_type, OPSET)
    later = {each.name for each in node.attribute} - schema.attributes.keys()
    if later or len(node.input) > schema.max_input:
        return f"{', '.join(sorted(later)) or 'its last input'} came after opset {OPSET}"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        scale, zero = (constants.get(name) for name in (*node.input, "", "")[1:3])
        if scale is None or scale.data_type != TensorProto.FLOAT:
            return "its scale is no float32 constant"
        if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
            return "its zero point is not 0 in int8"
    if node.op_type == "TopK" and node.input[1] not in constants:
        return "K is not constant"
    return ""


def _dequantised(weight: onnx.TensorProto, scale: onnx.TensorProto, axis: int) -> onnx.TensorProto:
    integers, steps = numpy_helper.to_array(weight), numpy_helper.to_array(scale)
    if steps.ndim:
        steps = steps.reshape([-1 if each == axis % integers.ndim else 1 for each in range(integers.ndim)])
    return numpy_helper.from_array(integers.astype(np.float32) * steps.astype(np.float32))
