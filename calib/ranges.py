"""Ranges of activations: one pass of images through the whole fp32 graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import Calibration, rounded
from calib.fingerprint import fingerprint
from calib.histogram import Accumulator
from edge import lower
from edge.backends.onnxruntime import Session
from edge.data import Dataset, batches, calibration_subset
from edge.data import coverage as class_coverage
from edge.errors import EdgeError
from edge.events import Progress
from edge.graph import Graph
from edge.lower.backbone import observed
from edge.lower.positive import upper_bound

SAMPLE = 8192  # values of a tensor counted per image, at most about twice as many
PIXELS = 4 * 256 * 256  # of a batch: what memory is spent on
ZERO = np.zeros((), np.float32)  # the minimum of what follows a ReLU


def calibrate(graph: Graph, dataset: Dataset, *, images: int = 256, seed: int = 0, progress: Progress | None = None) -> Calibration:
    """Observe a graph on a class-balanced choice of a data set's images.

    Args:
        graph: canonical, fp32.
        dataset: the train split, labelled or not.
        images: how many images to use; all where there are fewer.
        seed: of the choice.
        progress: called with (images done, images in all).

    Raises:
        EdgeError: no images; an image of one colour; an activation that is NaN or infinite.
    """
    if images < 1 or len(dataset) == 0:
        raise EdgeError(
            "calib",
            f"`calib_images` is {images}, and {dataset.name} {dataset.split} has {len(dataset)} images",
            "Change `dataset`, or set `calib_images` to 1 or more; 256 is usual",
        )
    chosen = calibration_subset(dataset, images, seed)
    subset = dataset.subset(chosen)
    coverage = class_coverage(subset)
    data = {"name": dataset.name, "split": dataset.split, "digest": dataset.digest, "seed": seed}

    def reported() -> Iterable[tuple[Sequence[str], np.ndarray]]:
        done = 0
        for names, batch in batches(subset, graph.image, max(1, PIXELS // graph.image.size**2)):
            yield names, batch
            done += len(names)
            if progress is not None:
                progress(done, len(chosen))

    return observe(graph, reported(), data=data, coverage=coverage)


def observe(
    graph: Graph, images: Iterable[tuple[Sequence[str], np.ndarray]], *, data: Mapping[str, Any], coverage: Mapping[str, int]
) -> Calibration:
    """Observe a graph on batches of (names, (b, 3, S, S) float32).

    Extremes and channel means are exact and computed inside the graph, as is an even sample of the
    values for the histogram (every p-th, p prime, about ``SAMPLE`` per image): no activation leaves
    the runtime, so memory does not grow with their number, and time hardly.
    """
    model = lower.reference(graph.parse())
    values = observed(graph.parse())
    outputs = _add_observers(model, values)
    session = Session(model.SerializeToString(), outputs=outputs)
    histograms = {value: Accumulator() for value in values}
    sums: dict[str, np.ndarray] = {}
    count = 0
    for names, batch in images:
        _refuse_constant(names, batch)
        found = session(batch)
        for value in values:
            low, high, mean = (found.get(f"{value}/observed_{kind}", ZERO) for kind in ("min", "max", "mean"))
            if not (np.isfinite(mean).all() and np.isfinite(low) and np.isfinite(high)):
                raise EdgeError(
                    "calib",
                    f"{value} contains NaN or infinity, for {', '.join(map(str, names))}",
                    "Check the weights, and how the images are normalised",
                )
            histograms[value].add(found[f"{value}/observed_sample"], float(low), float(high))
            sums[value] = sums.get(value, 0.0) + mean.astype(np.float64) * len(batch)
        count += len(batch)
    session.close()
    if count == 0:
        raise EdgeError("calib", "Calibration needs images, but there are none", "Change `dataset`")
    distributions = {value: each.histogram() for value, each in histograms.items()}
    ranges = {value: replace(each, counts=rounded(each.counts)) for value, each in distributions.items()}
    means = {value: rounded(total / count).astype(np.float32) for value, total in sums.items()}
    return Calibration(fingerprint(graph), data, count, coverage, ranges, means)


def _add_observers(model: onnx.ModelProto, values: list[str]) -> list[str]:
    """Append extremes, channel means and a sample of every value to a graph's outputs; returns the
    names added."""
    shapes = _shapes(model)
    graph = model.graph
    source = {name: node for node in graph.node for name in node.output}
    weights = {each.name: each for each in graph.initializer}
    constants = {"observed_flat": [-1], "observed_start": [0], "observed_end": [np.iinfo(np.int64).max], "observed_axis": [0]}
    constants["observed_maps"] = [0, 2, 3]
    added: list[str] = []
    # The runtime begins with the last of the nodes nobody reads: in this order it observes a value
    # as soon as it exists, and frees it; in the other it keeps all values to the end.
    for value in reversed(values):
        step = _prime_from(max(1, int(np.prod(shapes[value][1:])) // SAMPLE)) if value in shapes else 1
        constants[f"observed_step_{step}"] = [step]
        kinds = ("max", "mean", "sample") if upper_bound(value, source, weights) is not None else ("min", "max", "mean", "sample")
        outputs = {kind: f"{value}/observed_{kind}" for kind in kinds}
        flat = f"{value}/observed_flat"
        window = ["observed_start", "observed_end", "observed_axis", f"observed_step_{step}"]
        graph.node.extend(
            [
                helper.make_node("ReduceMax", [value], [outputs["max"]], keepdims=0),
                helper.make_node("ReduceMean", [value, "observed_maps"], [outputs["mean"]], keepdims=0),
                helper.make_node("Reshape", [value, "observed_flat"], [flat]),
                helper.make_node("Slice", [flat, *window], [outputs["sample"]]),
            ]
        )
        if "min" in outputs:
            graph.node.append(helper.make_node("ReduceMin", [value], [outputs["min"]], keepdims=0))
        ranks = {"min": [], "max": [], "mean": [None], "sample": [None]}
        graph.output.extend(helper.make_tensor_value_info(outputs[kind], TensorProto.FLOAT, ranks[kind]) for kind in outputs)
        added += outputs.values()
    graph.initializer.extend(numpy_helper.from_array(np.array(each, np.int64), name) for name, each in constants.items())
    return added


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {each.name: tuple(d.dim_value for d in each.type.tensor_type.shape.dim) for each in [*graph.input, *graph.value_info]}


def _prime_from(least: int) -> int:
    """The smallest prime from ``least`` on (1 for 1): a stride that visits every row and column of
    a map alike."""
    while any(least % divisor == 0 for divisor in range(2, int(least**0.5) + 1)):
        least += 1
    return least


def _refuse_constant(names: Sequence[str], batch: np.ndarray) -> None:
    flat = batch.reshape(*batch.shape[:2], -1)
    for name, constant in zip(names, (flat.min(2) == flat.max(2)).all(1), strict=True):
        if constant:
            raise EdgeError("calib", f"The calibration image {name} has only one colour", "Remove it from the data set")
