"""A canonical graph in miniature: two streams over one set of weights, both edge ops, every kind of
node a backbone has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.ops import DOMAIN, register_schemas

SIZE, CELLS, REGIONS, CLASSES, CHANNELS = 64, 2, 2, 5, 16


class Streams:
    """Builds the graph; ``quantised`` puts Q/DQ around the inputs and weights of all but the first
    convolution."""

    def __init__(self, quantised: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.quantised = quantised
        self.random = np.random.default_rng(5)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        return self.constant(name, (self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def add(self, op_type: str, name: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        value = output or f"{name}/out"
        self.nodes.append(helper.make_node(op_type, inputs, [value], name=name, **attributes))
        return value

    def quantise(self, value: str, name: str, scale: float = 0.05) -> str:
        pair = self.constant(f"{name}/scale", np.float32(scale).reshape(())), self.constant("zero", np.zeros((), np.int8))
        return self.add("DequantizeLinear", f"{name}/dq", self.add("QuantizeLinear", f"{name}/q", value, *pair), *pair)

    def conv(self, stream: str, layer: str, value: str, channels: int, kernel: int, stride: int) -> str:
        weight, bias = self.weights(f"{layer}.weight", CHANNELS, channels, kernel, kernel), f"{layer}.bias"
        self.constant(bias, self.random.normal(size=CHANNELS).astype(np.float32) * 0.1)
        if self.quantised and layer != "stem":
            value = self.quantise(value, f"{stream}/{layer}/in")
            steps = np.full(CHANNELS, 0.01, np.float32)
            steps_name = self.constant(f"{layer}.steps", steps)
            floats = numpy_helper.to_array(self.constants.pop(weight)) if weight in self.constants else None
            if floats is not None:
                self.constant(f"{layer}.int8", np.clip(np.round(floats / 0.01), -127, 127).astype(np.int8))
            zeros = self.constant("zeros", np.zeros(CHANNELS, np.int8))
            weight = self.add("DequantizeLinear", f"{stream}/{layer}/weight", f"{layer}.int8", steps_name, zeros, axis=0)
        pad = (kernel - 1) // 2
        return self.add("Conv", f"{stream}/{layer}", value, weight, bias, strides=[stride] * 2, pads=[pad] * 4)

    def backbone(self, stream: str, value: str) -> str:
        value = self.add("Relu", f"{stream}/stem/relu", self.conv(stream, "stem", value, 3, 7, 4))
        value = self.add("MaxPool", f"{stream}/pool", value, kernel_shape=[4, 4], strides=[4, 4])
        low, high = self.constant("low", np.float32(0).reshape(())), self.constant("high", np.float32(6).reshape(()))
        inner = self.add("Clip", f"{stream}/block/clip", self.conv(stream, "block.conv1", value, CHANNELS, 3, 1), low, high)
        inner = self.conv(stream, "block.conv2", inner, CHANNELS, 3, 1)
        shortcut = self.quantise(value, f"{stream}/block/shortcut") if self.quantised else value
        value = self.add("Relu", f"{stream}/block/relu", self.add("Add", f"{stream}/block/add", inner, shortcut))
        return self.add("Relu", f"{stream}/last/relu", self.conv(stream, "last", value, CHANNELS, 3, 2))

    def logits(self, stream: str, features: str, shape: str) -> str:
        pooled = self.add("GlobalAveragePool", f"{stream}/pooled", features)
        scores = self.add("Conv", f"{stream}/classifier", pooled, "classifier.weight", "classifier.bias")
        return self.add("Reshape", f"{stream}/logits", scores, shape)

    def build(self) -> onnx.ModelProto:
        self.constant("classifier.weight", self.random.normal(size=(CLASSES, CHANNELS, 1, 1)).astype(np.float32))
        self.constant("classifier.bias", np.zeros(CLASSES, np.float32))

        def shape(name: str, *sizes: int) -> str:
            return self.constant(name, np.array(sizes, np.int64))

        plugin = {"domain": DOMAIN, "plugin_version": "1", "plugin_namespace": DOMAIN}
        features = self.backbone("global", "image")
        logits = self.logits("global", features, shape("rows", -1, CLASSES))
        self.add("Sigmoid", "global/scores", logits, output="global_scores")
        maps = self.add("Sigmoid", "global/maps", self.add("Conv", "global/map_logits", features, "classifier.weight", "classifier.bias"))
        top = helper.make_node("TopK", [logits, shape("regions_k", REGIONS)], ["global/top/values", "region_classes"], name="global/top")
        self.nodes.append(top)
        chosen = self.add("Reshape", "global/chosen", "region_classes", shape("chosen_shape", -1, REGIONS, 1))
        flat = self.add("Reshape", "global/flat_maps", maps, shape("flat_shape", -1, CLASSES, CELLS * CELLS))
        spread = self.add("Add", "global/spread", chosen, self.constant("cells", np.zeros((1, 1, CELLS * CELLS), np.int64)))
        cams = self.add("GatherElements", "global/gathered", flat, spread, axis=1)
        cams = self.add("Reshape", "global/cams", cams, shape("cams_shape", -1, REGIONS, CELLS, CELLS))
        self.add("RegionBoxes", "global/boxes", cams, output="regions", size=SIZE, threshold=0.5, **plugin)
        crops = self.add("RoiResize", "local/crops", "image", "regions", size=SIZE, **plugin)
        logits = self.logits("local", self.backbone("local", crops), shape("region_rows", -1, REGIONS, CLASSES))
        local = self.add("ReduceMax", "local/strongest", logits, shape("axis", 1), keepdims=0)
        self.add("Sigmoid", "local/scores", local, output="local_scores")
        self.add("Max", "local/fused", "global_scores", "local_scores", output="scores")

        scores = [
            helper.make_tensor_value_info(each, TensorProto.FLOAT, ["batch", CLASSES])
            for each in ("scores", "global_scores", "local_scores")
        ]
        regions = helper.make_tensor_value_info("regions", TensorProto.FLOAT, ["batch", REGIONS, 4])
        classes = helper.make_tensor_value_info("region_classes", TensorProto.INT64, ["batch", REGIONS])
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
        graph = helper.make_graph(self.nodes, "mcar", [image], [*scores, regions, classes], list(self.constants.values()))
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        register_schemas()
        onnx.checker.check_model(model, full_check=True)
        return model


@pytest.fixture
def canonical() -> onnx.ModelProto:
    return Streams(quantised=False).build()


@pytest.fixture
def quantised() -> onnx.ModelProto:
    """The same with explicit Q/DQ, scales shared by the two nodes of a pair, weights by both
    streams."""
    return Streams(quantised=True).build()


@pytest.fixture
def image() -> np.ndarray:
    """(3, 3, S, S) float32, smooth enough that boxes lie inside."""
    coarse = np.random.default_rng(2).normal(size=(3, 3, 8, 8)).astype(np.float32)
    return np.kron(coarse, np.ones((SIZE // 8, SIZE // 8), np.float32))


Outputs = list[np.ndarray]


@pytest.fixture
def run() -> Callable[[onnx.ModelProto, np.ndarray], Outputs]:
    """All outputs of a standard-node graph on ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(model: onnx.ModelProto, image: np.ndarray) -> Outputs:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, {"image": image}
        )

    return run
