"""What a calibration table belongs to: the same network however it was exported, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calib.calibration import Calibration
from calib.fingerprint import fingerprint
from calib.placement import quantize
from edge.errors import EdgeError
from edge.graph import Graph
from edge.ops import register_schemas
from edge.spec import ImageSpec, ModelSpec

Change = Callable[[onnx.GraphProto], None]


def by(change: Change, graph: Graph) -> Graph:
    model = graph.parse()
    change(model.graph)
    return replace(graph, proto=model.SerializeToString())


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(each for each in graph.node if each.name == name)


def rename_constants(graph: onnx.GraphProto) -> None:
    names = {each.name: f"constant_{index}" for index, each in enumerate(graph.initializer)}
    for each in graph.initializer:
        each.name = names[each.name]
    for each in graph.node:
        each.input[:] = [names.get(name, name) for name in each.input]


def streams_turn_by_turn(graph: onnx.GraphProto) -> None:
    """Another topological order: as many nodes of the other stream between as there can be."""
    nodes = [each for each in graph.node if not each.name.startswith("global/")]
    order = [*nodes[:-1], *(each for each in graph.node if each.name.startswith("global/")), nodes[-1]]
    del graph.node[:]
    graph.node.extend(order)


def defaults_spelt_out(graph: onnx.GraphProto) -> None:
    for each in graph.node:
        if each.op_type == "Conv":
            each.attribute.extend([helper.make_attribute("dilations", [1, 1]), helper.make_attribute("auto_pad", "NOTSET")])
            weight = next(one for one in graph.initializer if one.name == each.input[1])
            each.attribute.append(helper.make_attribute("kernel_shape", list(weight.dims[2:])))
        if each.op_type == "MaxPool":
            each.attribute.append(helper.make_attribute("ceil_mode", 0))


def scalars_with_an_axis(graph: onnx.GraphProto) -> None:
    for each in graph.initializer:
        if not each.dims:
            each.dims.append(1)


def attributes_in_another_order(graph: onnx.GraphProto) -> None:
    for each in graph.node:
        turned = list(each.attribute)[::-1]
        del each.attribute[:]
        each.attribute.extend(turned)


def types_and_notes(graph: onnx.GraphProto) -> None:
    graph.value_info.append(helper.make_tensor_value_info("global/stem", 1, None))
    node(graph, "global/stem").doc_string = graph.name = "of another version"


@pytest.mark.parametrize(
    "change",
    [rename_constants, streams_turn_by_turn, defaults_spelt_out, scalars_with_an_axis, attributes_in_another_order, types_and_notes],
)
def test_a_table_serves_the_network_however_it_was_exported(graph: Graph, calibration: Calibration, change: Change) -> None:
    other = by(change, graph)
    assert other.digest != graph.digest
    assert fingerprint(other) == calibration.graph
    assert quantize(other, calibration).parse().graph.node


def other_weight(graph: onnx.GraphProto) -> None:
    move(graph, "depthwise.weight")


def other_bias(graph: onnx.GraphProto) -> None:
    move(graph, "stem.bias")


def other_classifier(graph: onnx.GraphProto) -> None:
    move(graph, "classifier.bias")


def move(graph: onnx.GraphProto, name: str) -> None:
    """One number of a constant by one step of float32."""
    tensor = next(each for each in graph.initializer if each.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nextafter(values.flat[0], np.float32(np.inf))
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def other_activation(graph: onnx.GraphProto) -> None:
    node(graph, "local/expand/relu").op_type = "LeakyRelu"


def other_stride(graph: onnx.GraphProto) -> None:
    for each in graph.node:
        for attribute in each.attribute:
            if each.op_type == "MaxPool" and attribute.name == "strides":
                attribute.ints[:] = [1, 1]


def other_crop(graph: onnx.GraphProto) -> None:
    move(graph, "zoom")


def other_name(graph: onnx.GraphProto) -> None:
    node(graph, "global/expand/relu").output[0] = "global/expand/clip"
    for each in graph.node:
        each.input[:] = ["global/expand/clip" if name == "global/expand/relu" else name for name in each.input]


@pytest.mark.parametrize(
    "change",
    [other_weight, other_bias, other_classifier, other_activation, other_stride, other_crop, other_name],
    ids=lambda each: each.__name__,
)
def test_a_table_is_refused_for_another_network(graph: Graph, calibration: Calibration, change: Change) -> None:
    other = by(change, graph)
    assert not calibration.belongs_to(other)
    with pytest.raises(EdgeError, match="belongs to graph"):
        quantize(other, calibration)


@pytest.mark.parametrize(
    "other",
    [
        {"image": ImageSpec(64)},
        {"image": ImageSpec(32, std=(1.0, 1.0, 1.0))},
        {"model": ModelSpec("other", ("a", "b", "c"))},
        {"model": ModelSpec("small", ("a", "b", "c"), {"regions": 2})},
    ],
    ids=["size", "normalisation", "architecture", "options"],
)
def test_size_architecture_and_options_belong_to_it(
    graph: Graph, calibration: Calibration, other: dict[str, ImageSpec | ModelSpec]
) -> None:
    assert not calibration.belongs_to(replace(graph, **other))  # type: ignore[arg-type]


def test_class_names_do_not(graph: Graph, calibration: Calibration) -> None:
    assert calibration.belongs_to(replace(graph, model=ModelSpec("small", ("x", "y", "z"), thresholds=(0.1, 0.2, 0.3))))


def test_a_table_that_names_the_graph_by_its_file_still_serves_it(graph: Graph, calibration: Calibration) -> None:
    older = replace(calibration, graph=graph.digest)
    assert older.belongs_to(graph)
    assert not older.belongs_to(by(other_weight, graph))


def test_how_boxes_are_found_may_be_spelt_otherwise_but_not_decided_otherwise(graph: Graph) -> None:
    register_schemas()

    def boxed(threshold: float, *maps: str) -> Graph:
        def change(proto: onnx.GraphProto) -> None:
            nodes = [helper.make_node("Sigmoid", ["image"], ["maps"], name="maps")] if maps == ("maps",) else []
            nodes.append(
                helper.make_node("RegionBoxes", list(maps), ["regions"], domain="edge", name="boxes", size=32, threshold=threshold)
            )
            nodes.append(helper.make_node("RoiResize", ["image", "regions"], ["crops"], domain="edge", name="crop", size=32))
            node(proto, "local/crop").input[0] = "crops"
            rest = list(proto.node)
            del proto.node[:]
            proto.node.extend([*nodes, *rest])

        return by(change, graph)

    same = fingerprint(boxed(0.5, "image"))
    assert fingerprint(boxed(0.5, "maps")) == same
    assert len({same, fingerprint(boxed(0.4, "image")), fingerprint(graph)}) == 3
