"""``fail_on``: conditions that fail a run, such as ``p99>+5%,map<-0.3``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.errors import EdgeError, GateError, one_of

# Name in a condition → where the figure stands in the bench's JSON.
METRICS: Mapping[str, tuple[str, ...]] = {
    "p50": ("latency_ms", "p50"),
    "p90": ("latency_ms", "p90"),
    "p99": ("latency_ms", "p99"),
    "mean": ("latency_ms", "mean"),
    "map": ("accuracy", "map"),
    "map_drop": ("accuracy", "map_drop"),
    "throughput": ("throughput_images_per_s",),
    "peak_rss": ("memory_mb", "peak_rss"),
}
OF_SPEED = ("p50", "p90", "p99", "mean", "throughput")
_FORM = re.compile(r"(?P<metric>\w+)\s*(?P<side>[<>])\s*(?P<sign>[+-]?)(?P<number>\d+(\.\d*)?|\.\d+)(?P<percent>%?)")


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
    for part in (piece.strip() for piece in text.split(",")):
        found = _FORM.fullmatch(part)
        if not found or found["metric"] not in METRICS:
            fix = f"Write `fail_on` with a metric out of {one_of(METRICS)}, such as p99>+5%"
            raise EdgeError("bench", f"The condition {part!r} is not METRIC(<|>)VALUE[%]", fix)
        if found["percent"] and not found["sign"]:
            either = one_of(f"{found['metric']}{found['side']}{sign}{found['number']}%" for sign in "+-")
            raise EdgeError("bench", f"The condition {part!r} has a percentage without a sign", f"Write {either}, and give a `baseline`")
        value = float(found["sign"] + found["number"])
        conditions.append(Condition(part, found["metric"], found["side"], value, bool(found["sign"]), bool(found["percent"])))
    return tuple(conditions)


def check(conditions: tuple[Condition, ...], result: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Compare a bench result with what must not be.

    Args:
        result, baseline: contents of ``edge.bench --json`` files; the baseline is one that ``check_needs`` let pass.

    Returns:
        per condition ``condition``, ``measured`` (None where this run has no such figure), ``limit`` and ``failed``.
    """
    outcome = []
    for condition in conditions:
        measured, limit = _figure(condition, result), condition.value
        if condition.change:
            base = _figure(condition, baseline or {})
            assert base is not None
            limit = base + (abs(base) * condition.value / 100 if condition.percent else condition.value)
        failed = measured is not None and (measured > limit if condition.side == ">" else measured < limit)
        outcome.append({"condition": condition.text, "measured": measured, "limit": limit, "failed": failed})
    return outcome


def enforce(outcome: list[dict[str, Any]]) -> None:
    """Raise for the conditions that were met, and for those that could not be judged.

    Args:
        outcome: of ``check``; where several engines were judged, each with ``engine``, its name.

    Raises:
        GateError: naming every figure that failed.
        EdgeError: none failed, but a figure was not measured.
    """
    failed = [one for one in outcome if one["failed"]]
    if failed:
        said = "; ".join(
            f"{_metric(one)} {one['measured']:.4g} ({one['condition']}: {'at most' if '>' in one['condition'] else 'at least'} "
            f"{one['limit']:.4g})"
            for one in failed
        )
        raise GateError("bench", f"A limit of `fail_on` does not hold: {said}", "See the report, or change `fail_on`")
    missing = [one for one in outcome if one["measured"] is None]
    if missing:
        said = "; ".join(f"{_metric(one)} ({one['condition']})" for one in missing)
        raise EdgeError("bench", f"A condition has no measured figure: {said}", "See the notes of the report, or drop the condition")


def check_needs(conditions: tuple[Condition, ...], *, accuracy: bool, baseline: Mapping[str, Any] | None, batch: int) -> None:
    """Refuse, before anything is measured, conditions that cannot be judged.

    Args:
        accuracy: whether there are labelled images to judge by.
        baseline: the content of an earlier run's JSON.
        batch: the one that will be reported.

    Raises:
        EdgeError: a change without a baseline, without its figure in the baseline or against a speed at another batch; a mAP
            condition without the accuracy pass.
    """
    for condition in conditions:
        if condition.metric.startswith("map") and not accuracy:
            fix = "Give a `dataset` with labels of the model's classes, without `no_accuracy`"
            raise EdgeError("bench", f"The condition {condition.text} needs the accuracy pass", fix)
        if not condition.change:
            continue
        if baseline is None:
            fix = "Give the JSON of an earlier run as `baseline`"
            raise EdgeError("bench", f"The condition {condition.text} needs a run to compare with", fix)
        if condition.metric in OF_SPEED and baseline.get("batch") != batch:
            problem = f"The baseline was measured at batch {baseline.get('batch')}, not {batch}"
            raise EdgeError("bench", problem, "Bench with the `batch` of the baseline")
        if _figure(condition, baseline) is None:
            problem = f"The baseline has no {condition.metric} (a number at {'.'.join(METRICS[condition.metric])})"
            raise EdgeError("bench", problem, "Measure the baseline again, or drop the condition")


def _metric(one: Mapping[str, Any]) -> str:
    """The metric of an outcome, with the engine it is of where there are several."""
    metric = re.split("[<>]", one["condition"])[0].strip()
    return f"{one['engine']}: {metric}" if "engine" in one else metric


def _figure(condition: Condition, result: Mapping[str, Any]) -> float | None:
    value: Any = result
    for key in METRICS[condition.metric]:
        value = value.get(key) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
