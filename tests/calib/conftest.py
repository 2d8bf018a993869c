"""A graph with everything the placement rules speak about: two streams over one set of weights, no
edge ops needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import Calibration
from calib.ranges import observe
from edge.graph import Graph
from edge.lower.backbone import observed
from edge.spec import ImageSpec, ModelSpec

SIZE, CHANNELS, CLASSES = 32, 8, 3


class Network:
    """stem (Clip) → MaxPool → expand (Relu) → depthwise (Relu) → project + shortcut → Relu → last
    (Relu) → classifier."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.random = np.random.default_rng(3)

    def constant(self, name: str, value: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, op_type: str, name: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output or name], name=name, **attributes))
        return output or name

    def conv(self, stream: str, layer: str, value: str, out: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        weights = self.random.normal(size=(out, channels, kernel, kernel)) / np.sqrt(channels * kernel * kernel)
        weights *= np.exp(self.random.normal(size=(out, 1, 1, 1)))  # channels of different size, as folded BatchNorm leaves them
        weight = self.constant(f"{layer}.weight", weights)
        bias = self.constant(f"{layer}.bias", self.random.normal(size=out) * 0.2)
        pads = [kernel // 2] * 4
        return self.add("Conv", f"{stream}/{layer}", value, weight, bias, strides=[stride] * 2, pads=pads, group=groups)

    def stream(self, stream: str, value: str, output: str) -> None:
        low, high = self.constant("low", 0.0), self.constant("high", 6.0)
        value = self.add("Clip", f"{stream}/stem/clip", self.conv(stream, "stem", value, CHANNELS, 3, 3, 2), low, high)
        pooled = self.add("MaxPool", f"{stream}/pool", value, kernel_shape=[2, 2], strides=[2, 2])
        value = self.add("Relu", f"{stream}/expand/relu", self.conv(stream, "expand", pooled, 2 * CHANNELS, CHANNELS))
        value = self.conv(stream, "depthwise", value, 2 * CHANNELS, 1, 3, groups=2 * CHANNELS)
        value = self.add("Relu", f"{stream}/depthwise/relu", value)
        value = self.conv(stream, "project", value, CHANNELS, 2 * CHANNELS)
        value = self.add("Relu", f"{stream}/block/relu", self.add("Add", f"{stream}/block/add", value, pooled))
        value = self.add("Relu", f"{stream}/last/relu", self.conv(stream, "last", value, 2 * CHANNELS, CHANNELS, 3))
        value = self.conv(stream, "classifier", self.add("GlobalAveragePool", f"{stream}/mean", value), CLASSES, 2 * CHANNELS)
        self.add("Flatten", f"{stream}/scores", self.add("Sigmoid", f"{stream}/sigmoid", value), output=output)

    def build(self) -> onnx.ModelProto:
        self.stream("global", "image", "global_scores")
        self.add("Transpose", "local/crop", "image", perm=[0, 1, 3, 2])
        self.add("Mul", "local/zoomed", "local/crop", self.constant("zoom", 2.0))
        self.stream("local", "local/zoomed", "local_scores")
        self.add("Max", "fuse", "global_scores", "local_scores", output="scores")
        outputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", CLASSES]) for n in ("scores", "global_scores", "local_scores")
        ]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
        graph = helper.make_graph(self.nodes, "small", [image], outputs, list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


@pytest.fixture(scope="session")
def graph() -> Graph:
    return Graph.of(Network().build(), ModelSpec("small", ("a", "b", "c")), ImageSpec(SIZE), {})


def photographs(count: int, seed: int = 0) -> np.ndarray:
    """(count, 3, S, S) float32: blobs of different contrast, and noise."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 3, 8, 8)) * random.uniform(0.3, 1.5, size=(count, 1, 1, 1))
    return (np.kron(coarse, np.ones((SIZE // 8, SIZE // 8))) + 0.3 * random.normal(size=(count, 3, SIZE, SIZE))).astype(np.float32)


@pytest.fixture(scope="session")
def photographs_of() -> Callable[..., np.ndarray]:
    """``photographs``, for tests that want other images than ``images``."""
    return photographs


def in_batches(images: np.ndarray, batch: int = 4) -> Iterator[tuple[list[str], np.ndarray]]:
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield [f"{start + index}.png" for index in range(len(part))], part


@pytest.fixture(scope="session")
def calibration(graph: Graph) -> Calibration:
    pytest.importorskip("onnxruntime")
    return observe(graph, in_batches(photographs(38)), data={"name": "random"}, coverage={"a": 4, "b": 0, "c": 9})


@pytest.fixture(scope="session")
def values(graph: Graph) -> list[str]:
    return observed(graph.parse())


@pytest.fixture
def images() -> np.ndarray:
    return photographs(6, seed=9)
