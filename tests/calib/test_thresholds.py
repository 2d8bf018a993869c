"""Thresholds against trying them all."""

from __future__ import annotations

import numpy as np
import pytest

from calib.thresholds import FEWEST, fit_thresholds
from edge.engine import DECISION_THRESHOLD
from edge.errors import EdgeError


def made(seed: int = 0, shift: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Scores that separate the classes well, but around another value than 0.5."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random((300, 4)) < 0.3, 1, -1).astype(np.int8)
    scores = np.clip(0.5 - shift + 0.2 * labels * random.random((300, 4)) + 0.05 * random.normal(size=(300, 4)), 0, 1)
    return scores.astype(np.float32), labels


def f1(scores: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    predicted = scores >= threshold
    return 2 * (predicted & positive).sum() / (predicted.sum() + positive.sum())


def test_no_other_threshold_has_a_better_f1() -> None:
    scores, labels = made()
    found = fit_thresholds(scores, labels)
    assert found.fitted == 4
    for column, threshold in enumerate(found.thresholds):
        positive = labels[:, column] > 0
        best = max(f1(scores[:, column], positive, each) for each in [*scores[:, column], *np.linspace(0.01, 1, 500)])
        assert f1(scores[:, column], positive, threshold) == pytest.approx(best)


def test_shifted_scores_regain_what_the_default_threshold_loses() -> None:
    found = fit_thresholds(*made())
    assert found.cf1 > found.cf1_before + 30
    assert found.of1 > found.of1_before + 30


def test_the_threshold_stands_in_the_middle_of_the_gap() -> None:
    scores = np.array([[0.9]] * 6 + [[0.3]] * 6, np.float32)
    labels = np.array([[1]] * 6 + [[-1]] * 6, np.int8)
    assert fit_thresholds(scores, labels).thresholds == (pytest.approx(0.6),)


def test_rare_classes_keep_the_default_and_difficult_images_do_not_count() -> None:
    scores, labels = made()
    labels[:, 0] = -1
    labels[: FEWEST - 1, 0] = 1
    labels[labels[:, 1] > 0, 1] = 0
    found = fit_thresholds(scores, labels)
    assert found.thresholds[:2] == (DECISION_THRESHOLD, DECISION_THRESHOLD)
    assert found.fitted == 2


def test_without_labelled_images_nothing_can_be_fitted() -> None:
    with pytest.raises(EdgeError, match="labelled images"):
        fit_thresholds(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int8))
