"""Where a drop in mAP comes from: the fp32 intermediates are put back in, one decision after the
other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.backends.onnxruntime import Session
from edge.events import Progress
from edge.graph import OUTPUTS, Outputs, cut, outputs_of
from edge.measure.accuracy import evaluate

if TYPE_CHECKING:
    import onnx


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
    graph: bytes,
    images: Callable[[Sequence[int]], Iterable[tuple[object, np.ndarray]]],
    engine: Outputs,
    reference: Outputs,
    labels: NDArray[np.integer],
    *,
    progress: Progress | None = None,
) -> Causes | None:
    """Split the drop of an engine against the fp32 graph.

    Args:
        graph: the fp32 graph in standard nodes, as ``edge.lower.reference`` makes it and a bundle's
            ``reference.onnx`` holds it.
        images: indices → batches (names, (b, 3, S, S) float32) of those images, in order; only
            images are asked for of which the engine decided otherwise than fp32.
        engine, reference: outputs over all N images.
        labels: (N, C) of them.
        progress: called with (images done, images in all).

    Returns:
        None for a model without a local stream.

    Raises:
        ImportError: onnx is not here.
    """
    import onnx

    model = onnx.load_from_string(graph)
    if not set(OUTPUTS) <= set(outputs_of(model)) & set(engine) & set(reference):
        return None
    changed = {
        given: np.flatnonzero((engine[given] != reference[given]).reshape(len(labels), -1).any(1))
        for given in ("region_classes", "regions")
    }
    done, total = 0, sum(map(len, changed.values()))
    local = [reference["local_scores"]]
    for given, indices in changed.items():
        scores = reference["local_scores"].copy()  # where the decision is fp32's, so is what follows
        if len(indices):
            tail, start = _Tail(model, given), 0
            for _, batch in images(indices.tolist()):
                part = indices[start : start + len(batch)]
                scores[part] = tail.local_scores(batch, engine[given][part])
                start += len(batch)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        local.append(scores)
    fused = [reference["scores"], *(np.maximum(engine["global_scores"], each) for each in local), engine["scores"]]
    points = [evaluate(each, labels).map for each in fused]
    return Causes(*(float(before - after) for before, after in pairwise(points)))


class _Tail(Session):
    """The local stream of the fp32 graph, from a decision on."""

    def __init__(self, model: onnx.ModelProto, given: str) -> None:
        values = {value.name: value for value in model.graph.output}
        super().__init__(cut(model, [model.graph.input[0], values[given]], [values["local_scores"]]).SerializeToString())
        self._given = given

    def local_scores(self, images: np.ndarray, decision: np.ndarray) -> np.ndarray:
        """images: (b, 3, S, S) float32; decision: the engine's ``regions`` or ``region_classes`` of
        them → (b, C) float32."""
        found: np.ndarray = self._session.run(self.outputs, {"image": images, self._given: decision})[0]
        return found
