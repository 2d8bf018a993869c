"""The recorded outputs of the official implementation, through torch's graph on ONNX Runtime and OpenVINO."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from edge import backends, lower
from edge.backends import onnxruntime, openvino
from edge.models import create, load_checkpoint
from edge.spec import ImageSpec, ModelSpec, TargetSpec
from export import export_graph

CASES = (
    "mobilenetv2_avg_256_top4_thr0.5_c20",
    "mobilenetv2_gwp_448_top4_thr0.5_c80",
    "resnet50_avg_256_top4_thr0.5_c20",
    "resnet50_gwp_448_top2_thr0.5_c80",
    "resnet101_gwp_448_top4_thr0.5_c80",
    "resnet101_gwp_576_top6_thr0.3_c20",
)


@pytest.fixture(scope="module", params=CASES)
def case(request, shared):
    """A recorded case: (graph, images, recorded outputs in our form)."""
    location = importlib.util.spec_from_file_location("reference_weights", shared / "reference" / "weights.py")
    assert location is not None
    assert location.loader is not None
    weights = importlib.util.module_from_spec(location)
    location.loader.exec_module(weights)
    with np.load(shared / "reference" / f"mcar_{request.param}.npz") as file:
        recorded = {name: file[name] for name in file.files}
    name, size = f"mcar-{request.param.split('_')[0]}", int(recorded["size"])
    model = create(
        name,
        int(recorded["num_classes"]),
        pooling=str(recorded["pooling"]),
        regions=int(recorded["topn"]),
        threshold=float(recorded["threshold"]),
    )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    filled = weights.fill(shapes, float(recorded["classifier_std"]))
    load_checkpoint(model, {key: torch.from_numpy(value) for key, value in filled.items()})
    labels = tuple(f"class_{index}" for index in range(int(recorded["num_classes"])))
    graph = export_graph(model, ModelSpec(name, labels, model.spec_options()), ImageSpec(size))
    images = weights.images(int(recorded["seed"]), int(recorded["batch"]), size)
    regions = recorded["regions"]  # x1, x2, y1, y2, label, score
    expected = {
        "global_scores": recorded["global_scores"],
        "local_scores": recorded["local_scores"],
        "regions": regions[..., [0, 2, 1, 3]],
        "region_classes": regions[..., 4].astype(np.int64),
    }
    return graph, images, expected


def agree(found, expected):
    np.testing.assert_array_equal(found["region_classes"], expected["region_classes"])
    assert (np.abs(found["regions"] - expected["regions"]) <= 1).mean() >= 0.99
    for name in ("global_scores", "local_scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_graph_on_onnxruntime_gives_the_official_outputs(case):
    graph, images, expected = case
    session = onnxruntime.Session(lower.reference(graph.parse()).SerializeToString())
    agree(session(images), expected)


def test_graph_on_openvino_gives_the_official_outputs(case, tmp_path):
    pytest.importorskip("openvino")
    graph, images, expected = case
    target = TargetSpec("openvino", "fp32", (len(images),))
    lowered = lower.lower(graph.parse(), backend="openvino", precision="fp32").SerializeToString()
    openvino.build(lowered, target, tmp_path)
    agree(backends.open_built(openvino, tmp_path, target, {})(images), expected)
