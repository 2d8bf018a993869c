from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.measure.accuracy import average_precision, evaluate, map_drop_interval, map_interval


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def random_case(seed: int, images: int = 200, classes: int = 6, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.where(random.random((images, classes)) < 0.3, 1, -1).astype(np.int8)
    labels[random.random(labels.shape) < 0.05] = 0
    scores = 1 / (1 + np.exp(-skill * labels - random.standard_normal(labels.shape)))
    return scores.astype(np.float32), labels


def test_ap_of_a_list_worked_by_hand() -> None:
    # Ranks of the positives: 1, 3, 4 -> (1/1 + 2/3 + 3/4) / 3.
    scores, labels = column(0.9, 0.8, 0.7, 0.6, 0.5), np.array([[1], [-1], [1], [1], [-1]])
    assert average_precision(scores, labels) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])


def test_difficult_images_leave_the_list() -> None:
    found = evaluate(column(0.9, 0.8, 0.7), np.array([[0], [1], [-1]]))
    assert found.map == pytest.approx(100)
    assert "difficult ignored" in found.convention


def test_rates_count_difficult_as_negative_whatever_ap_does() -> None:
    found = evaluate(column(0.9, 0.8), np.array([[0], [1]]))
    assert (found.overall.op, found.overall.or_) == (50, 100)


def test_a_class_without_positives_counts_as_zero_and_is_told() -> None:
    scores, labels = np.array([[0.9, 0.2], [0.1, 0.3]]), np.array([[1, -1], [-1, 0]])
    found = evaluate(scores, labels)
    assert found.per_class == (100, 0)
    assert found.map == 50
    assert found.without_positives == (1,)
    assert "1 of 2 classes without positives count as AP 0" in found.convention


@pytest.mark.parametrize("seed", range(5))
def test_ap_equals_scikit_learn_where_no_scores_tie(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = random_case(seed)
    assert all(len(np.unique(scores[:, c])) == len(scores) for c in range(scores.shape[1]))
    for c, ours in enumerate(average_precision(scores, labels)):
        kept = labels[:, c] != 0
        assert ours == pytest.approx(metrics.average_precision_score(labels[kept, c] == 1, scores[kept, c]), abs=1e-12)


def test_rates_worked_by_hand() -> None:
    scores = np.array([[0.9, 0.7, 0.1], [0.65, 0.2, 0.1], [0.61, 0.6, 0.55]])
    labels = np.array([[1, -1, 1], [1, 1, -1], [-1, 1, -1]])
    # At 0.6: predicted 3, 2, 0; right 2, 1, 0; there 2, 2, 1. Never predicted: precision 0.
    rates = evaluate(scores, labels).overall
    cp, cr = 100 * (2 / 3 + 1 / 2 + 0) / 3, 100 * (1 + 1 / 2 + 0) / 3
    assert (rates.cp, rates.cr) == (pytest.approx(cp), pytest.approx(cr))
    assert rates.cf1 == pytest.approx(2 * cp * cr / (cp + cr))
    assert (rates.op, rates.or_, rates.of1) == (pytest.approx(60), pytest.approx(60), pytest.approx(60))
    # At 0.5 the third class is predicted once, wrongly.
    assert evaluate(scores, labels, threshold=0.5).overall.op == pytest.approx(50)


def test_top_k_keeps_the_best_of_each_image_above_the_threshold() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.65], [0.9, 0.3, 0.2, 0.1]])
    labels = np.array([[-1, 1, 1, 1], [1, 1, -1, -1]])
    top = evaluate(scores, labels).top
    assert (top.op, top.or_) == (pytest.approx(100 * 3 / 4), pytest.approx(100 * 3 / 5))


def test_nothing_predicted_gives_zero_without_warning() -> None:
    found = evaluate(np.full((3, 2), 0.1), np.array([[1, -1]] * 3))
    assert found.overall.cf1 == found.overall.of1 == 0


def test_ties_keep_the_order_of_the_data_and_are_counted() -> None:
    scores = column(0.5, 0.5, 0.5, 0.4, 0.4, 0.3)
    first, last = np.array([[1], [-1], [-1], [1], [1], [-1]]), np.array([[-1], [-1], [1], [1], [1], [-1]])
    assert evaluate(scores, first).map > evaluate(scores, last).map
    found = evaluate(scores, first)
    assert found.ties == 3  # the pair at 0.4 is of one sign: its order does not matter
    assert "3 tied scores" in found.convention
    assert evaluate(column(0.5, 0.5), np.array([[0], [1]])).ties == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ap_is_a_share_and_depends_on_ranks_only(seed: int) -> None:
    scores, labels = random_case(seed, images=20, classes=3, skill=0.5)
    found = average_precision(scores, labels)
    assert ((found >= 0) & (found <= 1)).all()
    assert average_precision(scores.astype(np.float64) * 0.25 + 0.5, labels) == pytest.approx(found)


def literal_bootstrap(scores: np.ndarray, labels: np.ndarray, resamples: int, seed: int) -> list[float]:
    random, points = np.random.default_rng(seed), []
    for _ in range(resamples):
        picked = np.sort(random.integers(len(scores), size=len(scores)))
        ap = average_precision(scores[picked], labels[picked])
        drawn = (labels[picked] == 1).any(axis=0) | ~(labels == 1).any(axis=0)
        points.append(100 * ap[drawn].mean())
    return points


def test_the_bootstrap_equals_a_loop_over_resampled_images() -> None:
    scores, labels = random_case(3, images=40, classes=5)
    labels[:, 4] = -1
    labels[1:, 3] = -1
    labels[0, 3] = 1
    points = literal_bootstrap(scores, labels, 60, seed=7)
    expected = np.quantile(points, [0.025, 0.975])
    assert map_interval(scores, labels, resamples=60, seed=7) == pytest.approx(expected, abs=1e-9)


def test_the_bootstrap_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = random_case(4, images=50)
    whole = map_interval(scores, labels, resamples=50)
    monkeypatch.setattr("edge.measure.accuracy.CHUNK_ELEMENTS", 50 * 7)
    assert map_interval(scores, labels, resamples=50) == whole


def test_intervals_hold_the_figure_and_shrink_with_images() -> None:
    widths = []
    for images in (200, 1800):
        scores, labels = random_case(5, images=images)
        low, high = map_interval(scores, labels, resamples=200)
        assert low < evaluate(scores, labels).map < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 4.5  # one over the root of the count: 3


def test_a_paired_drop_is_surer_than_two_intervals() -> None:
    scores, labels = random_case(6, images=400)
    worse = scores + 0.02 * np.random.default_rng(1).standard_normal(scores.shape).astype(np.float32)
    low, high = map_drop_interval(scores, worse, labels, resamples=200)
    drop = evaluate(scores, labels).map - evaluate(worse, labels).map
    alone = map_interval(scores, labels, resamples=200)
    assert low <= drop <= high
    assert high - low < (alone[1] - alone[0]) / 3
    assert map_drop_interval(scores, scores, labels, resamples=50) == (0, 0)


def test_a_thousand_draws_of_two_thousand_images_take_seconds() -> None:
    scores, labels = random_case(8, images=2000, classes=20)
    start = time.process_time()
    map_interval(scores, labels)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("scores", "labels", "options", "message"),
    [
        (np.zeros((2, 3)), np.ones((3, 2)), {}, r"\(2, 3\) and the labels \(3, 2\)"),
        (np.zeros((0, 3)), np.ones((0, 3)), {}, "N and C positive"),
        (np.array([[np.nan]]), np.array([[1]]), {}, "finite"),
        (np.array([[0.5]]), np.array([[2]]), {}, r"labels contain \[2\]"),
        (np.array([[0.5]]), np.array([[1]]), {"threshold": 1.5}, "1.5"),
    ],
)
def test_nonsense_is_refused(scores: np.ndarray, labels: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        evaluate(scores, labels, **options)
