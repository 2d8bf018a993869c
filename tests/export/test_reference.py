"""The recorded outputs of the official implementation, through torch's graph on ONNX Runtime and OpenVINO."""

from __future__ import annotations

import numpy as np
import pytest

from edge import backends, lower
from edge.backends.onnxruntime import Session
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


def test_graph_on_openvino_gives_the_official_outputs(case, tmp_path):
    pytest.importorskip("openvino")
    graph, images, expected = case
    target = TargetSpec("openvino", "fp32", (len(images),))
    lowered = lower.lower(graph.parse(), backend="openvino", precision="fp32").SerializeToString()
    openvino = backends.backend("openvino")
    openvino.build(lowered, target, tmp_path)
    agree(backends.open_built(openvino, tmp_path, target, {})(images), expected)
