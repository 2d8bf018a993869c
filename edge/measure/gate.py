"""``--fail-on``: conditions that fail a run, such as ``p99>+5%,map<-0.3``."""

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
    """Conditions of a ``--fail-on`` argument: ``METRIC(<|>)VALUE[%]``, separated by commas.

    Raises:
        EdgeError: a condition has another form, an unknown metric, or a percentage without a sign.
    """
    conditions = []
    for part in (piece.strip() for piece in text.split(",")):
        found = _FORM.fullmatch(part)
        if not found or found["metric"] not in METRICS:
            raise EdgeError(
                "bench",
                "--fail-on must be conditions METRIC(<|>)VALUE[%]",
                got=repr(part),
                expected=f"a metric out of {one_of(METRICS)}, such as p99>+5%",
                do="Correct --fail-on",
            )
        if found["percent"] and not found["sign"]:
            raise EdgeError(
                "bench",
                "a percentage must be a change, with its sign",
                got=repr(part),
                expected=f"{found['metric']}{found['side']}+{found['number']}% or {found['metric']}{found['side']}-{found['number']}%",
                do="Add the sign, and --baseline FILE",
            )
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
        raise GateError(
            "bench",
            "no condition of --fail-on may be met",
            got="; ".join(f"{_metric(one)} {one['measured']:.4g} ({one['condition']})" for one in failed),
            expected="; ".join(
                f"{_metric(one)} {'at most' if '>' in one['condition'] else 'at least'} {one['limit']:.4g}" for one in failed
            ),
            do="See the report, or change --fail-on",
        )
    missing = [one for one in outcome if one["measured"] is None]
    if missing:
        raise EdgeError(
            "bench",
            "a condition needs its figure",
            got="; ".join(f"no {_metric(one)} ({one['condition']})" for one in missing),
            expected="a measured number",
            do="See the notes of the report for why, or drop the condition",
        )


def check_needs(conditions: tuple[Condition, ...], *, accuracy: bool, baseline: Mapping[str, Any] | None, batch: int) -> None:
    """Refuse, before anything is measured, conditions that cannot be judged.

    Args:
        accuracy: whether there are labelled images to judge by.
        baseline: the content of ``--baseline``.
        batch: the one that will be reported.

    Raises:
        EdgeError: a change without a baseline, without its figure in the baseline or against a speed at another batch; a mAP
            condition without the accuracy pass.
    """
    for condition in conditions:
        if condition.metric.startswith("map") and not accuracy:
            raise EdgeError(
                "bench",
                "a condition on mAP needs the accuracy pass",
                got=f"{condition.text} without it",
                expected="images with the labels of the model's classes",
                do="Drop --no-accuracy, or give a labelled --dataset",
            )
        if not condition.change:
            continue
        if baseline is None:
            raise EdgeError(
                "bench",
                "a change needs something to compare with",
                got=f"{condition.text} without --baseline",
                expected="the JSON of an earlier run",
                do="Add --baseline FILE",
            )
        if condition.metric in OF_SPEED and baseline.get("batch") != batch:
            raise EdgeError(
                "bench",
                "the baseline must be of the same batch",
                got=f"batch {baseline.get('batch')} against {batch}",
                expected="equal batches",
                do="Bench with the baseline's --batch",
            )
        if _figure(condition, baseline) is None:
            raise EdgeError(
                "bench",
                "a change needs its figure in the baseline",
                got=f"no {condition.metric} there",
                expected="a number at " + ".".join(METRICS[condition.metric]),
                do="Make the baseline anew, or drop the condition",
            )


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
