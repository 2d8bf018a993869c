"""Equalisation: the same function, every channel of one size, no node more than before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration
from calib.equalise import LEAST, Equalised, equalise
from calib.peaks import peaks
from calib.placement import quantize
from calib.ranges import observe
from edge.backends.onnxruntime import Session
from edge.graph import Graph

Peaks = dict[str, np.ndarray]


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


@pytest.fixture
def seen(given: Graph, images: np.ndarray) -> Peaks:
    return peaks(given, [images[:2], images[2:]])


@pytest.fixture
def made(given: Graph, seen: Peaks) -> Equalised:
    return equalise(given, seen)


def test_peaks_are_those_of_all_batches(given: Graph, images: np.ndarray, seen: Peaks) -> None:
    whole = peaks(given, [images])
    assert seen.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(seen[name], value)
    np.testing.assert_allclose(seen["image"], np.abs(images).max((0, 2, 3)), rtol=1 / 256)


def test_the_function_stays_on_images_that_were_seen(given: Graph, made: Equalised, images: np.ndarray) -> None:
    before, after = Session(given.proto)(images), Session(made.graph.proto)(images)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=2e-3)  # a peak is held to 8 bits: what is cut off there
    assert made.graph.parents["graph"] == given.digest


def test_every_channel_reaches_the_peak_of_its_tensor(given: Graph, made: Equalised, images: np.ndarray, seen: Peaks) -> None:
    after = peaks(made.graph, [images])
    streams = ("global/expand/relu", "local/expand/relu")
    before_each, after_each = (np.max([found[name] for name in streams], axis=0) for found in (seen, after))
    assert before_each.min() < 0.5 * before_each.max(), "nothing to equalise"
    shown = before_each > 2 * LEAST * before_each.max()
    assert after_each[shown].min() > 0.98 * after_each.max()


def test_no_node_is_added_and_none_changes(given: Graph, made: Equalised) -> None:
    assert [node.SerializeToString() for node in made.graph.parse().graph.node] == [
        node.SerializeToString() for node in given.parse().graph.node
    ]


def test_groups_and_what_is_left_out_are_named_once_for_both_streams(made: Equalised) -> None:
    assert made.groups == (
        "global/stem, global/project → global/expand, global/last",
        "global/expand → global/depthwise",
        "global/depthwise → global/project",
    )
    assert made.skipped == {"global/last": "global/mean follows"}


def test_a_channel_that_never_shows_gets_no_endless_scale(graph: Graph, images: np.ndarray) -> None:
    found = peaks(graph, [images])
    for name in ("global/expand/relu", "local/expand/relu"):
        found[name][3] = 0.0
    before, after = weights_of(graph), weights_of(equalise(graph, found).graph)
    assert np.abs(after["expand.bias"][3] / before["expand.bias"][3]) == pytest.approx(1 / LEAST)


def test_a_clip_cuts_off_at_the_peak_that_was_seen(clipped: Graph, images: np.ndarray) -> None:
    found = {name: np.minimum(value, 0.5) if name.endswith("expand/relu") else value for name, value in peaks(clipped, [images]).items()}
    made = equalise(clipped, found).graph
    exact, cut = (peaks(each, [images])["global/expand/relu"] for each in (clipped, made))
    assert exact.max() > 0.5
    assert cut.max() == pytest.approx(6.0)


@pytest.mark.parametrize("fault", ["activation of another kind", "weights elsewhere", "not observed"])
def test_what_cannot_be_scaled_alike_is_left_alone(graph: Graph, images: np.ndarray, fault: str) -> None:
    model = graph.parse()
    nodes = {node.name: node for node in model.graph.node}
    if fault == "activation of another kind":
        nodes["local/expand/relu"].op_type = "Sigmoid"
    elif fault == "weights elsewhere":  # the bias of a convolution scaled serves one that is not
        nodes["global/last"].input[2] = "expand.bias"
    given = replace(graph, proto=model.SerializeToString())
    found = peaks(given, [images])
    if fault == "not observed":
        found = {name: value for name, value in found.items() if "expand/relu" not in name}
    made = equalise(given, found)
    assert "global/expand → global/depthwise" not in made.groups
    assert "global/expand" in made.skipped
    for name, value in Session(given.proto)(images).items():
        np.testing.assert_allclose(Session(made.graph.proto)(images)[name], value, atol=2e-3)


def test_a_table_says_how_its_graph_was_equalised(clipped: Graph, images: np.ndarray, tmp_path) -> None:
    found = peaks(clipped, [images])
    made = equalise(clipped, found).graph
    calibration = observe(made, iter([([str(index) for index in range(len(images))], images)]), data={}, coverage={})
    replace(calibration, peaks=found).save(tmp_path / "calibration.json")
    table = Calibration.load(tmp_path / "calibration.json")
    assert not table.belongs_to(clipped)
    assert table.belongs_to(equalise(clipped, table.peaks).graph)
    assert quantize(equalise(clipped, table.peaks).graph, table).proto
