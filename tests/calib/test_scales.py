"""Scales against what their definitions say, worked out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib import scales
from calib.histogram import BINS, Accumulator, Histogram
from edge.errors import EdgeError


def histogram_of(values: np.ndarray) -> Histogram:
    accumulator = Accumulator()
    accumulator.add(values.astype(np.float32), float(values.min()), float(values.max()))
    return accumulator.histogram()


def long_tailed(seed: int = 0, outlier: float = 30.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = np.maximum(random.normal(size=200_000), 0) * np.exp(0.4 * random.normal(size=200_000))
    values[:3] = outlier
    return values.astype(np.float32)


def entropy_slowly(histogram: Histogram, levels: int = 128) -> float:
    """As published: for every candidate build both distributions bin by bin."""
    counts = histogram.counts.copy()
    counts[0] = min(counts[0], counts[1])
    used = int(histogram.largest / histogram.limit * BINS) + 1
    best, best_divergence = used, np.inf
    for i in range(levels, used + 1):
        p = counts[:i].copy()
        group = np.arange(i) * levels // i
        q = np.zeros(i)
        for level in range(levels):
            inside = (group == level) & (counts[:i] > 0)
            if inside.any():
                q[inside] = counts[:i][group == level].sum() / inside.sum()
        p[-1] += counts[i:used].sum()
        if q.sum() == 0 or (q[-1] == 0 and p[-1] > 0):
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
        if divergence <= best_divergence + 1e-12:
            best, best_divergence = i, min(divergence, best_divergence)
    return histogram.limit * best / BINS


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_entropy_threshold_is_that_of_the_published_procedure(seed: int) -> None:
    histogram = histogram_of(long_tailed(seed, outlier=9.0 + seed))
    assert scales.entropy(histogram) == pytest.approx(entropy_slowly(histogram), rel=1e-9)


def test_entropy_and_mse_clip_a_lone_outlier_and_minmax_does_not() -> None:
    histogram = histogram_of(long_tailed(outlier=30.0))
    assert scales.minmax(histogram) == pytest.approx(30.0)
    for method in ("entropy", "percentile", "mse"):
        assert 2 < scales.METHODS[method](histogram) < (29 if method == "mse" else 20), method


def test_the_percentile_is_that_of_the_values_within_a_bin() -> None:
    values = long_tailed()
    histogram = histogram_of(values)
    width = histogram.limit / BINS
    for percent in (50.0, 99.0, 99.99):
        assert abs(scales.percentile(histogram, percent) - np.quantile(np.abs(values), percent / 100)) <= 2 * width


def test_the_mse_threshold_has_the_least_error_on_the_values_themselves() -> None:
    values = long_tailed(outlier=12.0)
    histogram = histogram_of(values)

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(((np.clip(np.round(values / step), -128, 127) * step - values) ** 2).mean())

    others = [error(threshold) for threshold in np.linspace(0.5, 12.0, 60)]
    assert error(scales.mse(histogram)) <= min(others) * 1.05


@pytest.mark.parametrize("method", scales.METHODS)
def test_a_scale_never_exceeds_what_was_seen_and_is_positive(method: str) -> None:
    for values in (long_tailed(), np.zeros(100, np.float32), np.full(100, -3.0, np.float32), np.array([1e-20], np.float32)):
        scale = scales.activation_scale(histogram_of(values), method)
        assert 0 < scale <= max(np.abs(values).max() / 127 * (1 + 1e-6), scales.SMALLEST)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(EdgeError, match="entropy, percentile, minmax or mse"):
        scales.activation_scale(histogram_of(long_tailed()), "guess")


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_growing_range_counts_as_a_second_pass_would(parts: list[list[float]]) -> None:
    growing = Accumulator()
    arrays = [np.array(part, np.float32) for part in parts]
    for part in arrays:
        growing.add(part, float(part.min()), float(part.max()))
    found = growing.histogram()
    everything = np.concatenate(arrays)
    bins = np.minimum((np.abs(everything).astype(np.float64) * (BINS / found.limit)).astype(int), BINS - 1)
    np.testing.assert_array_equal(found.counts, np.bincount(bins, minlength=BINS))
    assert (found.minimum, found.maximum) == (everything.min(), everything.max())


def test_weights_are_rounded_per_output_channel_and_dead_channels_get_a_positive_scale() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(5, 3, 3, 3)).astype(np.float32) * np.array([1, 10, 0.1, 0, 1e-12]).reshape(5, 1, 1, 1).astype(np.float32)
    steps = scales.weight_scales(weights)
    integers = scales.quantise_weights(weights, steps)
    assert steps.shape == (5,)
    assert steps.dtype == np.float32
    assert integers.dtype == np.int8
    assert (steps > 0).all()
    assert (np.abs(integers[:3].reshape(3, -1)).max(1) == 127).all()
    assert not integers[3:].any()
    restored = integers * steps.reshape(5, 1, 1, 1)
    assert (np.abs(restored - weights) <= steps.reshape(5, 1, 1, 1) * 0.5000001).all()


def test_rounding_is_half_to_even() -> None:
    weights = np.array([[127.0, 0.5, 1.5, -2.5]], np.float32)
    np.testing.assert_array_equal(scales.quantise_weights(weights, scales.weight_scales(weights)), [[127, 0, 2, -2]])
