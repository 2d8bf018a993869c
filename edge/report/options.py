"""What a bench is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.measure.latency import Plan

STANDARD = Plan()
MAX_STREAMS = 1024


@dataclass(frozen=True)
class BenchOptions:
    """A field for each flag of ``edge.bench`` that decides what is measured.

    Attributes:
        bundle: folders; empty for the newest under ``engines/``.
        batch: sizes to measure; empty for 8, or the largest that all bundles take.
        streams: callers at once, to measure besides.
        duration: seconds of a soak, to measure besides.
        dataset: data set to judge on; None for the bundle's own.
        images: at most so many of it.
        no_accuracy: latency and memory only.
        score_threshold: of CF1 and OF1.
        effort: of the second pass, 0 to 1, to compare with effort 1; None for the bundle's own.
        baseline: JSON of an earlier run to compare with.
        fail_on: conditions of the gate.
        photos: whether photographs for the page are wanted.
        plan: how long to measure.

    Raises:
        EdgeError: a value out of range.
    """

    bundle: tuple[Path, ...] = ()
    batch: tuple[int, ...] = ()
    streams: int | None = None
    duration: float | None = None
    dataset: str | None = None
    images: int = 500
    no_accuracy: bool = False
    score_threshold: float = 0.6
    effort: float | None = None
    baseline: Path | None = None
    fail_on: str | None = None
    photos: bool = False
    plan: Plan = STANDARD

    def __post_init__(self) -> None:
        for name, value in (
            ("batch", min(self.batch, default=1)),
            ("images", self.images),
            ("streams", 1 if self.streams is None else self.streams),
        ):
            if value < 1:
                raise EdgeError("bench", f"`{name}` is {value}", "Use 1 or more")
        if self.streams is not None and self.streams > MAX_STREAMS:
            raise EdgeError("bench", f"`streams` is {self.streams}", f"Use {MAX_STREAMS} or fewer: each is a thread")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise EdgeError("bench", f"`duration` is {self.duration:g} seconds", "Use a time such as 10m")
        if not 0 <= self.score_threshold <= 1:
            raise EdgeError("bench", f"`score_threshold` is {self.score_threshold:g}", "Use a value from 0 to 1")
        if self.effort is not None and not 0 <= self.effort <= 1:
            raise EdgeError("bench", f"`effort` is {self.effort:g}", "Use a value from 0 to 1")
        if self.effort is not None and self.no_accuracy:
            raise EdgeError("bench", "`effort` is measured on images, which `no_accuracy` leaves out", "Leave out one of them")
