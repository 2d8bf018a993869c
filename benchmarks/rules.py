"""``python -m benchmarks.rules BUNDLE``: rules for the second pass, compared at equal looks on
images they were not fitted on.

Five folds over the split ``validation`` of the generated scenes: every rule and its limit are
fitted on four, judged on the fifth. The learned ones need scikit-learn. docs/adaptive.md holds what
came out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.effort import FOLDS, _folds, _map, _rows, fit_rule
from edge import command
from edge.atomic import write_atomically
from edge.charts import lines
from edge.charts.sheet import sheet
from edge.data import Dataset, batches, open_dataset, validation_split
from edge.effort import areas, fused, needs, overlaps
from edge.engine import Engine
from edge.graph import REGION_SCORES, Outputs
from edge.measure.outputs import collect

EFFORTS = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8)
SHOWN = ("redundant last", "interval", "learned", "entropy", "rank")  # in the drawing
LEARNED = ("score", "rank", "entropy", "best", "second", "area", "overlap")
Gain = NDArray[np.float64]  # (N, K) of each region; what is looked at has the largest
Rule = Callable[[Outputs], Gain]
Fit = Callable[[Outputs, NDArray[np.integer], int], Rule]  # outputs, labels, side of the input


def features(outputs: Outputs) -> dict[str, Gain]:
    """(N, K) each: score, rank and logit of the region's class; area of its box, and its overlap
    with a better-ranked one; entropy, best and second score of the image."""
    scores, classes = outputs["global_scores"].astype(np.float64), outputs["region_classes"]
    kept = np.clip(scores, 1e-7, 1 - 1e-7)
    entropy = -(kept * np.log(kept) + (1 - kept) * np.log(1 - kept)).sum(1)
    ordered = -np.sort(-scores, axis=1)
    own = np.take_along_axis(kept, classes, 1)
    of_image = {"entropy": entropy, "best": ordered[:, 0], "second": ordered[:, 1]}
    return {
        "score": own,
        "logit": np.log(own / (1 - own)),
        "rank": np.broadcast_to(np.arange(classes.shape[1], dtype=np.float64), classes.shape),
        "area": areas(outputs["regions"]),
        "overlap": overlaps(outputs["regions"]),
        **{name: np.broadcast_to(value[:, None], classes.shape) for name, value in of_image.items()},
    }


def realised(outputs: Outputs, labels: NDArray[np.integer]) -> Gain:
    """(N, K) how far each region alone moves the squared error of an image's scores."""
    truth, scores = (labels > 0).astype(np.float64), outputs["global_scores"].astype(np.float64)
    both = np.maximum(scores[:, None], outputs[REGION_SCORES])
    gain: Gain = ((scores - truth) ** 2).sum(1)[:, None] - ((both - truth[:, None]) ** 2).sum(2)
    return gain


def by_rank(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    return lambda given: -features(given)["rank"] + 1e-6 * features(given)["score"]


def interval(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    rule = fit_rule(outputs, labels, size, redundancy=[False])
    return lambda given: -needs(rule, given)


def redundant_last(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    """What a build fits."""
    rule = fit_rule(outputs, labels, size)
    return lambda given: -needs(rule, given)


def entropy(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    """All regions of an image, or none."""
    return lambda given: features(given)["entropy"]


def table(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    """The mean realised gain in sixteen bins of the logit, joined by lines."""
    logits, gains = features(outputs)["logit"].ravel(), realised(outputs, labels).ravel()
    bins = np.array_split(np.argsort(logits), 16)
    at, value = ([float(each[part].mean()) for part in bins] for each in (logits, gains))
    return lambda given: np.interp(features(given)["logit"], at, value)


def learned(outputs: Outputs, labels: NDArray[np.integer], size: int) -> Rule:
    """Boosted trees."""
    from sklearn.ensemble import GradientBoostingRegressor

    def columns(given: Outputs) -> NDArray[np.float64]:
        found = features(given)
        return np.stack([found[name].ravel() for name in LEARNED], 1)

    model = GradientBoostingRegressor(n_estimators=60, max_depth=3, subsample=0.7, random_state=0)
    model.fit(columns(outputs), realised(outputs, labels).ravel())
    return lambda given: model.predict(columns(given)).reshape(given["region_classes"].shape)


RULES: Mapping[str, Fit] = {
    "rank": by_rank,
    "interval": interval,
    "redundant last": redundant_last,
    "entropy": entropy,
    "table": table,
    "learned": learned,
}


def arguments() -> argparse.ArgumentParser:
    made = command.parser("rules", __doc__ or "")
    made.prog = "python -m benchmarks.rules"
    made.add_argument("bundle", type=Path, metavar="BUNDLE")
    made.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw mAP against the share of passes")
    made.add_argument("--dataset", default="scenes", metavar="SPEC", help="labelled images (default scenes)")
    return made


def main(args: argparse.Namespace) -> int:
    dataset = _images(args.dataset)
    labels = dataset.labels
    assert labels is not None
    with Engine.load(args.bundle) as engine, command.progress("outputs") as progress:
        outputs = collect(engine.infer_each, batches(dataset, engine.bundle.image, 8), len(dataset), progress=progress).outputs
        size = engine.bundle.image.size
    result = compare(outputs, labels, size)
    command.say(f"Δ mAP (regions per image) against all regions, {len(labels)} images")
    for name, found in result.items():
        command.say(f"{name:14}" + "".join(f"  {0 - drop:+.2f} ({looks:.2f})" for drop, looks in found.values()))
    if args.plot is not None:
        write_atomically(args.plot, drawing(outputs, labels, result))
    command.write_json(args.json, {name: {str(effort): one for effort, one in found.items()} for name, found in result.items()})
    return 0


def compare(
    outputs: Outputs, labels: NDArray[np.integer], size: int, rules: Mapping[str, Fit] = RULES
) -> dict[str, dict[float, tuple[float, float]]]:
    """Rule → effort → (drop in points, regions looked at of an image in the mean)."""
    folds, shape = _folds(len(labels)), outputs["region_classes"].shape
    best = _map(fused(outputs, np.ones(shape, bool)), labels)
    result = {}
    for name, fit in rules.items():
        looked = {effort: np.zeros(shape, bool) for effort in EFFORTS}
        for fold in range(FOLDS):
            mine, others = (_rows(outputs, chosen) for chosen in (folds == fold, folds != fold))
            rule = fit(others, labels[folds != fold], size)
            gains, limits = rule(mine), np.quantile(rule(others), [1 - effort for effort in EFFORTS])
            for effort, limit in zip(EFFORTS, limits, strict=True):
                looked[effort][folds == fold] = gains > limit
        result[name] = {effort: (best - _map(fused(outputs, at), labels), float(at.sum(1).mean())) for effort, at in looked.items()}
    return result


def drawing(outputs: Outputs, labels: NDArray[np.integer], result: Mapping[str, Mapping[float, tuple[float, float]]]) -> str:
    """mAP against the passes of the backbone, as a share of 1 + K."""
    regions = outputs["region_classes"].shape[1]
    none, best = (_map(fused(outputs, np.full((len(labels), regions), all_)), labels) for all_ in (False, True))
    series = {
        name: [(1 / (1 + regions), none), *(((1 + looks) / (1 + regions), best - drop) for drop, looks in found.values()), (1.0, best)]
        for name, found in result.items()
        if name in SHOWN
    }
    curves = lines(series, x_unit="share of the passes", y_unit="mAP", from_zero=False)
    return sheet({"mAP against the passes it takes": curves}, title="mAP of four rules against the passes they take")


def _images(spec: str) -> Dataset:
    train = open_dataset(spec, "train")
    return open_dataset(spec, "validation") if "validation" in train.splits else validation_split(train)[1]


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
