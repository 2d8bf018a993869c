"""From what was observed to a scale: symmetric int8, zero point 0, q = clamp(round_half_even(x /
scale), -128, 127)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.histogram import BINS, Histogram
from edge.errors import EdgeError, one_of

LEVELS = 127  # of one sign; -128 is left unused so that the range is symmetric
PERCENTILE = 99.99
# A scale below this fraction of the tensor's largest one is raised to it: a dead channel must have
# a positive scale (TensorRT refuses 0), and its bias must still fit 32 bits in steps of input scale
# × weight scale.
DEAD_CHANNEL = 2.0**-16
SMALLEST = 2.0**-24  # the smallest positive float16, in which scales may be stored


def activation_scale(histogram: Histogram, method: str) -> float:
    """The scale of an activation tensor by one of ``METHODS``; positive, and never wider than what
    was observed."""
    if method not in METHODS:
        raise EdgeError("calib", f"There is no calibration method {method!r}", f"Change `calib_method` to {one_of(METHODS)}")
    return max(min(METHODS[method](histogram), histogram.largest) / LEVELS, SMALLEST)


def minmax(histogram: Histogram) -> float:
    """The largest |x|: nothing is clipped, and a single outlier decides."""
    return histogram.largest


def percentile(histogram: Histogram, percent: float = PERCENTILE) -> float:
    """The smallest bin edge below which ``percent`` of the values lie (Wu et al. 2020,
    arXiv:2004.09602, §5.2)."""
    cumulated = np.cumsum(histogram.counts)
    if cumulated[-1] == 0:
        return histogram.largest
    first = int(np.searchsorted(cumulated, cumulated[-1] * percent / 100.0))
    return histogram.limit * (min(first, BINS - 1) + 1) / BINS


def entropy(histogram: Histogram, levels: int = LEVELS + 1) -> float:
    """The threshold whose quantised distribution loses least information (Migacz, GTC 2017, "8-bit
    inference with TensorRT").

    For every number of bins i from ``levels`` on: P is the first i bins with all that lies beyond
    added to the last; Q is the same bins without that addition, merged into ``levels`` groups and
    spread again over the bins of a group that are not empty. The i with the least KL(P‖Q) wins, the
    widest of equals. Zero is exact in every quantisation, so the first bin counts no more than the
    second; without that the zeros after a ReLU hide everything else.

    All i are evaluated at once: Q is constant within a group, so KL needs only sums over groups.
    """
    counts = histogram.counts.copy()
    counts[0] = min(counts[0], counts[1])
    used = histogram.used  # bins that no value reaches would count as empty groups
    if used <= levels or not counts.any():
        return histogram.largest
    counts = counts[:used]
    total = counts.sum()
    ends = np.arange(levels, used + 1)  # candidates i
    edges = np.ceil(np.arange(levels + 1)[None, :] * ends[:, None] / levels).astype(np.int64)  # (candidates, levels + 1)
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    occupied = np.concatenate([[0], np.cumsum(counts > 0)])
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.concatenate([[0.0], np.cumsum(np.where(counts > 0, counts * np.log(counts), 0.0))])
        mass = cumulated[edges[:, 1:]] - cumulated[edges[:, :-1]]
        bins = occupied[edges[:, 1:]] - occupied[edges[:, :-1]]
        height = np.where(bins > 0, np.log(mass / np.maximum(bins, 1)), 0.0)
        inside = cumulated[ends]
        beyond = total - inside
        last = counts[ends - 1]
        # Σ P ln P over the bins, the last one holding what lies beyond; P is counts / total, Q is
        # height / inside.
        own = information[ends] - np.where(last > 0, last * np.log(last), 0.0)
        own += np.where(last + beyond > 0, (last + beyond) * np.log(last + beyond), 0.0)
        cross = np.where(mass > 0, mass * height, 0.0).sum(1) + beyond * height[:, -1]
        divergence = (own - cross) / total - np.log(total) + np.log(inside)
    # Values beyond an empty last bin would be impossible under Q.
    divergence[((last == 0) & (beyond > 0)) | (inside == 0)] = np.inf
    best = len(ends) - 1 - int(np.argmin(divergence[::-1]))
    return float(histogram.limit * ends[best] / BINS)


def mse(histogram: Histogram) -> float:
    """The bin edge as threshold with the least mean squared error of quantise–dequantise.

    A value below half a step errs by itself, one beyond the threshold by what is cut off, any other
    by step² / 12 on average. Bins count as their centres, the first bin as exact zero.
    """
    used = histogram.used
    counts = histogram.counts[:used]
    width = histogram.limit / BINS
    centres = (np.arange(used) + 0.5) * width
    centres[0] = 0.0
    powers = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)]
    ends = np.arange(1, used + 1)
    thresholds = ends * width
    steps = thresholds / LEVELS
    small = np.searchsorted(centres, steps / 2)
    rounding = powers[2][small] + (powers[0][ends] - powers[0][small]) * steps**2 / 12
    beyond = [power[-1] - power[ends] for power in powers]
    clipping = beyond[2] - 2 * thresholds * beyond[1] + thresholds**2 * beyond[0]
    return float(thresholds[used - 1 - int(np.argmin((rounding + clipping)[::-1]))])


METHODS: dict[str, Callable[[Histogram], float]] = {"entropy": entropy, "percentile": percentile, "minmax": minmax, "mse": mse}


def weight_scales(weights: np.ndarray) -> np.ndarray:
    """(O,) float32: one scale per output channel (axis 0), largest |w| / 127; dead channels get a
    small positive one."""
    largest = np.abs(weights.reshape(weights.shape[0], -1)).max(1).astype(np.float64) / LEVELS
    scales: np.ndarray = np.maximum(largest, max(largest.max() * DEAD_CHANNEL, SMALLEST)).astype(np.float32)
    return scales


def quantise_weights(weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int8 of the shape of ``weights`` (O, …), rounded half to even; -128 is not used."""
    steps = scales.reshape(-1, *[1] * (weights.ndim - 1)).astype(np.float64)
    return np.clip(np.round(weights / steps), -LEVELS, LEVELS).astype(np.int8)
