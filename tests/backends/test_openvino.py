"""What OpenVINO really runs: its own account of each node's precision."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edge import backends
from edge.bundle import Bundle
from edge.engine import Engine
from edge.errors import EdgeError
from edge.pipeline import BuildOptions, rebuild

pytest.importorskip("openvino")

COORDINATES = ("boxes/", "crop/", "boxes", "crop", "regions")
HEAVY = {"i8": "int8", "u8": "int8", "bf16": "fp16", "f16": "fp16", "f32": "fp32"}


@pytest.fixture
def nodes_of(nodes_here):
    def nodes(bundle):
        read = Bundle.read(bundle)
        return nodes_here(read.path, read.target)

    return nodes


def needs_float16(precision):
    if precision == "fp16" and backends.probe("openvino").float16 is None:
        pytest.skip("this processor has no 16-bit float")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_boxes_and_crops_run_in_float32_in_every_precision(small_bundle, nodes_of, precision):
    needs_float16(precision)
    nodes = nodes_of(small_bundle("openvino", precision))
    seen = 0
    for node in nodes:
        origins = node["origin"].split(",")
        # A kernel that only moves or compares may have integers in it; a reduced float may not be
        # anywhere.
        if any(origin.startswith(COORDINATES) for origin in origins) and node["type"] not in ("Const", "Convolution"):
            assert node["precision"] in ("f32", "i32", "u8", "i64"), node
            seen += 1
    assert seen > 10, "the box and crop nodes were not found by name"
    assert any(node["type"] == "GridSample" and node["precision"] == "f32" for node in nodes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_backbone_convolutions_run_in_the_precision_asked_for(small_bundle, nodes_of, precision):
    needs_float16(precision)
    convolutions = [node for node in nodes_of(small_bundle("openvino", precision)) if node["type"] == "Convolution"]
    found = Counter(HEAVY[node["precision"]] for node in convolutions if "classifier" not in node["origin"])
    assert found == {precision: 104}, found  # 52 convolutions a stream


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_biases_and_activations_are_fused_into_the_convolutions(small_bundle, nodes_of, precision):
    needs_float16(precision)
    types = Counter(node["type"] for node in nodes_of(small_bundle("openvino", precision)) if "block" in node["origin"])
    assert not {"Eltwise", "FakeQuantize", "Convert"} & set(types), types


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_is_close_to_float32(small_bundle, precision):
    needs_float16(precision)
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    with Engine.load(small_bundle("openvino")) as exact, Engine.load(small_bundle("openvino", precision)) as reduced:
        expected, found = exact.infer(images), reduced.infer(images)
    error = np.abs(expected["global_scores"] - found["global_scores"])
    assert 0 < error.mean() < 0.05, error.max()


def test_int8_is_refused_on_arm_where_it_was_wrong(small_bundle, monkeypatch, tmp_path):
    source = small_bundle("openvino", "int8")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(EdgeError, match=r"openvino cannot make int8 engines here: .+\. Set `backend` to onnxruntime, or `precision`"):
        rebuild(source, BuildOptions(output=tmp_path / "rebuilt"))
    assert not (tmp_path / "rebuilt").exists()
    exact = rebuild(small_bundle("openvino"), BuildOptions(output=tmp_path / "rebuilt"))
    assert exact.target.precision == "fp32"


def test_on_arm_int8_chooses_another_backend_by_itself(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(backends, "AUTOMATIC", ("openvino", "onnxruntime"))
    assert backends.automatic("int8") == "onnxruntime"
    assert backends.automatic("fp32") == "openvino"
