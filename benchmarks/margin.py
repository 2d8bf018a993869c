"""``python -m benchmarks.margin TRIALS``: does what fits on validation images keep its limit on
others?

For several limits on the loss of mAP: the fastest of the engines and efforts that ``edge.tune``
measured and that fit on the validation images, by their estimate alone and with standard errors to
spare, and what it loses on the report split.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import command
from edge.backends.onnxruntime import Session
from edge.bundle import REFERENCE, Bundle
from edge.data import REPORT, Dataset, batches, match_labels, open_dataset
from edge.engine import Engine
from edge.errors import EdgeError
from edge.measure.outputs import collect, sample
from edge.plain import from_plain
from edge.tuning.budget import SURE
from edge.tuning.laboratory import RESULT
from edge.tuning.trial import Choice, Trial
from edge.tuning.worth import mean_ap, scores_at

LIMITS = (0.2, 0.3, 0.5, 0.75, 1.0, 1.5)
ERRORS = (0.0, 1.0, SURE)


@dataclass(frozen=True)
class Tested:
    """A choice, and the points that it loses on the report split."""

    choice: Choice
    map_drop: float


def arguments() -> argparse.ArgumentParser:
    made = command.parser("margin", __doc__ or "")
    made.prog = "python -m benchmarks.margin"
    made.add_argument("trials", type=Path, metavar="TRIALS", help="OUTPUT.trials of edge.tune")
    made.add_argument("--dataset", metavar="SPEC", required=True, help="that of edge.tune")
    made.add_argument("--images", type=int, default=1000, help="of the report split (default 1000)")
    made.add_argument("--only", default="", metavar="TEXT", help="trials whose name contains it")
    return made


def main(args: argparse.Namespace) -> int:
    folders = [path.parent for path in sorted(args.trials.glob(f"*/{RESULT}"))]
    own = next((path for path in folders if (path / "fp32.npz").is_file() and not (path / "fp32.json").is_file()), None)
    if own is None:
        raise EdgeError("margin", f"There is no reference in {args.trials}", "Run python -m edge.tune with a limit on mAP")
    first = Bundle.read(own / "bundle")
    dataset = match_labels(open_dataset(args.dataset, REPORT), first.model.labels)
    dataset = dataset.subset(sample(len(dataset), args.images))
    outputs = collect(Session(first.read_file(REFERENCE)), batches(dataset, first.image, 1), len(dataset)).outputs
    reference = mean_ap(outputs["scores"], _labels(dataset))
    found = [one for path in folders if args.only in path.name for one in _tested(path, dataset, reference)]
    for limit in LIMITS:
        for errors in ERRORS:
            fits = [one for one in found if (one.choice.point.map_drop or 0.0) + errors * (one.choice.point.map_error or 0.0) < limit]
            fastest = min(fits, key=lambda one: one.choice.point.mean_ms, default=None)
            said = "nothing" if fastest is None else f"{fastest.choice.name}, Δ mAP {0 - fastest.map_drop:+.2f}"
            keep = sum(one.map_drop < limit for one in fits)
            command.say(f"limit {limit:<4g} {errors:<4g} errors: {len(fits)} fit, {keep} keep it; the fastest is {said}")
    return 0


def _tested(folder: Path, dataset: Dataset, reference: float) -> list[Tested]:
    trial = from_plain(Trial, json.loads((folder / RESULT).read_bytes()))
    bundle = Bundle.read(folder / "bundle")
    rule = None if bundle.stages is None else bundle.stages.rule
    with Engine.load(bundle.path, effort=1) as engine:
        infer = engine.infer if rule is None else engine.infer_each
        outputs = collect(infer, batches(dataset, bundle.image, 1), len(dataset)).outputs
    drops = [reference - mean_ap(scores_at(outputs, rule, point.effort), _labels(dataset)) for point in trial.points]
    return [Tested(Choice(trial, point), drop) for point, drop in zip(trial.points, drops, strict=True)]


def _labels(dataset: Dataset) -> NDArray[np.int8]:
    assert dataset.labels is not None
    return dataset.labels


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
