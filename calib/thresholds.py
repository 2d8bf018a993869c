"""Score repair: decision thresholds per class, fitted for the engine whose scores they cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.engine import DECISION_THRESHOLD
from edge.errors import EdgeError
from edge.measure.accuracy import rates

FEWEST = 5  # positives (and negatives) without which a class keeps the default


@dataclass(frozen=True)
class Fitted:
    """Thresholds, and what they are worth on the images they were fitted on, in points (0..100).

    Attributes:
        thresholds: per class, in column order; a score at or above it is a label.
        fitted: how many classes left the default.
        cf1, of1: with them; cf1_before, of1_before: with ``DECISION_THRESHOLD`` for every class.
        images: number of images.
    """

    thresholds: tuple[float, ...]
    fitted: int
    cf1: float
    of1: float
    cf1_before: float
    of1_before: float
    images: int


def fit_thresholds(scores: NDArray[np.floating], labels: NDArray[np.integer], *, default: float = DECISION_THRESHOLD) -> Fitted:
    """For every class the threshold of the best F1.

    Of the thresholds with the best F1 the one in the middle of the widest gap between two scores is
    taken, which moves least when a few images change. A class with fewer than ``FEWEST`` positives
    or negatives keeps the default: its best threshold would be that of single images.

    Args:
        scores: (N, C) of the engine itself, in [0, 1], on images that were not trained on.
        labels: (N, C), 1 present, 0 difficult (left out), -1 absent.
    """
    if scores.shape != labels.shape or scores.ndim != 2 or not len(scores):
        raise EdgeError(
            "calib",
            f"Thresholds cannot be fitted to scores {scores.shape} and labels {labels.shape}",
            "Change `dataset` to labelled images",
        )
    thresholds = np.full(scores.shape[1], default)
    fitted = 0
    for column in range(scores.shape[1]):
        known = labels[:, column] != 0
        positive = labels[known, column] > 0
        if min(positive.sum(), (~positive).sum()) >= FEWEST:
            thresholds[column] = _best(scores[known, column].astype(np.float64), positive)
            fitted += 1
    before = rates(scores >= default, labels > 0)
    after = rates(scores >= thresholds.astype(np.float32), labels > 0)
    return Fitted(tuple(float(each) for each in thresholds), fitted, after.cf1, after.of1, before.cf1, before.of1, images=len(scores))


def _best(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The threshold of the best F1 of one class, in the middle of the widest gap that has it."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    lower = np.append(ranked[1:], 0.0)
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + positive.sum())
    f1[ranked == lower] = -1.0  # no threshold parts equal scores
    gaps = np.where(f1 >= f1.max() - 1e-12, ranked - lower, -1.0)
    widest = int(np.argmax(gaps))
    return float((ranked[widest] + lower[widest]) / 2)
