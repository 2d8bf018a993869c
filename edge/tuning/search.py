"""Which engines are built, in which order, and which of them is chosen.

1. The given weights in FP32 at their own size come first: what every drop is counted from, and a
   trial like any other.
2. Graphs (size, regions) follow from the own one down: what loses too much in FP32 rules out all
   that is smaller.
3. Of a graph, int8 comes first, then the 16-bit float, then FP32: the cheapest that may do.
4. What an estimate rules out is not built: its size by that of an engine of the same backend and
   precision, its latency by *look* alone of one, scaled with the pixels. Either may be more than
   the budget allows, or than the best so far has of what is minimised.
5. What fits and may be better than the best so far is timed against that, interleaved; inside the
   noise is no difference.
6. What comes out is judged on more images, and so is what would be better and keeps its mAP but for
   the standard error. Then the choice is made again.
7. What comes out then is timed once more, by itself. If it no longer fits, or another has become
   better, the next is chosen by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edge.errors import EdgeError
from edge.tuning.budget import OF_LABELS, SURE, Budget
from edge.tuning.trial import Candidate, Choice, Trial, choices, nearest

LIKE = 0.9  # an engine of the same backend and precision has at least so much of the bytes of its like
LOOK = 0.75  # and *look* takes at least so much of what the pixels let expect; LIKE where those are the same
WORTH = 1.25  # what was slower by more than this when each was measured by itself is not timed against the best
GATE = 0.5  # of what a drop leaves to the rounding: the rest is for looking at less, and for what other images would say
LATENCY = ("mean", "p50", "p90", "p99")
BETTER, WORSE, SAME = "better", "worse", "no difference"


@dataclass(frozen=True)
class Space:
    """What may be tried, each in that order; and what the drops are counted from, which may be none
    of it.

    Attributes:
        sizes: in pixels.
        regions: ``(None,)`` for a model without a second pass.
        first: the given weights in FP32 at their own size and regions.
    """

    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    sizes: tuple[int, ...]
    regions: tuple[int | None, ...]
    first: Candidate

    def __contains__(self, candidate: Candidate) -> bool:
        one = candidate
        return one.precision in self.precisions and one.size in self.sizes and one.regions in self.regions

    def candidates(self) -> Iterator[Candidate]:
        """Rules 1 to 3."""
        yield self.first
        for regions in self.regions:
            for size in self.sizes:
                for precision in self.precisions:
                    for backend in self.backends:
                        candidate = Candidate(backend, precision, size, regions)
                        if candidate != self.first:
                            yield candidate


class Laboratory(Protocol):
    """Builds and measures; ``edge.tuning.laboratory`` is the one that does."""

    def has(self, candidate: Candidate) -> bool:
        """Whether an earlier run found all that is asked for."""

    def trial(self, candidate: Candidate) -> Trial:
        """Build and measure, or read what an earlier run found.

        Raises:
            EdgeError: it cannot be built.
        """

    def time_longer(self, choice: Choice) -> bool:
        """Time a choice by itself, on more images; from then on its trial has those latencies.
        False where that was done before."""

    def judge_longer(self, candidate: Candidate) -> bool:
        """Judge an engine's mAP on more images, and so more surely; from then on its trial has
        those figures. False where that was done before, or there are no more."""

    def fp32_drop(self, candidate: Candidate) -> tuple[float, float]:
        """What its graph loses in FP32, in points, and the standard error of that; its engine is
        there."""

    def compare(self, challenger: Choice, best: Choice, metric: str) -> str:
        """``BETTER``, ``WORSE`` or ``SAME``, by a metric of which less is better, interleaved."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        choice: the trial at its best effort; None where nothing was built, and ``why`` tells.
    """

    candidate: Candidate
    choice: Choice | None
    why: str


@dataclass(frozen=True)
class Found:
    """What a search found; ``best`` is None where nothing fits."""

    best: Choice | None
    rows: tuple[Row, ...]
    trials: tuple[Trial, ...]


def search(
    laboratory: Laboratory,
    space: Space,
    budget: Budget,
    objective: str,
    *,
    may_start: Callable[[float], bool] = lambda seconds: True,
    tell: Callable[[Row], None] = lambda row: None,
) -> Found:
    """Try what may do, and choose.

    Args:
        objective: the metric that is to be least among what fits.
        may_start: whether there is time for a trial that takes so many seconds.
        tell: is told of every row when it is known, and again if it changes.
    """
    told: set[Row] = set()

    def tell_news(row: Row) -> None:
        if row not in told:
            told.add(row)
            tell(row)

    while True:  # rules 6 and 7; it ends, for each is judged and timed longer only once
        found = _search(laboratory, space, budget, objective, may_start, tell_news)
        unsure = [one.candidate for one in found.trials if one.candidate in space and _unsure(one, found.best, budget, objective)]
        unsure += [found.best.trial.candidate] if found.best else []
        # One at a time, for it may be the best then.
        if may_start(max(one.seconds for one in found.trials)) and any(laboratory.judge_longer(candidate) for candidate in unsure):
            continue
        timed = any(condition.metric in (*LATENCY, "throughput") for condition in budget)
        if found.best is None or not timed or not laboratory.time_longer(found.best):
            return found


def _search(
    laboratory: Laboratory,
    space: Space,
    budget: Budget,
    objective: str,
    may_start: Callable[[float], bool],
    tell: Callable[[Row], None],
) -> Found:
    """Rules 1 to 5."""
    rows: list[Row] = []
    trials: list[Trial] = []
    lossy: dict[tuple[int, int | None], float] = {}  # graphs that lose too much in FP32
    queue = list(space.candidates())
    best: Choice | None = None
    while queue:
        candidate = queue.pop(0)
        why = ""
        if not laboratory.has(candidate):
            why = _ruled_out(candidate, trials, lossy, budget) or _beaten(candidate, trials, best, objective)
            if not why and trials and not may_start(max(trial.seconds for trial in trials)):
                why = "not built: the time was up"
        trial = None
        if not why:
            try:
                trial = laboratory.trial(candidate)
            except EdgeError as error:
                if not trials:  # what every drop is counted from
                    raise
                why = f"not built: {error.problem}"
        if trial is None:
            rows.append(Row(candidate, None, why))
            tell(rows[-1])
            continue
        trials.append(trial)
        mine = _best_of(trial, budget, objective)
        gated = _too_lossy(laboratory, mine, budget, lossy)
        if gated is not None and gated not in queue:
            queue.insert(0, gated)
        why = verdict(mine, budget)
        if candidate not in space:
            why += "; the reference, not to be chosen"
        elif not mine.misses(budget):
            if best is None or _beats(laboratory, mine, best, objective):
                best = mine
            else:
                why = "fits, but is not better"
        rows.append(Row(candidate, mine, why))
        tell(rows[-1])
    return Found(best, tuple(replace(row, why="chosen") if best and row.choice == best else row for row in rows), tuple(trials))


def _unsure(trial: Trial, best: Choice | None, budget: Budget, objective: str) -> bool:
    """Rule 6: whether more images may let it be chosen."""
    for one in choices([trial]):
        missed = one.misses(budget)
        near = all(condition.metric in OF_LABELS and condition.holds(_value(one, condition.metric)) for condition in missed)
        if missed and near and (best is None or _value(one, objective) < _value(best, objective)):
            return True
    return False


def verdict(choice: Choice, budget: Budget) -> str:
    """Whether it fits, in words."""
    missed = choice.misses(budget)
    return "fits" if not missed else "misses " + ", ".join(f"{one.metric} {by(miss)}" for one, miss in missed.items())


def by(miss: float) -> str:
    """How far a condition is missed, in words."""
    return "unmeasured" if miss == float("inf") else f"by {miss:.0%}" if miss >= 0.005 else "just"


def _best_of(trial: Trial, budget: Budget, objective: str) -> Choice:
    """A trial at the effort that fits and is best; where none fits, the nearest. Its efforts were
    measured interleaved."""
    mine = choices([trial])
    fitting = [one for one in mine if not one.misses(budget)]
    if fitting:
        return min(fitting, key=lambda one: (_value(one, objective), one.point.mean_ms))
    found = nearest(mine, budget)
    assert found is not None
    return found


def _value(choice: Choice, metric: str) -> float:
    value = choice.figure(metric)
    return float("inf") if value is None else value


def _beats(laboratory: Laboratory, challenger: Choice, best: Choice, objective: str) -> bool:
    """Rule 5; of what does not differ in the objective, the faster."""
    for metric in dict.fromkeys((objective, "mean")):
        if metric in LATENCY and _value(challenger, metric) > WORTH * _value(best, metric):
            return False
        found = laboratory.compare(challenger, best, metric)
        if found != SAME:
            return found == BETTER
    return False


def _too_lossy(laboratory: Laboratory, mine: Choice, budget: Budget, lossy: dict[tuple[int, int | None], float]) -> Candidate | None:
    """Of an engine that loses too much: note whether its graph does in FP32; if not, int8 with some
    layers in float may do."""
    candidate, whole = mine.trial.candidate, mine.trial.points[-1]
    if whole.map is None or whole.map_drop is None:
        return None
    limits = [one.value for one in budget if one.metric == "map_drop" and one.upper]
    limits += [whole.map + whole.map_drop - one.value for one in budget if one.metric == "map" and not one.upper]
    if not limits or min(point.map_drop or 0.0 for point in mine.trial.points) <= min(limits):
        return None
    graph = (candidate.size, candidate.regions)
    drop, error = laboratory.fp32_drop(candidate)
    if drop > min(limits):
        lossy[graph] = drop
        return None
    if candidate.precision != "int8" or candidate.max_map_drop is not None:
        return None
    others = [one for one in mine.misses(budget) if one.metric not in ("map_drop", "map")]
    left = GATE * (min(limits) - max(0.0, drop) - SURE * error)
    return replace(candidate, max_map_drop=round(left, 3)) if left > 0 and not others else None


def _ruled_out(candidate: Candidate, trials: Sequence[Trial], lossy: dict[tuple[int, int | None], float], budget: Budget) -> str:
    """Why an engine need not be built; empty where it may do. Rules 2 and 4."""
    for (size, regions), drop in lossy.items():
        if candidate.size <= size and candidate.regions == regions:
            graph = f"{size} px" + ("" if regions is None else f" with {regions} regions")
            return f"not built: {graph} lose {drop:.2f} points in FP32"
    for condition in budget:
        if not condition.upper:
            continue
        for known in _alike(candidate, trials):
            if condition.metric == "size" and LIKE * known.size_mb > condition.value:
                return f"not built: about {known.size_mb:.1f} MB"
            if condition.metric in LATENCY and _look_ms(candidate, known) > condition.value:
                return f"not built: look alone takes {_look_ms(candidate, known):.3g} ms"
    return ""


def _beaten(candidate: Candidate, trials: Sequence[Trial], best: Choice | None, objective: str) -> str:
    """Why an engine cannot be better than the best so far; empty where it may be. Rule 4."""
    if best is None:
        return ""
    for known in _alike(candidate, trials):
        if objective == "size" and LIKE * known.size_mb > _value(best, objective):
            return f"not built: about {known.size_mb:.1f} MB, more than {best.name}"
        if objective in LATENCY and _look_ms(candidate, known) > _value(best, objective):
            return f"not built: look alone takes {_look_ms(candidate, known):.3g} ms, longer than {best.name}"
    return ""


def _alike(candidate: Candidate, trials: Sequence[Trial]) -> list[Trial]:
    """Those of the same backend and precision."""
    return [one for one in trials if (one.candidate.backend, one.candidate.precision) == (candidate.backend, candidate.precision)]


def _look_ms(candidate: Candidate, known: Trial) -> float:
    """The least that *look* takes, by a trial of the same backend and precision."""
    if candidate.size == known.candidate.size:
        return LIKE * known.look_ms
    return LOOK * known.look_ms * (candidate.size / known.candidate.size) ** 2
