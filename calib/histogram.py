"""How large an activation gets: a histogram of absolute values that is filled in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 1024


@dataclass(frozen=True)
class Histogram:
    """The distribution of |x| over equal bins, and the exact extremes of x.

    Attributes:
        counts: (BINS,) float64, values per bin; bin i holds limit·i/BINS ≤ |x| < limit·(i+1)/BINS.
        limit: upper edge of the last bin; at least the largest |x|.
        minimum, maximum: exact extremes of x, with its sign.
    """

    counts: np.ndarray
    limit: float
    minimum: float
    maximum: float

    @property
    def largest(self) -> float:
        """The largest |x|."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def used(self) -> int:
        """Number of the bins up to that of the largest |x|."""
        return min(BINS, int(self.largest / self.limit * BINS) + 1)


class Accumulator:
    """Fills a histogram batch by batch; memory does not grow with the number of values.

    The range is a power of two and doubles when a batch exceeds it: two neighbouring bins then
    become one, so that the counts are those of a second pass over all data with the final range.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._limit = 0.0
        self._minimum, self._maximum = np.inf, -np.inf

    def add(self, sample: np.ndarray, minimum: float, maximum: float) -> None:
        """Count a batch.

        Args:
            sample: any shape, float32; the values to count, all of the batch or an even sample of
                it.
            minimum, maximum: exact extremes of the whole batch, finite.
        """
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        largest = max(-minimum, maximum, 2.0**-100)
        if self._limit == 0:
            self._limit = 2.0 ** np.ceil(np.log2(largest))
        while largest > self._limit:
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self._limit *= 2
        # Multiplying by a power of two is exact, so a value falls into the same bin whatever the
        # range was.
        bins = (np.abs(sample.ravel()) * np.float32(BINS / self._limit)).astype(np.int32)
        np.minimum(bins, BINS - 1, out=bins)
        self._counts += np.bincount(bins, minlength=BINS)

    def histogram(self) -> Histogram:
        return Histogram(self._counts.astype(np.float64), float(self._limit), float(self._minimum), float(self._maximum))
