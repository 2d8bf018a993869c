"""Labels that do not flicker: two thresholds and a hold time for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Steady:
    """When a label comes and goes.

    Attributes:
        low: share of the threshold at which a label comes; that is the one at which it goes.
        hold_s: a label changes when its score has passed the one threshold, and so long has not
            gone back past the other.
    """

    low: float = 0.7
    hold_s: float = 0.5


class SteadyLabels:
    """The state of every class over time.

    Args:
        thresholds: (C,) at which labels come.
    """

    def __init__(self, thresholds: NDArray[np.float32], rule: Steady) -> None:
        self._high, self._low, self._hold = thresholds, thresholds * np.float32(rule.low), rule.hold_s
        self._on: NDArray[np.bool_] | None = None
        self._since = np.full(len(thresholds), np.nan)  # when a score passed the threshold of a change; NaN: none is under way

    def update(self, scores: NDArray[np.float32], time_s: float) -> NDArray[np.bool_]:
        """scores: (C,) of a frame → (C,) bool, the labels that it has."""
        if self._on is None:
            self._on = scores >= self._high
            return self._on.copy()
        below, above = scores < self._low, scores >= self._high
        away, back = np.where(self._on, below, above), np.where(self._on, above, below)
        begun = np.where(np.isnan(self._since) & away, time_s, self._since)
        self._since = np.where(back, np.nan, begun)
        change = time_s - self._since >= self._hold
        self._on = self._on ^ change
        self._since[change] = np.nan
        return self._on.copy()
