"""Labels that do not flicker: two thresholds and a hold time for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Steady:
    """When a label comes and goes.

    Attributes:
        low: a label goes below this share of the threshold at which it comes.
        hold_s: seconds for which a score must be on the other side before its label changes.
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
        self._since = np.full(len(thresholds), np.nan)  # when a score went to the other side; NaN: it is not there

    def update(self, scores: NDArray[np.float32], time_s: float) -> NDArray[np.bool_]:
        """scores: (C,) of a frame → (C,) bool, the labels that it has."""
        if self._on is None:
            self._on = scores >= self._high
            return self._on.copy()
        other = np.where(self._on, scores < self._low, scores >= self._high)
        self._since = np.where(other, np.where(np.isnan(self._since), time_s, self._since), np.nan)
        change = other & (time_s - self._since >= self._hold)
        self._on = self._on ^ change
        self._since[change] = np.nan
        return self._on.copy()
