"""Per-class thresholds against a search over every possible one."""

from __future__ import annotations

import numpy as np
import pytest

from calib.thresholds import DEFAULT, fit_thresholds


def f1(scores, labels, threshold):
    known = labels != 0
    predicted, positive = scores[known] >= threshold, labels[known] > 0
    return 2 * (predicted & positive).sum() / (predicted.sum() + positive.sum())


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_in_the_allowed_range_is_better(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], (200, 4), p=[0.6, 0.1, 0.3]).astype(np.int8)
    scores = np.clip(0.35 + 0.15 * labels + 0.15 * rng.standard_normal((200, 4)), 0.11, 0.89).astype(np.float32)
    for column, threshold in enumerate(fit_thresholds(scores, labels)):
        found = f1(scores[:, column], labels[:, column], threshold)
        others = [f1(scores[:, column], labels[:, column], each) for each in np.linspace(0.1, 0.9, 801)]
        assert found >= max(others) - 1e-12


def test_separable_scores_are_cut_in_the_middle_of_the_gap():
    scores = np.array([[0.9]] * 6 + [[0.4]] * 10, np.float32)
    labels = np.array([[1]] * 6 + [[-1]] * 10, np.int8)
    assert fit_thresholds(scores, labels) == (pytest.approx(0.65),)


def test_a_class_with_few_positives_keeps_the_default():
    scores = np.array([[0.9]] * 4 + [[0.1]] * 10, np.float32)
    labels = np.array([[1]] * 4 + [[-1]] * 10, np.int8)
    assert fit_thresholds(scores, labels) == (DEFAULT,)


def test_a_shift_of_the_scores_is_repaired():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 1], (400, 3), p=[0.7, 0.3]).astype(np.int8)
    exact = np.clip(0.5 + 0.2 * labels + 0.08 * rng.standard_normal((400, 3)), 0, 1).astype(np.float32)
    shifted = exact * 0.6
    fitted = fit_thresholds(shifted, labels)
    for column in range(3):
        before, after = f1(shifted[:, column], labels[:, column], 0.5), f1(shifted[:, column], labels[:, column], fitted[column])
        assert after > before + 0.1
