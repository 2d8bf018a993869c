"""``python -m benchmarks.adaptive --work DIR``: what looking only where it pays gains in time and
costs in accuracy.

Rows are engines; every part of every row is written to ``DIR/ROW.PART.json`` when it is done, and
found there by the next run, so that a run may be stopped at any moment. All times are of images of
the test split, interleaved with effort 1 (and with the floor: the engine's own backbone passes, 1 +
K of them).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import participants
from benchmarks.floor import backbones
from benchmarks.native import compare
from calib.effort import interval_rule
from edge import command
from edge.atomic import write_atomically
from edge.backends.base import Facts
from edge.bundle import Bundle
from edge.data import REPORT, Dataset, batches, open_dataset
from edge.data.scenes import Scenes
from edge.effort import fused, looked_at, needs
from edge.engine import Engine
from edge.graph import REGION_SCORES, Outputs
from edge.image import preprocess
from edge.manifest import NAME
from edge.measure import machine
from edge.measure.accuracy import average_precision, map_drop_interval
from edge.measure.effort import time_efforts
from edge.measure.latency import median_interval
from edge.measure.load import arrive
from edge.measure.outputs import collect, sample
from edge.pipeline import BuildOptions, build
from edge.spec import to_plain

BATCHES = (8, 32)
BLOCKS = 20  # of images: a ratio for each, so that what disturbs one moment weighs on both
SETS, SET_IMAGES = range(21, 41), 1000  # unseen scenes by seed; 1 to 20 were looked at when the rule was made
OVERLOAD, DEPTH, STREAM_S, STREAM_ROUNDS = 1.5, 8, 15.0, 5
LOOKS = 1.2  # of random weights, about as many as the rule chooses for the scenes
SCENES = "mcar-mobilenetv2-scenes"
KEPT = ("global_scores", "regions", "region_classes", REGION_SCORES)


@dataclass(frozen=True)
class Row:
    """An engine: how it is built, and on which images it is judged; None: times alone count."""

    options: BuildOptions
    dataset: str | None


def rows(ucmerced: Path | None) -> dict[str, Row]:
    made = {
        f"{precision}-{backend}": Row(BuildOptions(weights=SCENES, precision=precision, backend=backend, batch=32), "scenes")
        for precision, backend in (("int8", "openvino"), ("fp32", "openvino"), ("int8", "onnxruntime"))
    }
    if ucmerced is not None:
        made["ucmerced-int8-openvino"] = Row(
            BuildOptions(weights="mcar-mobilenetv2-ucmerced", backend="openvino", batch=32), f"csv:{ucmerced}"
        )
    random = BuildOptions(model="mcar-resnet50", weights="random", size=448, backend="openvino", batch=32, effort=LOOKS / 4)
    return {**made, "resnet50-448-random": Row(random, None)}


def arguments() -> argparse.ArgumentParser:
    made = command.parser("adaptive", __doc__ or "")
    made.prog = "python -m benchmarks.adaptive"
    made.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="bundles, outputs and results lie here; what is found is kept"
    )
    made.add_argument("--ucmerced", type=Path, metavar="DIR", help="folder of UC Merced with labels.csv")
    made.add_argument("--library", type=Path, metavar="FILE", help="libmcar_edge.so, to compare the regions that C++ looks at")
    made.add_argument("--rows", metavar="NAMES", help="only these, separated by commas")
    made.add_argument("--parts", default=",".join(PARTS), metavar="NAMES", help=f"of {', '.join(PARTS)} (default: all)")
    made.add_argument("--images", type=int, default=2000, help="test images at most (default 2000)")
    made.add_argument("--seconds", type=float, default=300, help="most seconds for the times of a row at a batch (default 300)")
    return made


def main(args: argparse.Namespace) -> int:
    args.work.mkdir(parents=True, exist_ok=True)
    wanted = rows(args.ucmerced)
    chosen = args.rows.split(",") if args.rows else list(wanted)
    result: Facts = {"machine": asdict(machine.describe())}
    for name in chosen:
        row, found = wanted[name], result.setdefault(name, {})
        bundle = _bundle(args.work / name, row)
        found["effort"], found["rule"] = bundle.manifest["stages"]["effort"], bundle.manifest["stages"]["rule"]
        for part in args.parts.split(","):
            if part == "sets" and name != "int8-openvino":
                continue
            path = args.work / f"{name}.{part}.json"
            if not path.is_file():
                made = PARTS[part](bundle, row, args)
                if made is None:
                    continue
                write_atomically(path, json.dumps(made, indent=1) + "\n")
            found[part] = json.loads(path.read_bytes())
            command.say(f"{name:24} {part:10} {json.dumps({key: one for key, one in found[part].items() if key != 'drops'})}")
    command.write_json(args.json, result)
    return 0


def _bundle(path: Path, row: Row) -> Bundle:
    if not path.is_dir():
        build(replace(row.options, output=path))
        if row.dataset is None:
            _spread_looks(path)
    return Bundle.read(path)


def _spread_looks(path: Path) -> None:
    """Give random weights a rule by the quantiles of their scores alone: as many looks as
    elsewhere, differing from image to image."""
    with Engine.load(path) as engine:
        dataset = Scenes("validation").subset(range(100))
        batch = min(8, engine.bundle.target.max_batch)
        outputs = collect(engine.infer_each, batches(dataset, engine.bundle.image, batch), len(dataset)).outputs
    scores = np.take_along_axis(outputs["global_scores"], outputs["region_classes"], 1)
    middle = float(np.median(np.log(scores / (1 - scores))))
    manifest = json.loads((path / NAME).read_bytes())
    manifest["stages"]["rule"] = to_plain(interval_rule(outputs, middle, fitted_on={"data": "none: quantiles of scores"}))
    write_atomically(path / NAME, json.dumps(manifest, indent=1) + "\n")


def _images(row: Row, args: argparse.Namespace) -> Dataset:
    dataset = open_dataset(row.dataset or "scenes", REPORT)
    return dataset.subset(sample(len(dataset), args.images))


def _decoded(dataset: Dataset, bundle: Bundle, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset) - batch + 1, batch):
        yield np.stack([preprocess(dataset[index].image, bundle.image) for index in range(start, start + batch)])


# The parts of a row.


def accuracy(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts | None:
    """The drop at the bundle's effort on the test split, with its paired interval; and the
    curve."""
    if row.dataset is None:
        return None
    dataset = _images(row, args)
    outputs = _outputs(bundle, dataset, args.work / f"{bundle.path.name}.test.npz")
    labels = dataset.labels
    assert labels is not None
    assert bundle.stages is not None
    full, scores, looks = _judged(bundle, outputs, bundle.stages.effort)
    curve = []
    for step in range(21):
        _, at, mean = _judged(bundle, outputs, step / 20)
        curve.append({"effort": step / 20, "mean_looks": mean, "map": _map(at, labels)})
    return {
        "images": len(dataset),
        "map": _map(scores, labels),
        "map_full": _map(full, labels),
        "drop": _map(full, labels) - _map(scores, labels),
        "interval": map_drop_interval(full, scores, labels),
        "mean_looks": looks,
        "curve": curve,
    }


def sets(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts:
    """The drop over sets of scenes of other seeds, none of which any part of the build has seen."""
    assert bundle.stages is not None
    drops, looks = [], []
    for seed in SETS:
        dataset = Scenes("test", seed).subset(range(SET_IMAGES))
        outputs = _outputs(bundle, dataset, args.work / f"{bundle.path.name}.set{seed}.npz")
        full, scores, mean = _judged(bundle, outputs, bundle.stages.effort)
        drops.append(_map(full, dataset.labels) - _map(scores, dataset.labels))
        looks.append(mean)
        command.say(f"set {seed}: Δ mAP {0 - drops[-1]:+.3f} at {mean:.2f} regions per image")
    return {"drops": drops, "mean": float(np.mean(drops)), "above": sum(drop > 0.1 for drop in drops), "mean_looks": float(np.mean(looks))}


def latency(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts:
    """Batch 1: the bundle's effort beside effort 1 and the floor."""
    assert bundle.stages is not None
    regions = bundle.model.options["regions"]
    paths = backbones(bundle.lowered(), bundle.image.size, 1, regions, args.work / f"{bundle.path.name}.floor")
    target = bundle.target
    opened = partial(participants.openvino, target=target) if target.backend == "openvino" else participants.session
    floor = participants.floor(partial(opened, paths["global"]), partial(opened, paths["local"]), regions)
    chosen = bundle.stages.effort
    with Engine.load(bundle.path) as engine:

        def call(images: np.ndarray, effort: float) -> None:
            if effort < 0:  # stands for the floor
                floor(images)
            else:
                engine.infer(images, effort=effort)

        efforts = tuple(dict.fromkeys((chosen, 1.0, -1.0)))
        taken, images = time_efforts(call, _decoded(_images(row, args), bundle, 1), efforts, limit_s=args.seconds)
    mine, full = taken[chosen], taken[1.0]
    return {
        "images": images,
        "effort": chosen,
        **{f"{name}_ms": _ms(seconds) for name, seconds in (("auto", mine), ("full", full), ("floor", taken[-1.0]))},
        "mean_ratio": _ratio(mine, full),
        "p99_ratio": float(np.percentile(mine, 99) / np.percentile(full, 99)),
        "floor_ratio": _ratio(mine, taken[-1.0]),
    }


def throughput(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts:
    """Larger batches: how many times the images per second of effort 1."""
    assert bundle.stages is not None
    chosen, found = bundle.stages.effort, {}
    for batch in BATCHES:
        with Engine.load(bundle.path) as engine:
            taken, images = time_efforts(
                lambda given, effort: engine.infer(given, effort=effort),
                _decoded(_images(row, args), bundle, batch),
                tuple(dict.fromkeys((chosen, 1.0))),
                limit_s=args.seconds,
            )
        ratio = _ratio(taken[chosen], taken[1.0])
        low, high = ratio["interval"]
        found[f"batch_{batch}"] = {
            "images": images,
            "times": 1 / ratio["ratio"],
            "interval": (1 / high, 1 / low),
            "auto_ms": _ms(taken[chosen]),
        }
    return found


def queue(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts:
    """Single images that arrive at 1.5 times the rate that effort 1 can answer, before a queue of
    eight; interleaved."""
    assert bundle.stages is not None
    dataset = _images(row, args)
    kept = [next(_decoded(dataset.subset([index]), bundle, 1)) for index in sample(len(dataset), 128)]
    dropped: dict[str, list[float]] = {"auto": [], "full": []}
    with Engine.load(bundle.path) as engine:
        for _ in range(STREAM_ROUNDS):
            start = time.perf_counter()
            for images in kept:
                engine.infer(images, effort=1)
            rate = OVERLOAD * len(kept) / (time.perf_counter() - start)
            for name, effort in (("auto", bundle.stages.effort), ("full", 1.0)):
                answer = _numbered(engine, kept, effort)
                found = arrive(answer, rate, STREAM_S, depth=DEPTH)
                dropped[name].append(found.dropped / found.offered)
    auto, full = (float(np.median(dropped[name])) for name in ("auto", "full"))
    return {"dropped": dropped, "auto": auto, "full": full, "ratio": auto / full if full else None}


def _numbered(engine: Engine, images: list[np.ndarray], effort: float) -> Callable[[int], object]:
    return lambda number: engine.infer(images[number % len(images)], effort=effort)


def rule(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts:
    """Microseconds that the choice of regions takes an image, alone and in a batch of eight."""
    assert bundle.stages is not None
    rng, found = np.random.default_rng(0), {}
    for batch in (1, 8):
        scores = rng.random((batch, len(bundle.model.labels))).astype(np.float32)
        corners = rng.integers(0, bundle.image.size, (batch, bundle.model.options["regions"], 2, 2)).astype(np.float32)
        given: Outputs = {
            "global_scores": scores,
            "region_classes": np.argsort(-scores, axis=1)[:, : corners.shape[1]],
            "regions": np.sort(corners, axis=2).reshape(batch, -1, 4),
        }
        taken = []
        for _ in range(2000):
            start = time.perf_counter()
            needs(bundle.stages.rule, given)
            taken.append(time.perf_counter() - start)
        found[f"batch_{batch}_us"] = float(np.median(taken)) * 1e6 / batch
    return found


def native(bundle: Bundle, row: Row, args: argparse.Namespace) -> Facts | None:
    """Whether the C++ runtime looks at the same regions; where it was given, and runs this
    backend."""
    if args.library is None or bundle.target.backend != "openvino":
        return None
    return compare(args.library, bundle.path, _decoded(_images(row, args), bundle, 1))


PARTS: Mapping[str, Callable[[Bundle, Row, argparse.Namespace], Facts | None]] = {
    "accuracy": accuracy,
    "rule": rule,
    "latency": latency,
    "throughput": throughput,
    "queue": queue,
    "native": native,
    "sets": sets,
}


def _outputs(bundle: Bundle, dataset: Dataset, path: Path) -> Outputs:
    """What the engine says of every region, kept in a file."""
    if path.is_file():
        with np.load(path) as stored:
            return {name: stored[name] for name in KEPT}
    with Engine.load(bundle.path) as engine, command.progress(path.stem) as progress:
        found = collect(engine.infer_each, batches(dataset, bundle.image, 8), len(dataset), progress=progress).outputs
    np.savez_compressed(path, **{name: found[name] for name in KEPT})  # type: ignore[arg-type]
    return found


def _judged(bundle: Bundle, outputs: Outputs, effort: float) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Scores at effort 1 and at this one, and the regions looked at of an image in the mean."""
    assert bundle.stages is not None
    looked = looked_at(bundle.stages.rule, outputs, effort)
    return fused(outputs, np.ones_like(looked)), fused(outputs, looked), float(looked.sum(1).mean())


def _map(scores: NDArray[np.float32], labels: NDArray[np.integer] | None) -> float:
    assert labels is not None
    return 100 * float(average_precision(scores, labels).mean())


def _ms(seconds: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"mean": float(seconds.mean()) * 1e3, "p50": float(p50), "p99": float(p99), "max": float(seconds.max()) * 1e3}


def _ratio(mine: NDArray[np.float64], other: NDArray[np.float64]) -> Facts:
    """Of the means: the median over blocks of images, and its interval."""
    blocks = [np.array_split(each, min(BLOCKS, len(mine))) for each in (mine, other)]
    ratios = [float(a.mean() / b.mean()) for a, b in zip(*blocks, strict=True)]
    low, high, _ = median_interval(ratios)
    return {"ratio": float(np.median(ratios)), "interval": (low, high)}


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
