"""The recorded outputs of the official implementation, through torch's graph on ONNX Runtime and
through engines in stages."""

from __future__ import annotations

import numpy as np
import pytest

from edge import backends, lower
from edge.backends.onnxruntime import Session
from edge.engine import Engine
from edge.graph import CLOSER, LOOK
from edge.spec import ImageSpec, ModelSpec, TargetSpec
from export import export_graph


@pytest.fixture(scope="module")
def case(official_case):
    """A recorded case: (graph, images, expected outputs)."""
    name, network, images, expected = official_case
    labels = tuple(f"class_{index}" for index in range(expected["global_scores"].shape[1]))
    return export_graph(network, ModelSpec(name, labels, network.spec_options()), ImageSpec(images.shape[-1])), images, expected


def agree(found, expected):
    np.testing.assert_array_equal(found["region_classes"], expected["region_classes"])
    assert (np.abs(found["regions"] - expected["regions"]) <= 1).mean() >= 0.99
    for name in ("global_scores", "local_scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_graph_on_onnxruntime_gives_the_official_outputs(case):
    graph, images, expected = case
    session = Session(lower.reference(graph.parse()).SerializeToString())
    agree(session(images), expected)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_both_stages_of_an_engine_give_the_official_outputs(case, tmp_path, backend):
    pytest.importorskip(backend)
    graph, images, expected = case
    target = TargetSpec(backend, "fp32", (len(images),))
    with Engine.from_lowered(backends.lowered(graph, target), graph, target, tmp_path) as engine:
        assert set(engine.runners) == {LOOK, CLOSER}
        agree(engine.infer(images), expected)
