"""Which regions the second pass processes: the smallest effort that includes each region.

A second look changes the result where the first pass is unsure of the region's class. Where it is
sure, an enlarged crop can only add false alarms. So a region is processed if the global score of
its class lies in an interval that widens with the effort (rule ``interval``, docs/adaptive.md).
Regions that show nothing new have an interval of their own, which widens later.
Without a fit, regions are taken by rank (rule ``rank``). Only +, -, *, / and comparisons in
float64, so that edge/cpp/src/effort.cpp gives identical results.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge.graph import REGION_SCORES, Outputs
from edge.spec import RuleSpec


def needs(rule: RuleSpec, outputs: Mapping[str, np.ndarray]) -> NDArray[np.float64]:
    """The smallest effort that includes each region: (B, K) float64, above 0 and at most 1.

    Args:
        outputs: ``global_scores`` (B, C) float32, of the first pass; ``region_classes`` (B, K)
            int64 and ``regions`` (B, K, 4) float32, in rank order.
    """
    global_scores, region_classes = outputs["global_scores"], outputs["region_classes"]
    if rule.kind == "rank":
        count = region_classes.shape[1]
        ranks = np.arange(count)
        # The first round(effort * K), halves to even: of an even rank, half a region is not yet
        # one.
        need = np.where(ranks % 2 == 0, np.nextafter((ranks + 0.5) / count, 1), (ranks + 0.5) / count)
        return np.broadcast_to(need, region_classes.shape)
    scores = np.take_along_axis(global_scores, np.clip(region_classes, 0, global_scores.shape[1] - 1), 1).astype(np.float64)
    need = _within(scores, rule.low, rule.high)
    if rule.tells_redundant:
        again = _within(scores, rule.redundant_low, rule.redundant_high)
        need = np.where(redundant(outputs["regions"], rule.max_overlap, rule.max_area), again, need)
    least: NDArray[np.float64] = np.maximum(need, np.finfo(np.float64).tiny)
    return least


def redundant(regions: np.ndarray, max_overlap: float | None, max_area: float | None) -> NDArray[np.bool_]:
    """Which regions (B, K, 4), in rank order, show the second pass little that is new: (B, K).

    A box that nearly repeats a better-ranked one (IoU above ``max_overlap``) has been seen; one
    that is large (above ``max_area`` pixels) is hardly enlarged.
    """
    late = np.zeros(regions.shape[:2], bool)
    if max_area is not None:
        late |= areas(regions) > max_area
    if max_overlap is not None:
        late |= overlaps(regions) > max_overlap
    return late


def areas(regions: np.ndarray) -> NDArray[np.float64]:
    """(B, K) pixels of each box."""
    sides = regions[..., 2:].astype(np.float64) - regions[..., :2]
    found: NDArray[np.float64] = np.maximum(sides, 0).prod(-1)
    return found


def overlaps(regions: np.ndarray) -> NDArray[np.float64]:
    """(B, K) the largest IoU of each box with a better-ranked one; 0 of the first."""
    boxes, area = regions.astype(np.float64), areas(regions)
    mine, other = boxes[:, :, None], boxes[:, None]
    shared = np.concatenate([np.maximum(mine[..., :2], other[..., :2]), np.minimum(mine[..., 2:], other[..., 2:])], -1)
    both = areas(shared)
    union = area[:, :, None] + area[:, None] - both
    largest: NDArray[np.float64] = np.tril(both / np.where(union > 0, union, 1), -1).max(-1, initial=0)
    return largest


def _within(scores: NDArray[np.float64], low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[np.float64]:
    """The smallest effort whose interval holds each score."""
    return np.maximum(_reached(scores, high), _reached(-scores, tuple(-value for value in low)))


def _reached(scores: NDArray[np.float64], bounds: tuple[float, ...]) -> NDArray[np.float64]:
    """The smallest effort at which a bound, given at equal steps and never falling, is at or above
    each score; 1 where none is."""
    high = np.asarray(bounds, np.float64)
    after = np.searchsorted(high, scores)  # the first bound at or above; NaN goes last
    last = np.clip(after, 1, len(high) - 1)
    step = high[last] - high[last - 1]
    part = (scores - high[last - 1]) / np.where(step > 0, step, 1)
    inside = (last - 1 + part) / (len(high) - 1)
    return np.where(after == 0, 0.0, np.where(after == len(high), 1.0, inside))


def fused(outputs: Outputs, looked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The scores (N, C) of an engine whose second pass processes those regions.

    Args:
        outputs: of ``Engine.infer_each``.
        looked: (N, K).
    """
    local = np.where(looked[:, :, None], outputs[REGION_SCORES], np.float32(0)).max(1)
    scores: NDArray[np.float32] = np.maximum(outputs["global_scores"], local)
    return scores


def looked_at(rule: RuleSpec, outputs: Outputs, effort: float) -> NDArray[np.bool_]:
    """Which regions of those outputs are processed: (N, K)."""
    need = needs(rule, outputs)
    return need <= effort if effort < 1 else np.ones(need.shape, bool)
