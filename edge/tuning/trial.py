"""What is tried, and what a trial found, as frozen values: ``result.json`` of a trial's folder, key
by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edge.plain import LEFT_OUT
from edge.tuning.budget import OF_LABELS, Budget, Condition


@dataclass(frozen=True)
class Candidate:
    """An engine that could be built.

    Attributes:
        regions: of the second pass; None for a model without one.
        max_map_drop: int8: layers return to float until it loses at most so many points against the
            same graph in FP32.
    """

    backend: str
    precision: str
    size: int
    regions: int | None = None
    max_map_drop: float | None = None

    @property
    def name(self) -> str:
        """Short, and fit for a file name."""
        gate = "" if self.max_map_drop is None else f"-gate{self.max_map_drop:.2g}"
        regions = "" if self.regions is None else f"-r{self.regions}"
        return f"{self.precision}{gate}-{self.size}{regions}-{self.backend}"


@dataclass(frozen=True)
class Point:
    """An engine at one effort, over validation images; milliseconds are of a batch, mAP in points.

    Attributes:
        mean_looks: regions looked at, of an image in the mean.
        map_drop: against the given weights in FP32 at their own size, regions and effort 1.
        map_error: standard error of that difference, by the images that decide.
        energy_mj: of an image; None where it was not asked for.
    """

    effort: float
    mean_looks: float | None
    map: float | None
    map_drop: float | None
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput: float
    map_error: float | None = None
    energy_mj: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Trial:
    """What was measured of one engine.

    Attributes:
        size_mb: of the engine's files; MB are 10**6 bytes.
        peak_rss_mb: of a process of its own; None where it was not asked for.
        points: by rising effort, interleaved on the same images.
        images: whose latency was measured.
        seconds: that building and measuring took.
    """

    candidate: Candidate
    size_mb: float
    peak_rss_mb: float | None
    points: tuple[Point, ...]
    images: int
    seconds: float

    @property
    def look_ms(self) -> float:
        """The least that a batch takes, at whatever effort."""
        return self.points[0].mean_ms


@dataclass(frozen=True)
class Choice:
    """A trial at one of its efforts."""

    trial: Trial
    point: Point

    @property
    def name(self) -> str:
        whole = self.point.effort == 1
        return self.trial.candidate.name + ("" if whole else f" @{self.point.effort:g}")

    def figure(self, metric: str) -> float | None:
        """The figure of a budget's metric, in its first unit."""
        figures: Mapping[str, float | None] = {
            "mean": self.point.mean_ms,
            "p50": self.point.p50_ms,
            "p90": self.point.p90_ms,
            "p99": self.point.p99_ms,
            "map": self.point.map,
            "map_drop": self.point.map_drop,
            "throughput": self.point.throughput,
            "size": self.trial.size_mb,
            "peak_rss": self.trial.peak_rss_mb,
            "energy": self.point.energy_mj,
            "mean_looks": self.point.mean_looks,
        }
        return figures[metric]

    def misses(self, budget: Budget) -> dict[Condition, float]:
        """The conditions that do not hold, and by how much of their value."""
        return {one: miss for one in budget if (miss := self.miss(one))}

    def miss(self, condition: Condition) -> float:
        """By how much of its value a condition does not hold; 0 where it holds."""
        return condition.miss(self.figure(condition.metric), self._error(condition))

    def needed(self, condition: Condition) -> float | None:
        """The value at which a condition would hold; None without a figure."""
        measured = self.figure(condition.metric)
        return None if measured is None else condition.needed(measured, self._error(condition))

    def _error(self, condition: Condition) -> float:
        return (self.point.map_error or 0.0) if condition.metric in OF_LABELS else 0.0


def choices(trials: Iterable[Trial]) -> list[Choice]:
    """Every trial at every effort."""
    return [Choice(trial, point) for trial in trials for point in trial.points]


def nearest(found: Iterable[Choice], budget: Budget) -> Choice | None:
    """What misses a budget least, all its misses summed; the first of equals."""
    return min(found, key=lambda one: sum(one.misses(budget).values()), default=None)


@dataclass(frozen=True)
class Miss:
    """A condition that nothing could keep together with the others.

    Attributes:
        choice: what meets all the others and misses this one least; None: nothing meets all the
            others.
        by: how much of the condition's value it misses; of the nearest of all where nothing meets
            the others.
    """

    condition: Condition
    choice: Choice | None
    by: float


def misses(found: list[Choice], budget: Budget) -> tuple[Miss, ...]:
    """Each condition of a budget that nothing meets as a whole: what it alone would have to give,
    the one to relax first before all."""
    made = []
    for condition in budget:
        others = [one for one in found if not set(one.misses(budget)) - {condition}]
        best = min(others, key=lambda one: one.miss(condition), default=None)
        whole = best or min(found, key=lambda one: one.miss(condition), default=None)
        made.append(Miss(condition, best, whole.miss(condition) if whole else float("inf")))
    return tuple(sorted(made, key=lambda miss: (miss.choice is None, miss.by if miss.choice else -miss.by)))
