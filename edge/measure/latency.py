"""Latency: warm up until it holds still, count, and say whether the figure may be believed.

Every function takes the clock it reads (seconds, monotonic), so that tests own the time. What is
timed is a call that returns when its result is there; backends that work asynchronously wait inside
the call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from edge.errors import EdgeError
from edge.events import Progress

Clock = Callable[[], float]
Turn = Callable[[int], Sequence[float]]  # makes so many calls, returns the seconds of each

CONFIDENCE = 0.95
MOST_CALLS = 200  # in a turn
SAME = 0.01  # a ratio nearer to one than this is no difference, however narrow its interval


@dataclass(frozen=True)
class Plan:
    """How long to warm up and to count, and what a run must show to be valid.

    Attributes:
        samples: calls to count; fewer only when ``limit_s`` ends first, more until ``least_s`` has
            passed.
        least_s, limit_s: bounds of the counted time in seconds.
        warm_window, warm_window_s: a warm-up window ends after so many calls or seconds; warm when
            the medians of two windows in a row agree within ``warm_tolerance``.
        warm_calls, warm_s: bounds of the warm-up.
        enough: fewest counted calls of a valid run.
        interval: widest 95 % interval of the median, as a share of the median.
        spread: largest (p90 - p10) / p50.
        drift: largest change of the median from the first to the last third.
        rounds, turn_s: turns of each where several are compared, and seconds of a turn.
        effort_s: seconds after which no more images are timed at several efforts.
    """

    samples: int = 100
    least_s: float = 2.0
    limit_s: float = 20.0
    warm_window: int = 5
    warm_window_s: float = 1.0
    warm_tolerance: float = 0.05
    warm_calls: int = 100
    warm_s: float = 10.0
    enough: int = 10
    interval: float = 0.05
    spread: float = 0.30
    drift: float = 0.05
    rounds: int = 7
    turn_s: float = 0.5
    effort_s: float = 60.0


@dataclass(frozen=True)
class Percentiles:
    """A latency in milliseconds, as every report shows it."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class Latency:
    """What was counted.

    Attributes:
        seconds: (n,) each call, in the order made.
        images: images per call.
        warm_up: calls made before counting.
    """

    seconds: np.ndarray = field(repr=False)
    images: int = 1
    warm_up: int = 0

    def percentile_ms(self, percent: float) -> float:
        """Linear interpolation between order statistics (Hyndman and Fan's type 7, NumPy's
        default), milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1e3

    @property
    def throughput(self) -> float:
        """Images per second, one call after another."""
        return self.images * len(self.seconds) / float(self.seconds.sum())

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean."""
        mean = float(self.seconds.mean())
        return float(self.seconds.std(ddof=1)) / mean if len(self.seconds) > 1 and mean else 0.0

    @property
    def median_interval_ms(self) -> tuple[float, float]:
        """95 % interval of the median, milliseconds."""
        low, high, _ = median_interval(self.seconds)
        return low * 1e3, high * 1e3

    @property
    def percentiles(self) -> Percentiles:
        whole = (float(value) * 1e3 for value in (self.seconds.mean(), self.seconds.min(), self.seconds.max()))
        return Percentiles(*map(self.percentile_ms, (50, 90, 95, 99)), *whole)


def measure(call: Callable[[], object], *, images: int = 1, plan: Plan = Plan(), clock: Clock = time.perf_counter) -> Latency:
    """Warm up until two windows in a row agree, then count.

    Args:
        call: one inference; returns when the result is there.
        images: images in each call, for the throughput.
        clock: monotonic seconds.
    """
    turn = timed(call, clock)
    warm_up, _ = warm(turn, plan)
    seconds: list[float] = []
    total = 0.0
    while total < plan.limit_s and (len(seconds) < plan.samples or total < plan.least_s):
        seconds += turn(1)
        total += seconds[-1]
    return Latency(np.asarray(seconds), images, warm_up)


def timed(call: Callable[[], object], clock: Clock = time.perf_counter) -> Turn:
    """A call as something that takes turns."""

    def turn(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            start = clock()
            call()
            seconds.append(clock() - start)
        return seconds

    return turn


def warm(turn: Turn, plan: Plan = Plan()) -> tuple[int, bool]:
    """Run until the median of a window of calls agrees with that of the window before.

    Returns:
        (calls made, whether they agreed before the bounds were reached).
    """
    calls, spent, before = 0, 0.0, math.inf
    while calls < plan.warm_calls and spent < plan.warm_s:
        seconds: list[float] = []
        while len(seconds) < plan.warm_window and sum(seconds) < plan.warm_window_s:
            seconds += turn(1)
        calls += len(seconds)
        spent += sum(seconds)
        now = median(seconds)
        if abs(now - before) <= plan.warm_tolerance * now:
            return calls, True
        before = now
    return calls, False


def judge(latency: Latency, plan: Plan = Plan()) -> tuple[str, ...]:
    """Why a measurement may not be believed; empty when it may."""
    seconds, reasons = latency.seconds, []
    if len(seconds) < plan.enough:
        reasons.append(f"too few samples: {len(seconds)} of at least {plan.enough}")
    if len(seconds) < 2:
        return tuple(reasons)
    middle = float(np.median(seconds))
    low, high, _ = median_interval(seconds)
    spread = float(np.percentile(seconds, 90) - np.percentile(seconds, 10)) / middle if middle else 0.0
    third = max(1, len(seconds) // 3)
    drift = float(np.median(seconds[-third:])) / float(np.median(seconds[:third])) - 1
    if high - low > plan.interval * middle:
        reasons.append(f"unstable: the median is only known to ±{(high - low) / middle / 2:.1%} (limit ±{plan.interval / 2:.1%})")
    if spread > plan.spread:
        reasons.append(f"unstable: p10 to p90 span {spread:.0%} of the median (limit {plan.spread:.0%})")
    if abs(drift) > plan.drift:
        reasons.append(f"unstable: the median moved by {drift:+.0%} during the run (limit {plan.drift:.0%})")
    return tuple(reasons)


def median_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Interval of the median between two order statistics, without assuming a distribution.

    The number of values below the true median is binomial(n, 1/2) (David and Nagaraja, *Order
    Statistics*, §7.1).

    Returns:
        (low, high, coverage): the narrowest symmetric interval that covers at least ``confidence``;
        with fewer than six values their whole range, whose coverage is less.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    # P(binomial(n, 1/2) < rank), from the outside in, in logarithms: 2 ** -n underflows for long
    # runs.
    tail, rank = 0.0, 0
    for k in range((count - 1) // 2):
        grown = tail + math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2))
        if 2 * grown > 1 - confidence:
            break
        tail, rank = grown, k + 1
    outer = max(0, rank - 1)
    covered = tail if rank else 0.5**count
    return float(ordered[outer]), float(ordered[count - 1 - outer]), 1 - 2 * covered


@dataclass(frozen=True)
class Rounds:
    """Interleaved measurements: for each name its seconds, round by round.

    Attributes:
        seconds: name → one array per round.
    """

    seconds: Mapping[str, tuple[np.ndarray, ...]]

    def latency(self, name: str, images: int = 1) -> Latency:
        """All rounds of one name."""
        return Latency(np.concatenate(self.seconds[name]), images)

    def compare(self, name: str, base: str) -> Comparison:
        """How ``name`` stands to ``base``: the ratio of medians in each round, so that a slow round
        weighs on both."""
        ratios = [float(np.median(mine) / np.median(other)) for mine, other in zip(self.seconds[name], self.seconds[base], strict=True)]
        return Comparison(tuple(ratios))


@dataclass(frozen=True)
class Comparison:
    """Paired ratios of one thing's latency to another's.

    Attributes:
        ratios: one per round; above 1 means slower than the base.
    """

    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the paired ratios."""
        return median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the median ratio (95 %; with fewer than six rounds the range)."""
        low, high, _ = median_interval(self.ratios)
        return low, high

    @property
    def verdict(self) -> str:
        """``slower``, ``faster`` or ``no difference``."""
        low, high = self.interval
        if low <= 1 <= high or abs(self.ratio - 1) < SAME:
            return "no difference"
        return "slower" if self.ratio > 1 else "faster"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.ratio:.3f} [{low:.3f}, {high:.3f}] over {len(self.ratios)} rounds: {self.verdict}"


def interleave(
    turns: Mapping[str, Turn],
    *,
    rounds: int = 7,
    turn_s: float = 0.5,
    plan: Plan = Plan(),
    progress: Progress | None = None,
) -> Rounds:
    """Measure several things interleaved, A B C C B A A B C …, so that what disturbs one disturbs
    all.

    Every participant is warmed up first; its calls per turn then last about ``turn_s``.

    Args:
        turns: name → what makes so many calls and returns the seconds of each.
        rounds: turns of each participant.
        progress: called with (turns done, turns to do).
    """
    if rounds < 1 or not turns:
        raise EdgeError("bench", f"Nothing to compare: {len(turns)} engines in {rounds} rounds", "Use 1 or more of both")
    calls = {}
    for name, turn in turns.items():
        warm(turn, plan)
        once = median(turn(3))
        calls[name] = max(3, min(MOST_CALLS, math.ceil(turn_s / once) if once > 0 else MOST_CALLS))
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in turns}
    for index in range(rounds):
        for place, name in enumerate(list(turns) if index % 2 == 0 else reversed(list(turns)), 1):
            turns[name](1)  # wakes caches and threads that another's turn put to sleep; not counted
            seconds[name].append(np.asarray(turns[name](calls[name])))
            if progress:
                progress(index * len(turns) + place, rounds * len(turns))
    return Rounds({name: tuple(values) for name, values in seconds.items()})
