"""Where a drop in mAP comes from: the fp32 intermediates are put back in, one decision after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge import lower
from edge.backends.onnxruntime import Session
from edge.graph import Graph, outputs_of
from edge.measure.accuracy import evaluate

NEEDED = ("scores", "global_scores", "local_scores", "regions", "region_classes")
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Causes:
    """A drop in mAP, in points, by what caused it; the four sum to the whole.

    Attributes:
        scores: the engine's scores of the whole image, all else from fp32.
        classes: besides, the classes the engine chose, with the boxes fp32 finds for them.
        boxes: besides, the engine's boxes, looked at in fp32.
        local: besides, the engine's local stream: now everything is the engine's.
    """

    scores: float
    classes: float
    boxes: float
    local: float


def causes(
    graph: Graph, images: Iterable[tuple[object, np.ndarray]], engine: Outputs, reference: Outputs, labels: NDArray[np.integer]
) -> Causes | None:
    """Split the drop of an engine against the fp32 graph.

    Args:
        graph: canonical, fp32.
        images: (names, (b, 3, S, S) float32), those that ``engine`` and ``reference`` are the outputs of, in order.
        labels: (N, C) of those images.

    Returns:
        None for a model without a local stream.
    """
    model = lower.reference(graph.parse())
    if not set(NEEDED) <= set(outputs_of(model)):
        return None
    from_classes, from_boxes = (_Tail(_tail(model, given), given) for given in ("region_classes", "regions"))
    found: dict[str, list[np.ndarray]] = {"classes": [], "boxes": []}
    start = 0
    for _, batch in images:
        part = slice(start, start + len(batch))
        found["classes"].append(from_classes.local_scores(batch, engine["region_classes"][part]))
        found["boxes"].append(from_boxes.local_scores(batch, engine["regions"][part]))
        start += len(batch)
    local = [reference["local_scores"], *(np.concatenate(found[name]) for name in ("classes", "boxes")), engine["local_scores"]]
    points = [evaluate(np.maximum(engine["global_scores"], each), labels).map for each in local]
    points.insert(0, evaluate(reference["scores"], labels).map)
    return Causes(*(float(before - after) for before, after in pairwise(points)))


class _Tail(Session):
    """The local stream of the fp32 graph, from a decision on."""

    def __init__(self, model: onnx.ModelProto, given: str) -> None:
        super().__init__(model.SerializeToString(), outputs=("local_scores",))
        self._given = given

    def local_scores(self, images: np.ndarray, decision: np.ndarray) -> np.ndarray:
        """images: (b, 3, S, S) float32; decision: the engine's ``regions`` or ``region_classes`` of them → (b, C) float32."""
        found: np.ndarray = self._session.run(self.outputs, {"image": images, self._given: decision})[0]
        return found


def _tail(model: onnx.ModelProto, given: str) -> onnx.ModelProto:
    """The part of a graph that leads to ``local_scores`` with the output ``given`` made an input."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    decision = next(value for value in model.graph.output if value.name == given)
    needed = {"local_scores"}
    kept = []
    for node in reversed(graph.node):
        if needed & (set(node.output) - {given}):
            kept.append(node)
            needed.update(node.input)
    for node in kept:  # the node that decided may have other outputs in use
        node.output[:] = [f"{name}/unused" if name == given else name for name in node.output]
    constants = [each for each in graph.initializer if each.name in needed]
    target = [value for value in graph.output if value.name == "local_scores"]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(constants)
    graph.output.extend(target)
    graph.input.append(decision)
    return cut
