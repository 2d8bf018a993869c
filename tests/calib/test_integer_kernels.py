"""What the runtimes make of the placement: integer convolutions in the backbones and nothing stray between them."""

from __future__ import annotations

import os
import platform
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from calib.calibration import Calibration
from calib.placement import quantize
from edge import lower
from edge.graph import Graph
from edge.lower.unsigned import needs_reduced_range
from edge.spec import TargetSpec

CONVOLUTIONS = ("stem", "expand", "depthwise", "project", "last")


def lowered(graph: Graph, calibration: Calibration, backend: str) -> onnx.ModelProto:
    return lower.lower(quantize(graph, calibration).parse(), backend=backend, precision="int8")


def test_openvino_runs_every_backbone_convolution_in_int8_and_converts_nothing_between(graph: Graph, calibration: Calibration) -> None:
    openvino = pytest.importorskip("openvino")
    from edge.backends.openvino import properties, runtime_nodes

    if platform.machine() not in ("x86_64", "AMD64") or needs_reduced_range():
        pytest.skip("OpenVINO chooses integer kernels for certain on x86 with VNNI only")
    core = openvino.Core()
    model = core.read_model(lowered(graph, calibration, "openvino").SerializeToString(), b"")
    model.reshape({0: [1, 3, graph.image.size, graph.image.size]})
    nodes = runtime_nodes(core.compile_model(model, "CPU", properties(TargetSpec("openvino", "int8"))))
    kinds = Counter((node["type"], node["precision"]) for node in nodes)
    convolutions = {node["origin"]: node["precision"] for node in nodes if node["type"] == "Convolution"}
    for stream in ("global", "local"):
        for layer in CONVOLUTIONS:
            found = [precision for origin, precision in convolutions.items() if f"{stream}/{layer}/" in f"{origin.replace(',', '/,')}/"]
            assert found == ["i8"], (stream, layer, convolutions)
    assert not [kind for kind in kinds if kind[0] in ("Convert", "FakeQuantize")], kinds


def test_onnxruntime_fuses_the_backbones_into_integer_operators(graph: Graph, calibration: Calibration) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = os.fspath(path)
        model = lowered(graph, calibration, "onnxruntime").SerializeToString()
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kinds["QLinearConv"] == 8  # the last ones produce the final feature map, which stays float
    assert kinds["QLinearAdd"] == 2
    assert kinds["QuantizeLinear"] == 2  # one for each stream's input


def test_tensorrt_rtx_parses_the_placement(graph: Graph, calibration: Calibration) -> None:
    tensorrt = pytest.importorskip("tensorrt_rtx")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    network = tensorrt.Builder(logger).create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    parsed = parser.parse(lowered(graph, calibration, "tensorrt-rtx").SerializeToString())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    kinds = Counter(network.get_layer(index).type for index in range(network.num_layers))
    assert kinds[tensorrt.LayerType.QUANTIZE] == 2 * 6


def test_answers_agree_between_lowerings(graph: Graph, calibration: Calibration, images: np.ndarray) -> None:
    from edge.backends.onnxruntime import Session

    signed = Session(quantize(graph, calibration).proto)(images)
    unsigned = Session(lowered(graph, calibration, "onnxruntime").SerializeToString())(images)
    assert np.abs(signed["scores"] - unsigned["scores"]).max() < 0.05
