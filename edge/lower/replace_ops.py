"""Replace the ``edge`` ops by standard ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx

from edge.errors import EdgeError, one_of
from edge.ops import DOMAIN, OPS, region_boxes, register_schemas, roi_resize
from edge.ops.nodes import NodeBuilder

Shapes = Mapping[str, tuple[int, ...]]
Attributes = Mapping[str, Any]


def _boxes(builder: NodeBuilder, node: onnx.NodeProto, shapes: Shapes, attributes: Attributes, crop: str) -> None:
    _, regions, cells, _ = shapes[node.input[0]]
    size, threshold = attributes["size"], attributes["threshold"]
    region_boxes.decompose(builder, node.input[0], node.output[0], regions=regions, cells=cells, size=size, threshold=threshold)


def _crops(builder: NodeBuilder, node: onnx.NodeProto, shapes: Shapes, attributes: Attributes, crop: str) -> None:
    image, boxes, owner = (*node.input, None)[:3]
    regions = shapes[boxes][0 if owner else 1]
    roi_resize.decompose(builder, image, boxes, node.output[0], regions=regions, size=attributes["size"], form=crop, owner=owner)


# Appends the standard nodes of one op; a row for every op of OPS.
DECOMPOSITIONS: Mapping[str, Callable[[NodeBuilder, onnx.NodeProto, Shapes, Attributes, str], None]] = {
    region_boxes.NAME: _boxes,
    roi_resize.NAME: _crops,
}


def replace_ops(model: onnx.ModelProto, *, crop: str) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. A ``RegionBoxes`` node becomes the nodes ``boxes/…``; the value it produced keeps its name.
    2. A ``RoiResize`` node becomes the nodes ``crop/…`` in the form ``crop`` (a key of
       ``roi_resize.FORMS``).
    3. A second node of the same op gets ``boxes_2/…``, and so on.
    4. Another node of the domain is refused; afterwards the domain is no longer imported.
    """
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    if not nodes:
        return model
    shapes = _shapes(model)
    replaced: dict[str, NodeBuilder] = {}
    count = dict.fromkeys(DECOMPOSITIONS, 0)
    for node in nodes:
        if node.op_type not in DECOMPOSITIONS:  # 4
            problem = f"The op {node.op_type} has no decomposition; {one_of(DECOMPOSITIONS)} have one"
            raise EdgeError("lower", problem, "Export the model again")
        count[node.op_type] += 1
        number = count[node.op_type]
        builder = NodeBuilder(OPS[node.op_type][1] + (f"_{number}" if number > 1 else ""))  # 3
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        DECOMPOSITIONS[node.op_type](builder, node, shapes, attributes, crop)  # 1, 2
        replaced[node.output[0]] = builder

    flat: list[onnx.NodeProto] = []
    for node in model.graph.node:
        flat.extend(replaced[node.output[0]].nodes if node.domain == DOMAIN else [node])
    for builder in replaced.values():
        model.graph.initializer.extend(builder.initializers)
    del model.graph.node[:]
    model.graph.node.extend(flat)
    kept = [each for each in model.opset_import if each.domain != DOMAIN]  # 4
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Value name → shape, 0 where a dimension is symbolic."""
    register_schemas()
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {value.name: tuple(each.dim_value for each in value.type.tensor_type.shape.dim) for value in values}
