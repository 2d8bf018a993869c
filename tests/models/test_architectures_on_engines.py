"""RMA and AAMN through the same pipeline as MCAR: graph, lowering, engines, int8; what must stay
float32 does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calib.placement import quantize
from calib.ranges import observe
from calib.sensitivity import units
from edge import backends, lower
from edge.backends.onnxruntime import Session
from edge.draw import draw
from edge.engine import Engine
from edge.graph import WHOLE, Graph
from edge.lower.backbone import convolutions
from edge.lower.sixteen_bit import FLOAT16
from edge.models.network import Network
from edge.models.source import open_source
from edge.spec import ImageSpec, TargetSpec
from export import check_parity, export_graph
from export.parity import blob_images

SIZE = 64
IMAGE = ImageSpec(SIZE)
EXACT = ("localise", "softmax", "global/abs")


@dataclass(frozen=True)
class Case:
    """A network whose parts all matter, and its graph."""

    network: Network
    graph: Graph


@pytest.fixture(scope="module", params=["rma-mobilenetv2", "aamn-mobilenetv2"])
def case(request: pytest.FixtureRequest) -> Case:
    source = open_source("random", model=request.param, size=SIZE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in source.network.named_parameters():
            if name in ("localise.weight", "memory.value.weight", "convclass.weight"):
                parameter.normal_(0, 0.05, generator=generator)
            elif name == "spatial.gamma":
                parameter.fill_(0.5)
    return Case(source.network, export_graph(source.network, source.model, source.image))


@pytest.fixture(scope="module")
def int8(case: Case) -> Graph:
    images = blob_images(8, SIZE, seed=1)
    table = observe(case.graph, [(["blobs"] * 8, images)], data={"name": "blobs", "split": "train", "digest": "", "seed": 0}, coverage={})
    return quantize(case.graph, table)


def engine(graph: Graph, folder: Path, backend: str, precision: str) -> Engine:
    support = backends.probe(backend)
    float16 = {"fp16": support.float16, "int8": support.int8_float16}.get(precision)
    if precision == "fp16" and float16 is None:
        pytest.skip(f"{backend} has no 16-bit float here")
    target = TargetSpec(backend, precision, (1, 2), float16, support.reduced_range)
    return Engine.from_lowered(backends.lowered(graph, target), graph, target, folder)


def test_the_graph_computes_what_the_network_computes(case: Case) -> None:
    parity = check_parity(case.network, Session(lower.reference(case.graph.parse()).SerializeToString()), IMAGE)
    assert parity.score_error < 1e-4


def test_the_graph_is_static_and_plain(case: Case) -> None:
    proto = case.graph.parse()
    assert {node.domain for node in proto.graph.node} == {""}
    assert not {"Loop", "GridSample", "RoiAlign", "LSTM"} & {node.op_type for node in proto.graph.node}
    for value in proto.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert all(side > 0 for side in shape[1:]), value.name


def test_openvino_computes_the_same(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    images = blob_images(2, SIZE)
    with torch.inference_mode():
        expected = case.network(torch.from_numpy(images))
    with engine(case.graph, tmp_path, "openvino", "fp32") as made:
        found = made.infer(images)
    assert set(found) == set(expected)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    if "regions" in found:
        np.testing.assert_allclose(found["regions"], expected["regions"], atol=1e-2)
        assert found["region_classes"].dtype == np.int64


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_stays_close(case: Case, int8: Graph, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from edge.backends.openvino import runtime_nodes

    images = blob_images(2, SIZE)
    reference = Session(lower.reference(case.graph.parse()).SerializeToString())(images)
    with engine(int8 if precision == "int8" else case.graph, tmp_path, "openvino", precision) as made:
        found = made.infer(images)
        nodes = runtime_nodes(made.runners[WHOLE].compiled(1))
    # What decides where the next region lies; on AAMN, what attends. (A cast before it is named
    # after it.)
    origins = {origin: node["precision"] for node in nodes for origin in node["origin"].split(",") if "/fp32_" not in origin}
    exact = {origin: precision for origin, precision in origins.items() if any(word in origin for word in EXACT)}
    assert exact
    assert set(exact.values()) == {"f32"}, exact
    # Random weights leave no margins: this tells a broken graph, not what int8 costs.
    assert 0 < np.abs(found["scores"] - reference["scores"]).mean() < (0.15 if precision == "int8" else 0.05)


def test_int8_runs_on_onnx_runtime_and_rounds_the_backbone(case: Case, int8: Graph, tmp_path: Path) -> None:
    rounded = [node.name for node in convolutions(case.graph.parse())]
    assert len(rounded) >= 52
    parts = units(case.graph)
    assert {name for nodes in parts.values() for name in nodes} >= set(rounded)
    images = blob_images(2, SIZE)
    with engine(int8, tmp_path, "onnxruntime", "int8") as made:
        assert np.isfinite(made.infer(images)["scores"]).all()


@pytest.mark.parametrize("float16", ["fp16", "bf16"])
def test_places_and_samples_are_float32_in_every_precision(case: Case, int8: Graph, float16: str) -> None:
    """From the places on, through the weights of the samples, to what is sampled; and all that
    attends."""
    for graph in (case.graph, int8):
        typed = lower.lower(graph.parse(), backend="openvino", precision="fp16", float16=float16)
        inferred = onnx.shape_inference.infer_shapes(typed).graph
        kind = {each.name: each.type.tensor_type.elem_type for each in [*inferred.value_info, *inferred.output]}
        constants = {each.name: each.data_type for each in inferred.initializer}
        narrow = 0
        for node in inferred.node:
            operation = node.name.rpartition("/")[2].partition("_")[0]
            narrow += kind.get(node.output[0]) == FLOAT16[float16]
            exact = operation == "localise" or node.op_type in ("Abs", "Sub", "Softmax", "ArgMax", "Sigmoid", "Tanh")
            products = node.op_type == "MatMul" and not any(name in constants for name in node.input)
            if exact or products:
                types = {(kind | constants).get(name) for name in node.input}
                assert types <= {onnx.TensorProto.FLOAT}, (node.name, types)
        assert narrow > 50


def test_predict_names_and_draws_what_it_saw(case: Case, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with engine(case.graph, tmp_path, "onnxruntime", "fp32") as made:
        (prediction,) = made.predict([photo], score_threshold=0.0)
    assert len(prediction.labels) == 20
    if case.graph.model.name.startswith("rma"):
        assert len(prediction.regions) == 5
        for region in prediction.regions:
            left, top, right, bottom = region.box
            assert 0 <= left < right <= 120
            assert 0 <= top < bottom <= 90
        without = replace(prediction, regions=[])
        assert draw(photo, prediction).tobytes() != draw(photo, without).tobytes()
    else:
        assert prediction.regions == []
