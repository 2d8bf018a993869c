"""The split of a drop, on a model whose decisions and streams can be spoilt one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge import lower
from edge.backends.onnxruntime import Session
from edge.graph import Graph
from edge.measure.accuracy import evaluate
from edge.measure.causes import causes
from edge.spec import ImageSpec, ModelSpec

SIZE, CLASSES = 32, 3


def model() -> Graph:
    """Global scores are channel means; the region class is the largest; its box starts there; the
    local scores are the box's."""

    def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(value, name)

    constants = [
        constant("one", np.array([1], np.int64)),
        constant("axes", np.array([2, 3], np.int64)),
        constant("last", np.array([-1], np.int64)),
        constant("table", np.eye(CLASSES, 4, dtype=np.float32)),
        constant("to_scores", np.eye(4, CLASSES, dtype=np.float32)),
        constant("flat", np.array([-1, CLASSES], np.int64)),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["global_scores"], keepdims=0),
        helper.make_node("TopK", ["global_scores", "one"], ["best", "region_classes"]),
        helper.make_node("Gather", ["table", "region_classes"], ["regions"]),  # (B, 1, 4)
        helper.make_node("MatMul", ["regions", "to_scores"], ["found"]),
        helper.make_node("Reshape", ["found", "flat"], ["local_scores"]),
        helper.make_node("Max", ["global_scores", "local_scores"], ["scores"]),
    ]
    shapes: dict[str, list[str | int]] = {name: ["batch", CLASSES] for name in ("scores", "global_scores", "local_scores")}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs.append(helper.make_tensor_value_info("regions", TensorProto.FLOAT, ["batch", 1, 4]))
    outputs.append(helper.make_tensor_value_info("region_classes", TensorProto.INT64, ["batch", 1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    graph = helper.make_graph(nodes, "split", [image], outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return Graph.of(proto, ModelSpec("split", ("a", "b", "c")), ImageSpec(SIZE), {})


REFERENCE = lower.reference(model().parse()).SerializeToString()
IMAGES = np.random.default_rng(0).uniform(0, 0.9, (40, 3, 1, 1)).astype(np.float32) * np.ones((1, 1, SIZE, SIZE), np.float32)


def batches(indices: Sequence[int]) -> Iterator[tuple[object, np.ndarray]]:
    for start in range(0, len(indices), 16):
        yield (), IMAGES[indices[start : start + 16]]


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return Session(model().proto)(IMAGES)


@pytest.fixture(scope="module")
def labels(reference: dict[str, np.ndarray]) -> np.ndarray:
    """What the reference says: its mAP is 100."""
    return np.where(reference["local_scores"] > 0, 1, -1).astype(np.int8)


def split(engine: dict[str, np.ndarray], reference: dict[str, np.ndarray], labels: np.ndarray) -> tuple[float, ...]:
    engine = {**engine, "scores": np.maximum(engine["global_scores"], engine["local_scores"])}
    found = causes(REFERENCE, batches, engine, reference, labels)
    assert found is not None
    drop = evaluate(reference["scores"], labels).map - evaluate(engine["scores"], labels).map
    assert found.scores + found.classes + found.boxes + found.local == pytest.approx(drop)
    return found.scores, found.classes, found.boxes, found.local


def test_an_engine_without_error_has_no_causes(reference: dict[str, np.ndarray], labels: np.ndarray) -> None:
    assert split(reference, reference, labels) == (0, 0, 0, 0)


def test_only_images_decided_otherwise_are_looked_at_again(reference: dict[str, np.ndarray], labels: np.ndarray) -> None:
    engine = {name: value.copy() for name, value in reference.items()}
    engine["region_classes"][[3, 30]] = (reference["region_classes"][[3, 30]] + 1) % CLASSES
    engine["regions"][7] = 0.5
    asked: list[list[int]] = []
    done: list[tuple[int, int]] = []

    def images(indices: Sequence[int]) -> Iterator[tuple[object, np.ndarray]]:
        asked.append(list(indices))
        return batches(indices)

    causes(REFERENCE, images, engine, reference, labels, progress=lambda *at: done.append(at))
    assert asked == [[3, 30], [7]]
    assert done == [(2, 3), (3, 3)]


@pytest.mark.parametrize("which", ["global_scores", "region_classes", "regions", "local_scores"])
def test_a_fault_is_found_where_it_was_put(reference: dict[str, np.ndarray], labels: np.ndarray, which: str) -> None:
    engine = dict(reference)
    half = slice(0, 20)
    if which == "global_scores":
        engine["global_scores"] = engine["global_scores"].copy()
        engine["global_scores"][half] = 2.0
    else:  # what follows from a decision goes wrong with it
        wrong = (reference["region_classes"] + 1) % CLASSES
        table = np.eye(CLASSES, 4, dtype=np.float32)
        for name, value in (("region_classes", wrong), ("regions", table[wrong]), ("local_scores", table[wrong][:, 0, :CLASSES])):
            if ("region_classes", "regions", "local_scores").index(name) >= ("region_classes", "regions", "local_scores").index(which):
                engine[name] = engine[name].copy()
                engine[name][half] = value[half]
    found = split(engine, reference, labels)
    position = ("global_scores", "region_classes", "regions", "local_scores").index(which)
    assert found[position] > 5
    assert [each for index, each in enumerate(found) if index != position] == pytest.approx([0, 0, 0])


def test_a_model_without_regions_has_no_split() -> None:
    plain = onnx.load_from_string(REFERENCE)
    kept = [value for value in plain.graph.output if not value.name.startswith("region")]
    del plain.graph.output[:]
    plain.graph.output.extend(kept)
    outputs = Session(plain.SerializeToString())(IMAGES)
    assert causes(plain.SerializeToString(), batches, outputs, outputs, np.ones((len(IMAGES), CLASSES), np.int8)) is None
