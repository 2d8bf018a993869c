"""``python -m benchmarks.int8 WEIGHTS --dataset SPEC``: what int8 costs a network, by repair, by
runtime, and after training for it.

Ranges and rounding are of the train split without the part that is held out. Each row is compared
with the float32 graph of WEIGHTS, on the images that are reported and, with --held-out, on the part
that was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.table import Quality, quality
from calib.calibration import Calibration, Fitted
from calib.equalise import equalise
from calib.fit import fit, images_for
from calib.peaks import IMAGES, peaks
from calib.placement import DEFAULT_METHOD, quantize
from calib.ranges import PIXELS, calibrate
from calib.scales import METHODS
from calib.sensitivity import units
from calib.trials import engine_of, scratch
from edge import backends, command, lower
from edge.backends.onnxruntime import Session, library
from edge.cpu import cores
from edge.data import REPORT, Dataset, batches, calibration_subset, match_labels, open_dataset, validation_split
from edge.graph import Graph, Outputs
from edge.measure.latency import interleave, timed
from edge.measure.outputs import collect, sample
from edge.models.source import open_source
from edge.options import CALIBRATION_IMAGES, REPAIRS
from edge.plain import to_plain
from edge.report import text
from edge.spec import TargetSpec
from export.exporter import export_graph

BATCH = 8
TENSORRT = "tensorrt"  # whose graph ONNX Runtime computes as it stands
UNFITTED = ("bias-correction", "equalisation")
COLUMNS = ("row", "runtime", "images", "mAP", "Δ mAP", "95 %", "logits", "agreement", "IoU", "time")


@dataclass(frozen=True)
class Way:
    """One way to int8.

    Attributes:
        repairs: of ``edge.options.REPAIRS``.
        runtime: a backend, or ``TENSORRT``.
        trained: whether it starts from the weights of --qat.
        in_float: stages that are not rounded, in both streams.
        method: of ``calib.scales.METHODS``.
    """

    repairs: Collection[str]
    runtime: str = "openvino"
    trained: bool = False
    in_float: Collection[str] = ()
    method: str = DEFAULT_METHOD


WAYS = {
    "none": Way(()),
    "bias-correction": Way(("bias-correction",)),
    "equalisation": Way(UNFITTED),
    **{f"equalisation-{method}": Way(UNFITTED, method=method) for method in METHODS if method != DEFAULT_METHOD},
    "default": Way(REPAIRS),
    "default-onnxruntime": Way(REPAIRS, "onnxruntime"),
    "default-tensorrt": Way(REPAIRS, TENSORRT),
    "last-float": Way(REPAIRS, in_float=("last",)),
    "end-float": Way(REPAIRS, in_float=("block15", "block16", "block17", "last")),
    "start-float": Way(REPAIRS, in_float=("stem", "block1", "block2")),
    "qat": Way((), trained=True),
    "qat-onnxruntime": Way((), "onnxruntime", trained=True),
    "qat-tensorrt": Way((), TENSORRT, trained=True),
    "qat-default": Way(REPAIRS, trained=True),
}


@dataclass(frozen=True)
class Row:
    """A way to int8 on some images.

    Attributes:
        logit_error: root mean square of the difference of the global stream's logits.
        time: × that of the row ``default``; None where it was not measured.
    """

    way: str
    runtime: str
    images: str
    count: int
    logit_error: float
    quality: Quality
    time: float | None


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.int8", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("weights", help="shipped name or checkpoint")
    made.add_argument("--dataset", required=True, metavar="SPEC", help="what it was trained on")
    made.add_argument("--test", metavar="SPEC", help="report on these images; default: those of --dataset")
    made.add_argument("--images", type=int, default=1000, help="at most so many of them (default 1000)")
    made.add_argument("--calib-images", type=int, default=CALIBRATION_IMAGES, help=f"default {CALIBRATION_IMAGES}")
    made.add_argument("--held-out", action="store_true", help="also on the part of the train split that is held out")
    made.add_argument("--qat", type=Path, metavar="CHECKPOINT", help="of edge.train --qat: the rows qat…")
    made.add_argument("--time", action="store_true", help="also how long each row takes, against the row default")
    made.add_argument("--only", nargs="+", choices=tuple(WAYS), default=tuple(WAYS), metavar="ROW", help=f"of {', '.join(WAYS)}")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    source = open_source(args.weights)
    graphs = {False: export_graph(source.network, source.model, source.image)}
    if args.qat is not None:
        other = open_source(args.qat)
        graphs[True] = export_graph(other.network, other.model, other.image)
    train = match_labels(open_dataset(args.dataset, "train"), source.model.labels)
    kept, held_out = validation_split(train)
    test = match_labels(open_dataset(args.test or args.dataset, REPORT), source.model.labels)
    parts = {"test": test.subset(sample(len(test), args.images)), **({"held out": held_out} if args.held_out else {})}
    exact = Session(lower.reference(graphs[False].parse()).SerializeToString())
    references = {name: outputs(exact, part, graphs[False]) for name, part in parts.items()}
    tables: dict[tuple[bool, bool], tuple[Graph, Calibration]] = {}
    fits: dict[bool, Fitted] = {}

    def quantised(way: Way) -> Graph:
        key = way.trained, "equalisation" in way.repairs
        if key not in tables:
            tables[key] = calibrated(graphs[way.trained], kept, equalised=key[1], count=args.calib_images)
        start, table = tables[key]
        if "rounding" in way.repairs and way.trained not in fits:
            fits[way.trained] = fitted(start, table, kept)
        return quantize(
            start, table, method=way.method, bias_correction="bias-correction" in way.repairs,
            fitted=fits[way.trained] if "rounding" in way.repairs else None,
            float_nodes=[name for unit, nodes in units(start).items() if unit.rpartition("/")[2] in way.in_float for name in nodes],
        )  # fmt: skip

    rows = []
    for name, way in WAYS.items():
        if name not in args.only or way.trained not in graphs:
            continue
        graph, time = quantised(way), None
        if args.time and way.runtime != TENSORRT:
            time = slower(graph, quantised(WAYS["default"]), target_of(WAYS["default"].runtime), target_of(way.runtime))
        for title, part in parts.items():
            rows.append(judged(name, title, part, run(graph, way.runtime, part), references[title], time))
            command.say("  ".join(cells(rows[-1])))
    command.say("", *text.text_table(COLUMNS, [cells(row) for row in rows], frozenset(COLUMNS[3:])))
    command.write_json(args.json, {"weights": source.title, "rows": [to_plain(row) for row in rows]})
    return 0


def calibrated(graph: Graph, images: Dataset, *, equalised: bool = True, count: int = CALIBRATION_IMAGES) -> tuple[Graph, Calibration]:
    """The graph that is rounded, and its ranges, as a build makes them of these images."""
    start = graph
    if equalised:
        start = equalise(graph, peaks(graph, some(images, IMAGES, graph))).graph
    return start, calibrate(start, images, images=count)


def fitted(start: Graph, table: Calibration, images: Dataset) -> Fitted:
    """Weights and biases, likewise."""
    return fit(start, table, some(images, images_for(start.image.size), start), method=DEFAULT_METHOD)


def some(images: Dataset, count: int, graph: Graph) -> Iterator[np.ndarray]:
    """Batches of so many of the images."""
    chosen = images.subset(calibration_subset(images, count, 0))
    return (each for _, each in batches(chosen, graph.image, max(1, PIXELS // graph.image.size**2)))


def run(graph: Graph, runtime: str, images: Dataset) -> Outputs:
    """Outputs of an int8 graph."""
    if runtime == TENSORRT:
        return outputs(as_tensorrt(graph), images, graph)
    with scratch() as folder, engine_of(graph, target_of(runtime), folder) as engine:
        return outputs(engine.infer, images, graph)


def target_of(runtime: str) -> TargetSpec:
    found = backends.require(runtime)
    return TargetSpec(runtime, "int8", (1, BATCH), found.int8_float16, found.reduced_range)


def slower(graph: Graph, base: Graph, target: TargetSpec, other: TargetSpec | None = None) -> float:
    """How much longer the engine of a graph takes at batch 1 than that of ``base``: the median of
    paired ratios, turn by turn."""
    image = np.zeros((1, 3, base.image.size, base.image.size), np.float32)
    with scratch() as folder, engine_of(graph, other or target, folder) as one, engine_of(base, target, folder) as two:
        rounds = interleave({"it": timed(lambda: one.infer(image)), "base": timed(lambda: two.infer(image))})
    return float(rounds.compare("it", "base").ratio)


def as_tensorrt(graph: Graph) -> Callable[[np.ndarray], Outputs]:
    """What TensorRT is given, with standard nodes for those of the plugin, computed node by node:
    rounding is where the graph says so, all else of the backbones is in 16-bit floats."""
    model = lower.lower(graph.parse(), backend="standard-nodes", precision="int8", float16="fp16")
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing is fused
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def outputs(infer: Callable[[np.ndarray], Outputs], images: Dataset, graph: Graph) -> Outputs:
    return collect(infer, batches(images, graph.image, BATCH), len(images)).outputs


def judged(name: str, title: str, images: Dataset, found: Outputs, reference: Outputs, time: float | None = None) -> Row:
    """A row of the table."""
    assert images.labels is not None
    one, other = (logits(each["global_scores"] if "global_scores" in each else each["scores"]) for each in (found, reference))
    error = float(np.sqrt(np.square(one - other).mean()))
    return Row(name, WAYS[name].runtime, title, len(images), error, quality(found, reference, images.labels), time)


def logits(scores: np.ndarray) -> np.ndarray:
    """Of sigmoid's scores; what float32 rounds to 0 or 1 stays finite."""
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped / (1 - clipped)))


def cells(row: Row) -> list[str]:
    low, high = row.quality["map_drop_interval"]
    return [
        row.way,
        row.runtime,
        f"{row.count} {row.images}",
        text.number(row.quality["map"], 2),
        text.change(row.quality["map_drop"]),
        f"[{-high:+.2f}, {-low:+.2f}]",
        text.number(row.logit_error, 2),
        text.number(100 * row.quality["class_agreement"], 1) if "class_agreement" in row.quality else "",
        text.number(row.quality["mean_iou"], 2) if "mean_iou" in row.quality else "",
        text.number(row.time, 2),
    ]


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
