"""Accuracy of multi-label scores in the convention of the official MCAR evaluation, and how sure
one can be of it.

The convention, which differs from others in every point:

- AP is not interpolated: the mean, over the positives of a class, of the precision at each one's
  rank in the full list. Difficult images leave the list. A class without positives has AP 0,
  averaged in.
- CP, CR, OP, OR and their F1 count difficult images as negative, and scores at or above 0.6 as
  predicted (the literature: 0.5). A class never predicted has precision 0. CF1 is the harmonic mean
  of CP and CR, not the mean of F1s.
- top-k: of every image, the k best scores are predicted, those at or above the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError

THRESHOLD, TOP_K = 0.6, 3
RESAMPLES, LEVEL = 1000, 0.95
CHUNK_ELEMENTS = 1 << 18  # images × draws at a time: fits the processor cache

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """Precision, recall and F1 in points (0..100): over classes (C…) and over all decisions
    (O…)."""

    cp: float
    cr: float
    cf1: float
    op: float
    or_: float
    of1: float


@dataclass(frozen=True)
class Accuracy:
    """What scores are worth on N images of C classes, in points (0..100).

    Attributes:
        images: N.
        map: mean of ``per_class``.
        per_class: AP of every class, in column order.
        overall, top: rates of all scores at or above ``threshold``, and of each image's best
            ``TOP_K`` among them.
        threshold: what was asked for.
        without_positives: columns without a positive image; their AP is 0 and counts.
        ties: images, summed over classes, that share their score with one of the other sign: AP
            depends on their order.
    """

    images: int
    map: float
    per_class: tuple[float, ...]
    overall: Rates
    top: Rates
    threshold: float
    without_positives: tuple[int, ...]
    ties: int

    @property
    def cf1(self) -> float:
        return self.overall.cf1

    @property
    def of1(self) -> float:
        return self.overall.of1

    @property
    def convention(self) -> str:
        """How the figures were counted, in one sentence."""
        parts = ["AP not interpolated, difficult ignored", f"F1 at scores >= {self.threshold:g}, difficult as negative"]
        if self.without_positives:
            parts.append(f"{len(self.without_positives)} of {len(self.per_class)} classes without positives count as AP 0")
        if self.ties:
            parts.append(f"{self.ties} tied scores kept in the order of the data")
        return "; ".join(parts)


def evaluate(scores: NDArray[np.floating], labels: NDArray[np.integer], *, threshold: float = THRESHOLD) -> Accuracy:
    """Accuracy of scores against labels.

    Args:
        scores: (N, C) floats, higher is surer; the threshold takes them for probabilities.
        labels: (N, C) integers, 1 present, 0 present but difficult, -1 absent.
        threshold: 0.6 as in the official code, 0.5 as in the literature.

    Raises:
        EdgeError: shapes that differ, no images, scores not finite, labels other than -1, 0, 1, a
            threshold out of range.
    """
    _check(scores, labels)
    if not 0 <= threshold <= 1:
        raise EdgeError("accuracy", f"The threshold is {threshold:g}", "Use a value from 0 to 1")
    positive, counted = labels == 1, labels != 0
    points = 100 * average_precision(scores, labels)
    predicted = scores >= threshold
    best = np.zeros_like(predicted)
    np.put_along_axis(best, np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K], True, axis=1)
    return Accuracy(
        images=len(scores),
        map=float(points.mean()),
        per_class=tuple(points.tolist()),
        overall=rates(predicted, positive),
        top=rates(predicted & best, positive),
        threshold=threshold,
        without_positives=tuple(np.flatnonzero(~positive.any(axis=0)).tolist()),
        ties=sum(_ties(scores[counted[:, c], c], positive[counted[:, c], c]) for c in range(scores.shape[1])),
    )


def average_precision(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> Array:
    """AP of every class: (C,) float64 in [0, 1]; 0 for a class without positives. Arguments as for
    ``evaluate``."""
    _check(scores, labels)
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels == 1, order, axis=0)
    rank = np.cumsum(np.take_along_axis(labels != 0, order, axis=0), axis=0)
    precision = np.cumsum(hits, axis=0) / np.maximum(rank, 1)
    found: Array = (precision * hits).sum(axis=0) / np.maximum(hits.sum(axis=0), 1)
    return found


def map_interval(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap 95 % confidence interval of mAP in points (low, high): images drawn with
    replacement, percentiles of the results.

    A class whose positives are all missed by one draw is left out of that draw's mean; one without
    any positives counts 0 throughout, as in mAP itself. Arguments as for ``evaluate``.
    """
    return _interval(_resampled(scores, labels, resamples, seed))


def map_drop_interval(
    reference: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap 95 % confidence interval of the drop ``mAP(reference) - mAP(scores)`` in points
    (low, high).

    Paired: both are judged on the same draws, so what images share cancels. (N, C) scores of the
    same images.
    """
    before, after = (_resampled(which, labels, resamples, seed) for which in (reference, scores))
    return _interval(before - after)


def _resampled(scores: NDArray[np.floating], labels: NDArray[np.integer], resamples: int, seed: int) -> Array:
    """mAP in points of every draw: (resamples,). The draws depend on N and the seed alone."""
    _check(scores, labels)
    if resamples < 2:
        raise EdgeError("accuracy", f"`resamples` is {resamples}", "Use 2 or more")
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels == 1, order, axis=0)
    counted = np.take_along_axis(labels != 0, order, axis=0)
    results = []
    for copies in _draws(len(scores), resamples, seed):
        points = np.stack([_drawn_ap(copies[order[counted[:, c], c]], hits[counted[:, c], c]) for c in range(scores.shape[1])])
        never = ~hits.any(axis=0)
        points[never] = 0.0
        present = ~np.isnan(points)
        results.append(100 * np.where(present, points, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1))
    return np.concatenate(results)


def _draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """(count, R) uint8 for some R at a time: how often each image is in each draw."""
    random, step = np.random.default_rng(seed), max(1, CHUNK_ELEMENTS // count)
    for start in range(0, resamples, step):
        width = min(step, resamples - start)
        picked = random.integers(count, size=(width, count)) + np.arange(width)[:, None] * count
        yield np.ascontiguousarray(np.bincount(picked.ravel(), minlength=width * count).reshape(width, count).T.astype(np.uint8))


def _drawn_ap(copies: NDArray[np.uint8], hits: NDArray[np.bool_]) -> Array:
    """AP of one class in every draw: (R,), NaN where the draw holds no positive.

    copies: (n, R) in score order; hits: (n,). Copies of an image follow one another in the list.
    """
    rank = np.cumsum(copies, axis=0, dtype=np.int32)[hits]
    mine = copies[hits]
    found = np.cumsum(mine, axis=0, dtype=np.int32)
    total = np.zeros(copies.shape[1])
    for copy in range(int(mine.max(initial=0))):
        # The last copy of each positive, then the last but one …: precision = found so far / rank
        # so far.
        total += np.where(mine > copy, (found - copy) / np.maximum(rank - copy, 1), 0).sum(axis=0)
    positives = found[-1] if len(found) else np.zeros(copies.shape[1], np.int32)
    return np.where(positives > 0, total / np.maximum(positives, 1), np.nan)


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def rates(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> Rates:
    """Precision, recall and F1 of decisions (N, C) against what images show (N, C); the convention
    is the module's."""
    correct, made, there = (part.sum(axis=0, dtype=np.int64) for part in (predicted & positive, predicted, positive))
    cp, cr = float(_share(correct, made).mean()), float(_share(correct, there).mean())
    op, or_ = float(_share(correct.sum(), made.sum())), float(_share(correct.sum(), there.sum()))
    return Rates(cp, cr, _harmonic(cp, cr), op, or_, _harmonic(op, or_))


def _share(part: NDArray[np.int64] | np.int64, whole: NDArray[np.int64] | np.int64) -> Array:
    """Points; 0 of nothing is 0."""
    return 100.0 * part / np.maximum(whole, 1)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _ties(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> int:
    """Images that share their score with one of the other sign."""
    _, group = np.unique(scores, return_inverse=True)
    positives = np.bincount(group, positive)
    sizes = np.bincount(group)
    return int(sizes[(positives > 0) & (positives < sizes)].sum())


def _check(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if scores.ndim != 2 or scores.shape != labels.shape or 0 in scores.shape:
        problem = f"The scores have the shape {scores.shape} and the labels {labels.shape}"
        raise EdgeError("accuracy", problem, "Pass both as (N, C), N and C positive")
    if not np.isfinite(scores).all():
        raise EdgeError("accuracy", "Some scores are NaN or infinite", "Check the engine")
    if not np.isin(labels, (-1, 0, 1)).all():
        problem = f"The labels contain {np.unique(labels)[:8].tolist()}"
        raise EdgeError("accuracy", problem, "Label with 1 for present, 0 for difficult and -1 for absent")
