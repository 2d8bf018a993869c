"""``python -m benchmarks.careful BUNDLE``: what ``edge.tune`` chose, against a careful engineer.

The engineer builds every precision on every backend at the model's own size and regions, at the
effort that ``auto`` chooses, and takes the fastest that loses no more mAP than allowed. All engines
and the tuned one are timed in one interleaved run over images of the report split.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import backends, command
from edge.backends.base import Facts
from edge.bundle import REFERENCE, Bundle
from edge.data import REPORT, Dataset, batches, match_labels, open_dataset
from edge.engine import Engine
from edge.errors import EdgeError
from edge.manifest import NAME
from edge.measure.accuracy import average_precision
from edge.measure.latency import Comparison
from edge.measure.outputs import collect, sample
from edge.options import BuildOptions
from edge.pipeline import build
from edge.spec import PRECISIONS

TUNED = "tuned"


def arguments() -> argparse.ArgumentParser:
    made = command.parser("careful", __doc__ or "")
    made.prog = "python -m benchmarks.careful"
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="written by edge.tune at batch 1")
    made.add_argument("--weights", metavar="SHIPPED|PATH", help="those of the bundle")
    made.add_argument("--dataset", metavar="SPEC", required=True, help="images to judge and to time on")
    made.add_argument("--build-dataset", metavar="SPEC", help="for the engineer's builds (default: the tables of shipped weights)")
    made.add_argument("--max-map-drop", type=float, required=True, metavar="PTS", help="the limit of the budget")
    made.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of the engineer's bundles, which are reused")
    made.add_argument("--images", type=int, default=500, help="to judge on (default 500)")
    made.add_argument("--timed", type=int, default=100, help="images to time on (default 100)")
    made.add_argument("--rounds", type=int, default=9, help="default 9")
    return made


def main(args: argparse.Namespace) -> int:
    tuned = Bundle.read(args.bundle)
    dataset = match_labels(open_dataset(args.dataset, REPORT), tuned.model.labels)
    if dataset.labels is None:
        raise EdgeError("careful", f"{dataset.name} has no labels", "Choose a labelled data set: `dataset`")
    dataset = dataset.subset(sample(len(dataset), args.images))
    paths = {TUNED: args.bundle, **_built(args)}
    reference = _reference(tuned, dataset)
    found: Facts = {}
    with ExitStack() as opened:
        engines = {name: opened.enter_context(Engine.load(path)) for name, path in paths.items()}
        seconds = _timed(engines, dataset.subset(sample(len(dataset), args.timed)), args.rounds)
        for name, engine in engines.items():
            ms = seconds[name] * 1e3
            drop = reference - _map(
                collect(engine.infer, batches(dataset, engine.bundle.image, 1), len(dataset)).outputs["scores"], dataset
            )
            found[name] = {"effort": engine.effort, "map_drop": drop, "mean_ms": float(ms.mean()), "p99_ms": float(np.percentile(ms, 99))}
    ours = min(
        (name for name in found if name != TUNED and found[name]["map_drop"] <= args.max_map_drop), key=lambda name: found[name]["mean_ms"]
    )
    versus = Comparison(tuple((seconds[ours].mean(1) / seconds[TUNED].mean(1)).tolist()))
    for name, each in found.items():
        command.say(
            f"{name:18} {each['effort']:<6g} Δ mAP {0 - each['map_drop']:+.2f}  mean {each['mean_ms']:.2f}  p99 {each['p99_ms']:.2f} ms"
        )
    command.say(f"the engineer takes {ours}; its mean latency against the tuned engine's: {versus}")
    command.write_json(args.json, {"engines": found, "engineer": ours, "ratio": versus.ratio, "interval": versus.interval})
    return 0


def _built(args: argparse.Namespace) -> dict[str, Path]:
    """The engineer's bundles, those there already as they are."""
    paths = {}
    for backend in (name for name in backends.BACKENDS if not backends.probe(name).reason):
        for precision in PRECISIONS:
            path = args.work / f"{precision}-{backend}"
            options = BuildOptions(
                weights=args.weights, dataset=args.build_dataset, backend=backend, precision=precision, batch=1, output=path
            )
            try:
                if not (path / NAME).is_file():
                    build(options, events=command.Terminal(args))
            except EdgeError as error:
                command.say(f"{path.name}: {error.problem}")
                continue
            paths[path.name] = path
    return paths


def _timed(engines: dict[str, Engine], images: Dataset, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds (rounds, N) of every engine at its effort, turn by turn on the same images; a call
    that is not counted goes before each, for the turn before has put other data into the caches."""
    taken: dict[str, list[list[float]]] = {name: [] for name in engines}
    given = {name: [images_of for _, images_of in batches(images, engine.bundle.image, 1)] for name, engine in engines.items()}
    names = list(engines)
    for turn in range(rounds + 1):  # the first compiles and warms up
        for name in engines:
            taken[name].append([])
        for index in range(len(images)):
            for place in range(len(names)):
                name = names[(index + turn + place) % len(names)]
                engines[name].infer(given[name][index])
                start = time.perf_counter()
                engines[name].infer(given[name][index])
                taken[name][-1].append(time.perf_counter() - start)
    return {name: np.asarray(each[1:]) for name, each in taken.items()}


def _reference(tuned: Bundle, dataset: Dataset) -> float:
    """mAP of the given weights in FP32 at their own size, in points."""
    from edge.backends.onnxruntime import Session

    session = Session(tuned.read_file(REFERENCE))
    return _map(collect(session, batches(dataset, tuned.reference_image, 1), len(dataset)).outputs["scores"], dataset)


def _map(scores: NDArray[np.floating], dataset: Dataset) -> float:
    assert dataset.labels is not None
    return 100 * float(average_precision(scores, dataset.labels).mean())


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
