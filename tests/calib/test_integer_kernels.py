"""What the runtimes make of the placement: integer convolutions in the backbones and nothing stray
between them."""

from __future__ import annotations

import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from calib.calibration import Calibration
from calib.placement import quantize
from edge import backends, lower
from edge.graph import Graph
from edge.spec import StagesSpec, TargetSpec

CONVOLUTIONS = ("stem", "expand", "depthwise", "project", "last")
INSIDE = (*CONVOLUTIONS, "pool", "block")
INTEGER = {"i8", "u8"}


def lowered(graph: Graph, calibration: Calibration, backend: str) -> onnx.ModelProto:
    return lower.lower(quantize(graph, calibration).parse(), backend=backend, precision="int8")


def test_openvino_stays_in_integers_from_the_first_convolution_of_a_backbone_to_the_last(
    graph: Graph, calibration: Calibration, nodes_here: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("OpenVINO chooses integer kernels for certain on x86 only")
    target = TargetSpec("openvino", "int8")
    model = quantize(graph, calibration).parse()
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:  # as in stages, where no convolution shares a bias: OpenVINO fuses it only then
        if node.op_type == "Conv":
            own = model.graph.initializer.add()
            own.CopyFrom(constants[node.input[2]])
            own.name = node.input[2] = f"{node.name}.bias"
    stages = lower.lower_stages(model, target, row="openvino", in_stages=True)
    backends.backend("openvino").build(stages, target, StagesSpec((1,)), tmp_path)
    nodes = nodes_here(tmp_path, target)
    for stream in ("global", "local"):
        seen = []
        for node in nodes:
            layers = [origin.split("/")[1] for origin in node["origin"].split(",") if origin.startswith(f"{stream}/")]
            if not set(layers) & set(INSIDE):
                continue
            seen += layers
            # Which spelling, i8 or u8, is the processor's affair; so is a change from one to the
            # other.
            assert node["precision"] in INTEGER, node
            # The last convolution makes the features that the head and the class maps read as
            # floats.
            assert node["output_precisions"] in ({"f32"} if "last" in layers else INTEGER), node
        assert set(seen) >= set(CONVOLUTIONS), "the convolutions were not found by name"
    assert not [node for node in nodes if node["type"] == "Convert"]


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
    parsed = parser.parse(lowered(graph, calibration, "standard-nodes").SerializeToString())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    kinds = Counter(network.get_layer(index).type for index in range(network.num_layers))
    assert kinds[tensorrt.LayerType.QUANTIZE] == 2 * 6


def test_answers_agree_between_lowerings(graph: Graph, calibration: Calibration, images: np.ndarray) -> None:
    from edge.backends.onnxruntime import Session

    signed = Session(quantize(graph, calibration).proto)(images)
    unsigned = Session(lowered(graph, calibration, "onnxruntime").SerializeToString())(images)
    assert np.abs(signed["scores"] - unsigned["scores"]).max() < 0.05


def test_the_graph_of_tensorrt_is_computed_as_it_stands(graph: Graph, calibration: Calibration, images: np.ndarray) -> None:
    """``benchmarks.int8`` says what TensorRT makes of int8: no runtime may fuse or move the
    rounding."""
    from benchmarks.int8 import as_tensorrt

    quantised = quantize(graph, calibration)
    exact, alone = (ReferenceEvaluator(each.parse()).run(["scores"], {"image": images})[0] for each in (graph, quantised))
    found = as_tensorrt(quantised)(images)["scores"]
    # 16-bit floats between the roundings differ, and what then falls the other way.
    assert np.abs(found - alone).mean() < 0.25 * np.abs(exact - alone).mean()
