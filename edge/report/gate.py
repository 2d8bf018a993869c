"""``fail_on``: conditions that fail a run, such as ``p99>+5%,map<-0.3``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge.errors import EdgeError, GateError, one_of
from edge.report.result import Outcome, Result


@dataclass(frozen=True)
class Metric:
    """A figure of a result: where it stands in the JSON, and how to read it."""

    keys: str
    read: Callable[[Result], float | None]

    def figure(self, result: Result) -> float | None:
        """None where the result has none."""
        value = self.read(result)
        return value if value is not None and math.isfinite(value) else None


METRICS: Mapping[str, Metric] = {
    "p50": Metric("latency_ms.p50", lambda result: result.latency_ms.p50),
    "p90": Metric("latency_ms.p90", lambda result: result.latency_ms.p90),
    "p99": Metric("latency_ms.p99", lambda result: result.latency_ms.p99),
    "mean": Metric("latency_ms.mean", lambda result: result.latency_ms.mean),
    "map": Metric("accuracy.map", lambda result: result.accuracy.map if result.accuracy else None),
    "map_drop": Metric("accuracy.map_drop", lambda result: result.accuracy.map_drop if result.accuracy else None),
    "throughput": Metric("throughput_images_per_s", lambda result: result.throughput_images_per_s),
    "mean_looks": Metric("effort.mean_looks", lambda result: result.effort.mean_looks if result.effort else None),
    "effort_drop": Metric("effort.map_drop", lambda result: result.effort.map_drop if result.effort else None),
    "peak_rss": Metric("memory_mb.peak_rss", lambda result: result.memory_mb.peak_rss),
}
OF_EFFORT = ("mean_looks", "effort_drop")
OF_LABELS = ("map", "map_drop", "effort_drop")
OF_SPEED = ("p50", "p90", "p99", "mean", "throughput")
_UNSIGNED = r"\d+(?:\.\d*)?|\.\d+"
NUMBER = rf"[+-]?(?:{_UNSIGNED})"  # of a condition, here and in a budget
_FORM = re.compile(rf"(?P<metric>\w+)\s*(?P<side>[<>])\s*(?P<sign>[+-]?)(?P<number>{_UNSIGNED})(?P<percent>%?)")


@dataclass(frozen=True)
class Condition:
    """A run fails when ``metric`` lies on ``side`` of ``value``.

    Attributes:
        change: the value was signed: it is a change against the baseline.
        percent: that change is in percent of the baseline.
    """

    text: str
    metric: str
    side: str
    value: float
    change: bool
    percent: bool


def parse(text: str) -> tuple[Condition, ...]:
    """Conditions of ``fail_on``: ``METRIC(<|>)VALUE[%]``, separated by commas.

    Raises:
        EdgeError: a condition has another form, an unknown metric, or a percentage without a sign.
    """
    conditions = []
    for part in pieces(text):
        found = _FORM.fullmatch(part)
        if not found or found["metric"] not in METRICS:
            fix = f"Write `fail_on` with one of the metrics {one_of(METRICS)}, such as p99>+5%"
            raise EdgeError("bench", f"The condition {part!r} is not METRIC(<|>)VALUE[%]", fix)
        if found["percent"] and not found["sign"]:
            either = one_of(f"{found['metric']}{found['side']}{sign}{found['number']}%" for sign in "+-")
            raise EdgeError("bench", f"The condition {part!r} has a percentage without a sign", f"Write {either}, and pass a `baseline`")
        value = float(found["sign"] + found["number"])
        conditions.append(Condition(part, found["metric"], found["side"], value, bool(found["sign"]), bool(found["percent"])))
    return tuple(conditions)


def pieces(text: str) -> list[str]:
    """The conditions of a list, one by one, as they were written."""
    return [piece.strip() for piece in text.split(",")]


def check(conditions: tuple[Condition, ...], result: Result, baseline: Result | None, engine: str | None = None) -> tuple[Outcome, ...]:
    """Compare a bench result with what must not be; an outcome per condition.

    Args:
        baseline: one that ``check_needs`` let pass.
        engine: name of the result's engine, where there are several.
    """
    outcomes = []
    for condition in conditions:
        metric = METRICS[condition.metric]
        measured, limit = metric.figure(result), condition.value
        if condition.change:
            base = metric.figure(baseline) if baseline is not None else None
            assert base is not None
            limit = base + (abs(base) * condition.value / 100 if condition.percent else condition.value)
        failed = measured is not None and (measured > limit if condition.side == ">" else measured < limit)
        outcomes.append(Outcome(condition.text, measured, limit, failed, engine))
    return tuple(outcomes)


def enforce(outcomes: Sequence[Outcome]) -> None:
    """Raise for the conditions that were met, and for those that could not be judged.

    Raises:
        GateError: naming every figure that failed.
        EdgeError: none failed, but a figure was not measured.
    """
    failed = [
        f"{_metric(one)} {one.measured:.4g} ({one.condition}: {'at most' if '>' in one.condition else 'at least'} {one.limit:.4g})"
        for one in outcomes
        if one.failed
    ]
    if failed:
        raise GateError("bench", f"`fail_on` is met: {'; '.join(failed)}", "See the report, or change the condition")
    missing = [f"{_metric(one)} ({one.condition})" for one in outcomes if one.measured is None]
    if missing:
        problem = f"A metric of `fail_on` was not measured: {'; '.join(missing)}"
        raise EdgeError("bench", problem, "See the notes in the report, or remove the condition")


def check_needs(conditions: tuple[Condition, ...], *, accuracy: bool, looked: bool = True, baseline: Result | None, batch: int) -> None:
    """Refuse, before anything is measured, conditions that cannot be judged.

    Args:
        accuracy: whether there are labelled images to judge by.
        looked: whether every engine has a second stage, and images to look at.
        baseline: of an earlier run.
        batch: the one that will be reported.

    Raises:
        EdgeError: a change without a baseline, without its figure in the baseline or against a
            speed at another batch; a mAP condition without the accuracy pass.
    """
    for condition in conditions:
        if condition.metric in OF_EFFORT and not looked:
            problem = f"The condition {condition.text} needs a data set and an engine with a second stage"
            raise EdgeError("bench", problem, "Remove the condition, or pass a `dataset`")
        if condition.metric in OF_LABELS and not accuracy:
            fix = "Pass a `dataset` with labels of the model's classes, and leave out `no_accuracy`"
            raise EdgeError("bench", f"The condition {condition.text} needs labelled images", fix)
        if not condition.change:
            continue
        if baseline is None:
            fix = "Set `baseline` to the JSON of an earlier run"
            raise EdgeError("bench", f"The condition {condition.text} needs an earlier run", fix)
        if condition.metric in OF_SPEED and baseline.batch != batch:
            problem = f"The baseline was measured at batch {baseline.batch or None}, not {batch}"
            raise EdgeError("bench", problem, "Bench with the `batch` of the baseline")
        metric = METRICS[condition.metric]
        if metric.figure(baseline) is None:
            problem = f"The baseline has no {condition.metric} (a number at {metric.keys})"
            raise EdgeError("bench", problem, "Measure the baseline again, or remove the condition")


def _metric(one: Outcome) -> str:
    """The metric of an outcome, with the engine it is of where there are several."""
    metric = re.split("[<>]", one.condition)[0].strip()
    return f"{one.engine}: {metric}" if one.engine is not None else metric
