"""Where the second pass pays: the rule, fitted to an engine's own outputs, and the cheapest effort
that keeps its mAP.

Which rules were compared, and why this one was taken, stands in docs/adaptive.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.thresholds import fit_thresholds
from edge.backends.base import Facts
from edge.effort import fused, looked_at, redundant
from edge.errors import EdgeError
from edge.graph import REGION_SCORES, Outputs
from edge.measure.accuracy import average_precision, map_drop_interval
from edge.spec import RuleSpec

STEPS = 20  # of a rule
TRIED = tuple(step / 8 for step in range(9))  # efforts; finer ones differ by less than a few thousand images can tell
FOLDS = 5
FEWEST = 300  # images below which the estimate is mostly noise
CENTRES = np.linspace(-1.6, 1.6, 17)  # in logits: where the first pass may be least sure
# A box is redundant above this IoU with a better-ranked one or share of the image. Not fitted:
# 0.5 to 0.8 and 0.4 to 0.5 do equally well, and a few thousand images cannot tell which is best.
OVERLAP, AREA = 0.7, 0.5
LATER = 100.0  # in logits, farther than any score is from a centre
JUDGED = (0.2, 0.3, 0.4, 0.5)  # efforts that a centre is chosen by
DIGITS = 6  # of a bound, for who reads the manifest
SURE = 1e-7

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """An effort, judged on images that its rule was not fitted on.

    Attributes:
        looks: regions looked at, of an image in the mean.
        map: in points (0..100); drop: against effort 1.
    """

    effort: float
    looks: float
    map: float
    drop: float


@dataclass(frozen=True)
class FittedEffort:
    """A rule, and what it costs and keeps.

    Attributes:
        rule: fitted on all images.
        effort: the cheapest of those tried whose drop is at most what was asked for, or the one
            that was given.
        drop, interval: in points of mAP against effort 1, cross-fitted; the paired 95 % interval.
        looks: regions looked at, of an image in the mean.
        thresholds, full_thresholds: of the labels, fitted at ``effort`` and at effort 1.
        images: number of images.
        steps: every effort that was judged, from 0 to 1.
    """

    rule: RuleSpec
    effort: float
    drop: float
    interval: tuple[float, float]
    looks: float
    thresholds: tuple[float, ...]
    full_thresholds: tuple[float, ...]
    images: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.effort:g}: {self.looks:.2f} regions per image, Δ mAP {0 - self.drop:+.2f} [{0 - high:+.2f}, {0 - low:+.2f}], "
            f"cross-fitted on {self.images} images"
        )


def fit_effort(
    outputs: Outputs,
    labels: NDArray[np.integer],
    size: int,
    *,
    effort: float | None = None,
    max_drop: float = 0.1,
    fitted_on: Facts | None = None,
) -> FittedEffort:
    """The rule and an effort for an engine.

    Every effort is judged by five folds: the rule is fitted on four and chooses on the fifth.

    Args:
        outputs: of ``Engine.infer_each`` over images that were not trained on.
        labels: (N, C), 1 present, 0 difficult (left out), -1 absent.
        size: side of the model's input in pixels.
        effort: given; None: the cheapest of ``TRIED`` whose estimated drop is at most ``max_drop``
            points.

    Raises:
        EdgeError: there are fewer images than folds.
    """
    count = len(labels)
    if count < FOLDS:
        raise EdgeError("calib", f"{count} images are too few to choose an effort", f"Use {FEWEST} or more labelled validation images")
    everything = np.ones(outputs["region_classes"].shape, bool)
    full = fused(outputs, everything)
    best = _map(full, labels)
    folds = _folds(count)
    rules = [fit_rule(_rows(outputs, folds != fold), labels[folds != fold], size) for fold in range(FOLDS)]

    def judged(at: float) -> tuple[Step, NDArray[np.float32]]:
        looked = np.zeros_like(everything)
        for fold, rule in enumerate(rules):
            looked[folds == fold] = looked_at(rule, _rows(outputs, folds == fold), at)
        scores = fused(outputs, looked)
        points = _map(scores, labels)
        return Step(at, float(looked.sum(1).mean()), points, best - points), scores

    steps = tuple(judged(effort)[0] for effort in TRIED)
    chosen = next(step.effort for step in steps if step.drop <= max_drop) if effort is None else effort
    found, scores = judged(chosen)
    rule = fit_rule(outputs, labels, size, fitted_on)
    return FittedEffort(
        rule,
        chosen,
        found.drop,
        map_drop_interval(full, scores, labels),
        found.looks,
        fit_thresholds(fused(outputs, looked_at(rule, outputs, chosen)), labels).thresholds,
        fit_thresholds(full, labels).thresholds,
        count,
        steps,
    )


def fit_rule(
    outputs: Outputs, labels: NDArray[np.integer], size: int, fitted_on: Facts | None = None, *, redundancy: Sequence[bool] = (False, True)
) -> RuleSpec:
    """The rule ``interval``: how unsure the first pass is of a region's class is the distance of
    its logit from a centre. The centre, and whether redundant regions come last, are those of the
    best mAP.

    Args:
        size: side of the model's input in pixels.
        redundancy: what may be chosen: that all regions are treated alike, that redundant ones come
            last.
    """
    limits = {False: (None, None), True: (OVERLAP, AREA * size**2)}
    tried = itertools.product(redundancy, CENTRES)
    rules = [interval_rule(outputs, centre, *limits[last], fitted_on=fitted_on or {}) for last, centre in tried]
    points = [np.mean([_map(fused(outputs, looked_at(rule, outputs, effort)), labels) for effort in JUDGED]) for rule in rules]
    return rules[int(np.argmax(points))]


def interval_rule(
    outputs: Outputs, centre: float, max_overlap: float | None = None, max_area: float | None = None, *, fitted_on: Facts
) -> RuleSpec:
    """The rule of a given centre, in logits: at effort e it looks at the share e of the regions of
    these outputs, first of those that are not redundant."""
    scores = np.take_along_axis(outputs["global_scores"], outputs["region_classes"], 1).astype(np.float64)
    kept = np.clip(scores, SURE, 1 - SURE)
    distances = np.abs(np.log(kept / (1 - kept)) - centre)
    late = redundant(outputs["regions"], max_overlap, max_area)
    widths = np.quantile(np.where(late, LATER + distances, distances), np.arange(STEPS + 1) / STEPS)
    widths[0] = 0.0
    first = _intervals(centre, widths)
    if max_overlap is None and max_area is None:
        return RuleSpec("interval", *first, fitted_on)
    return RuleSpec("interval", *first, fitted_on, max_overlap, max_area, *_intervals(centre, np.maximum(widths - LATER, 0)))


def _intervals(centre: float, widths: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The lower and upper bounds of scores whose logit is that near; the last holds everything."""
    low, high = (_bounds(1 / (1 + np.exp(-(centre + side * np.minimum(widths, LATER))))) for side in (-1, 1))
    return (*low[:-1], 0.0), (*high[:-1], 1.0)


def _bounds(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)


def _folds(count: int) -> NDArray[np.int64]:
    """(N,) the fold of each image."""
    folds = np.empty(count, np.int64)
    folds[np.random.default_rng(0).permutation(count)] = np.arange(count) % FOLDS
    return folds


def _rows(outputs: Outputs, rows: Mask) -> Outputs:
    return {name: outputs[name][rows] for name in ("global_scores", "regions", "region_classes", REGION_SCORES)}


def _map(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    return 100 * float(average_precision(scores, labels).mean())
