"""A budget: conditions that an engine must meet, such as ``p99<25ms, map_drop<0.3, size<10MB``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.errors import EdgeError, one_of
from edge.report.gate import NUMBER, pieces

MS = {"ms": 1.0, "s": 1e3}
POINTS = {"points": 1.0, "point": 1.0}
MB = {"MB": 1.0, "kB": 1e-3, "GB": 1e3}
# Metric → its units, the one it is counted in first; a number without one is in that.
UNITS: Mapping[str, Mapping[str, float]] = {
    "mean": MS,
    "p50": MS,
    "p90": MS,
    "p99": MS,
    "map": POINTS,
    "map_drop": POINTS,
    "throughput": {"images/s": 1.0},
    "size": MB,
    "peak_rss": MB,
    "energy": {"mJ": 1.0, "J": 1e3},
    "mean_looks": {"looks": 1.0},
}
RISING = ("p50", "p90", "p99")  # no one is below the one before
OF_LABELS = ("map", "map_drop")
SIGNED = ("map_drop",)  # an engine may be better than the reference
# What another run of the same engine may give otherwise: a limit must be kept by so much. Sizes and
# counts are what they are.
HEADROOM = 0.03
SURE = 1.64  # standard errors: of twenty figures, nineteen are no further off in one direction
NOISY = ("mean", "p50", "p90", "p99", "throughput", "peak_rss", "energy")
OBJECTIVES = ("mean", "p99", "size", "energy", "map_drop")  # lower is better
_FORM = re.compile(rf"(?P<metric>\w+)\s*(?P<side><=|>=|<|>)\s*(?P<number>{NUMBER})\s*(?P<unit>[a-zA-Z/]*)")


@dataclass(frozen=True)
class Condition:
    """What must hold: ``metric`` lies on ``side`` of ``value``, which is in the metric's first
    unit."""

    text: str
    metric: str
    side: str
    value: float

    @property
    def upper(self) -> bool:
        """Whether it bounds from above."""
        return self.side[0] == "<"

    def holds(self, measured: float) -> bool:
        """Whether a figure keeps it, without headroom."""
        if len(self.side) == 2 and measured == self.value:
            return True
        return measured < self.value if self.upper else measured > self.value

    def miss(self, measured: float | None, error: float = 0.0) -> float:
        """By how much of its value a figure misses it, 0 where it holds with its headroom; infinite
        without a figure.

        Args:
            error: standard error of the figure; the limit must be kept by ``SURE`` of it.
        """
        if measured is None or not math.isfinite(measured):
            return math.inf
        room = HEADROOM if self.metric in NOISY else 0.0
        limit = self.value * (1 - room if self.upper else 1 + room) - SURE * (error if self.upper else -error)
        beyond = measured - limit if self.upper else limit - measured
        if beyond < 0 or (beyond == 0 and (room or error or len(self.side) == 2)):
            return 0.0
        return max(beyond, 1e-9) / (abs(self.value) or 1.0)

    def needed(self, measured: float, error: float = 0.0) -> float:
        """The value at which a figure would keep it with its headroom."""
        room, side = HEADROOM if self.metric in NOISY else 0.0, 1 if self.upper else -1
        return (measured + side * SURE * error) / (1 - side * room)


Budget = tuple[Condition, ...]


def parse(text: str, batch: int = 1) -> Budget:
    """Conditions ``METRIC(<|<=|>|>=)NUMBER[UNIT]``, joined by commas.

    Args:
        batch: images of a call, by which throughput and mean latency exclude each other.

    Raises:
        EdgeError: a condition of another form, an unknown metric or unit, a value nothing can have,
            or two that exclude each other.
    """
    budget = tuple(_condition(part) for part in pieces(text))
    _refuse_contradictions([*budget, *(_of_a_call(one, batch) for one in budget if one.metric == "throughput" and one.value > 0)])
    return budget


def bounds_accuracy(budget: Budget) -> bool:
    """Whether a condition is about mAP."""
    return any(condition.metric in OF_LABELS for condition in budget)


def unit(metric: str) -> str:
    """The unit that a metric is counted in."""
    return next(iter(UNITS[metric]))


def _condition(part: str) -> Condition:
    found = _FORM.fullmatch(part)
    if not found:
        fix = f"Write `budget` with one of the metrics {one_of(UNITS)}, such as p99<25ms"
        raise EdgeError("tune", f"The condition {part!r} is not METRIC(<|<=|>|>=)NUMBER[UNIT]", fix)
    metric, given = found["metric"], found["unit"]
    if metric not in UNITS:
        raise EdgeError("tune", f"The condition {part!r} uses {metric}, which is not a metric", f"Use {one_of(UNITS)}")
    units = {name.lower(): factor for name, factor in UNITS[metric].items()}
    if given and given.lower() not in units:
        raise EdgeError("tune", f"The condition {part!r} uses the unit {given}", f"Write {metric} in {one_of(UNITS[metric])}")
    condition = Condition(part, metric, found["side"], float(found["number"]) * units.get(given.lower(), 1.0))
    impossible = metric not in SIGNED and (condition.value < 0 or (condition.value == 0 and condition.side == "<"))
    if impossible and condition.upper:
        raise EdgeError("tune", f"The condition {part!r} cannot hold: {metric} is never below 0", "Use a larger number")
    if metric in OF_LABELS and not condition.upper and (condition.value > 100 or (condition.value == 100 and condition.side == ">")):
        raise EdgeError("tune", f"The condition {part!r} cannot hold: {metric} is never above 100", "Use a smaller number")
    return condition


def _of_a_call(throughput: Condition, batch: int) -> Condition:
    """The same, said of the mean latency."""
    side = throughput.side.translate(str.maketrans("<>", "><"))
    return Condition(throughput.text, "mean", side, 1e3 * batch / throughput.value)


def _refuse_contradictions(budget: Sequence[Condition]) -> None:
    for low in budget:
        for high in budget:
            if low.upper or not high.upper:
                continue
            same = low.metric == high.metric
            ordered = low.metric in RISING and high.metric in RISING and RISING.index(low.metric) < RISING.index(high.metric)
            touching = low.value == high.value and len(low.side) == len(high.side) == 2
            if (same or ordered) and low.value >= high.value and not touching:
                raise EdgeError("tune", f"No engine can meet both {low.text} and {high.text}", "Remove one of them")
