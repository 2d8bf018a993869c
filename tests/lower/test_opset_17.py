"""What TensorRT 8.5 and 8.6 are given: opset 17, nothing their parsers misread, and the values of
the canonical graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.errors import EdgeError
from edge.graph import FLOAT32_PREFIX
from edge.lower import lower, reference
from edge.lower.opset_17 import check, opset_17
from edge.lower.replace_ops import replace_ops

Run = Callable[[onnx.ModelProto, np.ndarray], list[np.ndarray]]


def lowered(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    return lower(model, backend="tensorrt-8", precision=precision, float16=None if precision == "fp32" else "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_is_of_opset_17_and_computes_what_the_canonical_one_does(
    canonical: onnx.ModelProto, quantised: onnx.ModelProto, image: np.ndarray, run: Run, precision: str
) -> None:
    model = quantised if precision == "int8" else canonical
    made = lowered(model, precision)
    assert {each.domain: each.version for each in made.opset_import}[""] == 17
    standard = opset_17(replace_ops(made, crop="matmul"))
    onnx.checker.check_model(standard, full_check=True)
    for found, expected in zip(run(standard, image), run(reference(model), image), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_axes_are_attributes_where_the_parser_reads_no_input(canonical: onnx.ModelProto) -> None:
    (node,) = [node for node in lowered(canonical, "fp32").graph.node if node.op_type == "ReduceMax"]
    assert len(node.input) == 1
    assert [list(each.ints) for each in node.attribute if each.name == "axes"] == [[1]]


def test_weights_are_float32_and_round_to_the_same_integers(quantised: onnx.ModelProto) -> None:
    before = {each.name: numpy_helper.to_array(each) for each in quantised.graph.initializer}
    graph = lowered(quantised, "int8").graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]
    assert weights
    for node in weights:
        steps = constants[node.input[1]].reshape(-1, 1, 1, 1)
        integers = np.round(constants[node.input[0]] / steps)
        np.testing.assert_array_equal(integers, before[node.input[0].removesuffix("/float32")])
    assert not [each for each in constants.values() if each.dtype == np.int8 and each.any()]


def test_what_decides_about_classes_and_boxes_is_named_so(quantised: onnx.ModelProto) -> None:
    graph = lowered(quantised, "int8").graph
    exact = {node.name.removeprefix(FLOAT32_PREFIX) for node in graph.node if node.name.startswith(FLOAT32_PREFIX)}
    assert {"global/classifier", "global/top", "global/boxes", "local/scores"} <= exact
    assert not {"global/stem", "global/block.conv1", "global/block/add"} & exact
    assert not [node.name for node in graph.node if node.name.startswith(FLOAT32_PREFIX) and node.op_type.endswith("Linear")]
    assert not [node for node in lowered(quantised, "fp32").graph.node if node.name.startswith(FLOAT32_PREFIX)], (
        "nothing else to hold there"
    )


def changed(model: onnx.ModelProto, op_type: str, change: Callable[[onnx.NodeProto], object]) -> onnx.ModelProto:
    change(next(node for node in model.graph.node if node.op_type == op_type))
    return model


@pytest.mark.parametrize(
    ("op_type", "change", "said"),
    [
        ("ReduceMax", lambda node: node.input.append("axis"), "its last input came after opset 17"),
        ("QuantizeLinear", lambda node: node.attribute.append(helper.make_attribute("saturate", 0)), "saturate came after opset 17"),
        ("QuantizeLinear", lambda node: node.input.pop(), "zero point"),
        ("TopK", lambda node: node.input.__setitem__(1, "image"), "K is not constant"),
        ("Relu", lambda node: setattr(node, "op_type", "GridSample"), "does not know this op"),
    ],
)
def test_what_those_parsers_misread_is_refused_in_one_line(
    quantised: onnx.ModelProto, op_type: str, change: Callable[[onnx.NodeProto], object], said: str
) -> None:
    made = changed(lowered(quantised, "int8"), op_type, change)
    with pytest.raises(EdgeError, match=said) as refused:
        check(made)
    assert "\n" not in str(refused.value)
