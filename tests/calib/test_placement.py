"""Where Q/DQ stand, rule by rule."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration
from calib.placement import quantize
from calib.scales import METHODS
from edge.backends.onnxruntime import Session
from edge.errors import EdgeError
from edge.graph import Graph
from edge.lower.backbone import convolutions, residual_adds

QUANTISED = ("stem", "expand", "depthwise", "project", "last")


class Placed:
    def __init__(self, graph: Graph) -> None:
        self.model = graph.parse()
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.constants = {each.name: numpy_helper.to_array(each) for each in self.model.graph.initializer}
        self.source = {name: node for node in self.model.graph.node for name in node.output}

    def kind(self, value: str) -> str:
        return self.source[value].op_type if value in self.source else ""


@pytest.fixture(scope="module")
def placed(graph: Graph, calibration: Calibration) -> Placed:
    return Placed(quantize(graph, calibration))


def test_all_convolutions_but_the_classifiers_read_rounded_inputs_and_weights(placed: Placed) -> None:
    for stream in ("global", "local"):
        for layer in QUANTISED:
            node = placed.nodes[f"{stream}/{layer}"]
            assert [placed.kind(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
            assert node.input[2] in placed.constants
            assert placed.constants[node.input[2]].dtype == np.float32
        classifier = placed.nodes[f"{stream}/classifier"]
        assert placed.kind(classifier.input[0]) == "GlobalAveragePool"
        assert placed.constants[classifier.input[1]].dtype == np.float32
        assert placed.kind(placed.nodes[f"{stream}/mean"].input[0]) == "Relu"


def test_a_tensor_is_rounded_once_for_all_readers_and_each_stream_has_its_own_scale(placed: Placed) -> None:
    rounded = Counter(node.input[0] for node in placed.model.graph.node if node.op_type == "QuantizeLinear")
    assert set(rounded.values()) == {1}
    assert placed.nodes["global/expand"].input[0] == placed.nodes["global/block/add"].input[1]
    assert placed.constants["image/scale"] != placed.constants["local/zoomed/scale"]


def test_both_streams_read_the_same_integers_and_weight_scales(placed: Placed) -> None:
    for layer in QUANTISED:
        one, other = (placed.source[placed.nodes[f"{stream}/{layer}"].input[1]] for stream in ("global", "local"))
        assert list(one.input) == list(other.input)
        assert one.name != other.name
        weights, steps, zeros = (placed.constants[name] for name in one.input)
        assert weights.dtype == np.int8
        assert steps.shape == zeros.shape == weights.shape[:1]
        assert f"{layer}.weight" not in placed.constants


def test_the_shortcut_of_an_add_is_rounded_the_branch_is_not_but_its_scale_travels(placed: Placed, calibration: Calibration) -> None:
    add = placed.nodes["local/block/add"]
    assert [placed.kind(name) for name in add.input] == ["Conv", "DequantizeLinear"]
    travelling = json.loads({each.key: each.value for each in placed.model.metadata_props}["edge.residual_scales"])
    assert set(travelling) == {"global/project", "local/project"}
    assert 0 < travelling["local/project"] <= calibration.ranges["local/project"].largest / 127 * 1.000001


def test_max_pooling_runs_between_two_roundings_of_the_same_scale(placed: Placed) -> None:
    pool = placed.nodes["global/pool"]
    before = placed.source[pool.input[0]]
    assert before.op_type == "DequantizeLinear"
    assert placed.constants[before.input[1]] == placed.constants["global/pool/scale"]


def test_zero_points_are_zero_and_scales_positive(placed: Placed) -> None:
    for node in placed.model.graph.node:
        if node.op_type.endswith("Linear"):
            assert (placed.constants[node.input[1]] > 0).all()
            assert placed.constants[node.input[2]].dtype == np.int8
            assert not placed.constants[node.input[2]].any()


def test_nodes_left_in_float_keep_their_weights_and_read_what_was_not_rounded(graph: Graph, calibration: Calibration) -> None:
    placed = Placed(quantize(graph, calibration, float_nodes=["local/expand", "local/block/add"]))
    node = placed.nodes["local/expand"]
    assert node.input[0] == "local/pool"
    assert placed.constants[node.input[1]].dtype == np.float32
    assert list(placed.nodes["local/block/add"].input) == ["local/project", "local/pool"]
    assert placed.kind(placed.nodes["global/expand"].input[1]) == "DequantizeLinear"
    with pytest.raises(EdgeError, match="local/nothing"):
        quantize(graph, calibration, float_nodes=["local/nothing"])


# Entropy is left out: it cuts the tails that the toy's uneven channels have, whatever they weigh.
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"entropy"}))
def test_the_int8_graph_answers_nearly_as_the_float_graph(graph: Graph, calibration: Calibration, images: np.ndarray, method: str) -> None:
    exact = Session(graph.proto)(images)
    rounded = Session(quantize(graph, calibration, method=method).proto)(images)
    for name, value in exact.items():
        error = np.abs(rounded[name] - value).max()
        assert 0 < error < 0.06, name


def test_with_everything_in_float_the_graph_is_the_one_it_was_made_from(graph: Graph, calibration: Calibration) -> None:
    parsed = graph.parse()
    every = [node.name for node in convolutions(parsed)] + [add.node.name for add in residual_adds(parsed)]
    same = quantize(graph, calibration, float_nodes=every).parse()
    assert [node.SerializeToString() for node in same.graph.node] == [node.SerializeToString() for node in parsed.graph.node]
    assert {each.name for each in same.graph.initializer} == {each.name for each in parsed.graph.initializer}


def test_the_graph_names_its_parents(graph: Graph, calibration: Calibration) -> None:
    made = quantize(graph, calibration)
    assert made.parents["graph"] == graph.digest
    assert made.parents["calibration"] == calibration.digest
    onnx.checker.check_model(made.parse(), full_check=True)


def test_a_table_of_another_graph_is_refused(graph: Graph, calibration: Calibration) -> None:
    with pytest.raises(EdgeError, match=r"belongs to graph 123412341234…, not to this one"):
        quantize(graph, replace(calibration, graph="1234" * 16))


def test_a_table_without_a_tensor_that_is_rounded_is_refused_by_name(graph: Graph, calibration: Calibration) -> None:
    ranges = {name: each for name, each in calibration.ranges.items() if name != "local/pool"}
    with pytest.raises(EdgeError, match=r"lacks \d+ of \d+ tensors: local/pool\. Calibrate again"):
        quantize(graph, replace(calibration, ranges=ranges))
    quantize(graph, replace(calibration, ranges=ranges), float_nodes=["local/expand", "local/block/add"])
