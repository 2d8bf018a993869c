"""Equalisation: the same function over weights of one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib.equalise import Equalised, equalise, input_ranges, output_ranges
from calib.placement import quantize
from calib.ranges import observe
from edge import lower
from edge.backends.onnxruntime import Session
from edge.graph import Graph
from edge.lower.backbone import residual_adds


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in graph.parse().graph.initializer}


def changed(graph: Graph, change: Callable[[onnx.NodeProto], None]) -> Graph:
    """A graph of which ``change(node)`` has had every node."""
    model = graph.parse()
    for node in model.graph.node:
        change(node)
    return replace(graph, proto=model.SerializeToString())


@pytest.fixture(scope="module")
def clipped(graph: Graph) -> Graph:
    """The network with a Clip where it has a Relu between its first convolutions."""

    def clip(node: onnx.NodeProto) -> None:
        if node.name.endswith("expand/relu"):
            node.op_type = "Clip"
            node.input.extend(["low", "high"])

    return changed(graph, clip)


@pytest.fixture(scope="module", params=["relu", "clip"])
def given(request: pytest.FixtureRequest, graph: Graph, clipped: Graph) -> Graph:
    return graph if request.param == "relu" else clipped


@pytest.fixture(scope="module")
def made(given: Graph) -> Equalised:
    return equalise(given)


def test_the_function_stays(given: Graph, made: Equalised, images: np.ndarray) -> None:
    before, after = Session(given.proto)(images), Session(made.graph.proto)(images)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-5)
    assert made.graph.parents["graph"] == given.digest


def test_both_sides_of_a_pair_have_weights_of_one_size(given: Graph, made: Equalised) -> None:
    before, after = weights_of(given), weights_of(made.graph)
    for first, second, groups in (("expand", "depthwise", 16), ("depthwise", "project", 1)):
        ranges = [(output_ranges(each[f"{first}.weight"]), input_ranges(each[f"{second}.weight"], groups)) for each in (before, after)]
        assert np.abs(np.log(ranges[0][0] / ranges[0][1])).max() > 0.5, "nothing to equalise"
        np.testing.assert_allclose(ranges[1][0], ranges[1][1], rtol=2e-3)
    for name in ("stem.weight", "last.weight", "classifier.weight", "project.bias"):
        np.testing.assert_array_equal(before[name], after[name])


def test_pairs_and_what_is_left_out_are_named_once_for_both_streams(made: Equalised) -> None:
    assert made.pairs == ("global/expand → global/depthwise", "global/depthwise → global/project")
    assert set(made.skipped) == {"global/stem", "global/project", "global/last"}
    assert made.skipped["global/stem"] == "global/pool follows"
    assert "global/block/add follows" in made.skipped["global/project"]
    assert "global/mean follows" in made.skipped["global/last"]


def test_both_streams_read_the_same_weights_still(given: Graph, made: Equalised) -> None:
    names = [[node.input[1] for node in each.parse().graph.node if node.op_type == "Conv"] for each in (given, made.graph)]
    assert names[0] == names[1]


def test_a_clip_is_bounded_channel_by_channel_and_ends_in_a_relu(clipped: Graph) -> None:
    found = equalise(clipped).graph
    nodes = {node.name: node for node in found.parse().graph.node}
    assert (nodes["local/expand/relu"].op_type, nodes["local/expand/relu/min"].op_type) == ("Relu", "Min")
    bounds = weights_of(found)["local/expand/relu/bounds"]
    assert bounds.shape == (1, 16, 1, 1)
    assert len(np.unique(bounds)) == 16


def test_a_dead_channel_stays_as_it_is(graph: Graph) -> None:
    model = graph.parse()
    for each in model.graph.initializer:
        if each.name == "expand.weight":
            values = numpy_helper.to_array(each).copy()
            values[3] *= 1e-9
            each.CopyFrom(numpy_helper.from_array(values, each.name))
    dead = replace(graph, proto=model.SerializeToString())
    before, after = weights_of(dead), weights_of(equalise(dead).graph)
    np.testing.assert_array_equal(after["expand.weight"][3], before["expand.weight"][3])
    assert after["expand.bias"][3] == before["expand.bias"][3]


@pytest.mark.parametrize("fault", ["other activation", "other weights", "weights elsewhere", "activation of another kind"])
def test_what_both_streams_do_not_share_alike_is_left_alone(graph: Graph, images: np.ndarray, fault: str) -> None:
    model = graph.parse()
    nodes = {node.name: node for node in model.graph.node}
    if fault == "other activation":
        nodes["local/expand/relu"].op_type = "LeakyRelu"
    elif fault == "activation of another kind":
        nodes["global/expand/relu"].op_type = nodes["local/expand/relu"].op_type = "Sigmoid"
    elif fault == "other weights":
        own = onnx.TensorProto()
        own.CopyFrom(next(each for each in model.graph.initializer if each.name == "depthwise.weight"))
        own.name = nodes["local/depthwise"].input[1] = "own.weight"
        model.graph.initializer.append(own)
    else:  # the bias of a convolution scaled serves one that is not
        nodes["global/last"].input[2] = "expand.bias"
    given = replace(graph, proto=model.SerializeToString())
    found = equalise(given)
    assert "global/expand → global/depthwise" not in found.pairs
    assert "global/expand" in found.skipped
    for name, value in Session(given.proto)(images).items():
        np.testing.assert_allclose(Session(found.graph.proto)(images)[name], value, atol=1e-5)


def test_an_equalised_graph_is_calibrated_and_quantised_like_any(clipped: Graph, images: np.ndarray) -> None:
    found = equalise(clipped).graph
    assert [(add.node.name, add.shortcut) for add in residual_adds(found.parse())] == [
        (add.node.name, add.shortcut) for add in residual_adds(clipped.parse())
    ]
    calibration = observe(found, iter([([str(index) for index in range(len(images))], images)]), data={}, coverage={})
    int8 = quantize(found, calibration)
    exact = Session(clipped.proto)(images)["scores"]
    lowered = lower.lower(int8.parse(), backend="onnxruntime", precision="int8")
    assert np.abs(Session(lowered.SerializeToString())(images)["scores"] - exact).max() < 0.1
