"""A tuned engine in words: one table and one plot, for a terminal and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edge import charts
from edge.measure import machine
from edge.measure.latency import Percentiles
from edge.report import style
from edge.report.page import section, table
from edge.report.text import change, number, text_table
from edge.spec import PRECISIONS
from edge.tuning.budget import Condition, unit
from edge.tuning.search import by
from edge.tuning.trial import Choice
from edge.tuning.tuned import Tuned

COLUMNS = ("trial", "effort", "mAP", "Δ mAP", "mean ms", "p99 ms", "looks", "MB", "verdict")
RIGHT = frozenset(COLUMNS) - {"trial", "verdict"}
PLOTTED = (
    "Each engine at its best effort, and the front of all efforts. Filled and joined: no other engine is both faster and more accurate. "
    "Blue: FP32; orange: 16-bit float; green: INT8. Dashed: the budget."
)
LEGEND = (
    "On validation images, each engine at the effort that suits the budget best. Δ mAP: against the given weights in FP32 at "
    "their own size, with all regions, in points. MB are 10^6 bytes."
)


def terminal(tuned: Tuned) -> str:
    """The table, and what came of it."""
    lines = ["", *text_table(COLUMNS, _built(tuned), RIGHT)]
    lines += [f"{_some(names)}: {why}" for why, names in _reasons(tuned).items()]
    return "\n".join([*lines, "", LEGEND, "", *(f"{name:10} {said}" for name, said in facts(tuned))])


def rows(tuned: Tuned) -> list[list[str]]:
    """A row for each trial, in the order in which they came; then one for each reason why others
    were not built."""
    return _built(tuned) + [[_some(names), *[""] * 7, why] for why, names in _reasons(tuned).items()]


def _built(tuned: Tuned) -> list[list[str]]:
    return [[row.candidate.name, *_figures(row.choice), row.why] for row in tuned.rows if row.choice is not None]


def _reasons(tuned: Tuned) -> dict[str, list[str]]:
    """Why engines were not built → their names."""
    reasons: dict[str, list[str]] = {}
    for row in tuned.rows:
        if row.choice is None:
            reasons.setdefault(row.why, []).append(row.candidate.name)
    return reasons


def facts(tuned: Tuned) -> list[tuple[str, str]]:
    """What came of it: (name, sentence)."""
    found = [
        (
            "budget",
            ", ".join(one.text for one in tuned.budget) + f"; the lowest {tuned.minimise} among those that fit, at batch {tuned.batch}",
        )
    ]
    if tuned.best is not None and tuned.bundle is not None:
        found.append(("chosen", f"{tuned.best.name}: {tuned.bundle.path}"))
    for miss in tuned.misses:
        if miss.choice is None:
            said = "nothing meets the other conditions" + (f", and this one is missed {by(miss.by)}" if miss.by else "")
        else:
            said = f"{miss.choice.name} meets the others and needs {_needed(miss.choice, miss.condition)}, {miss.by:.0%} beyond"
        found.append(("nearest", f"{miss.condition.text}: {said}"))
    if tuned.misses:
        found.append(("relax", advice(tuned)))
    result = tuned.result
    if result is not None:
        effort, accuracy = result.effort, result.accuracy
        said = f"mean {number(tested(tuned, 'mean'))} ms, p99 {number(tested(tuned, 'p99'))} ms"
        if effort is not None:
            said += f" at effort {effort.chosen:g}, {effort.mean_looks:.2f} regions per image"
        if accuracy is not None:
            said += f"; mAP {number(tested(tuned, 'map'), 2)}, Δ mAP {change(tested(tuned, 'map_drop'))}"
            said += f" on {accuracy.images} images of {accuracy.dataset}"
        found.append(("test", said))
        for condition in tuned.budget:
            measured = tested(tuned, condition.metric)
            if measured is not None and not condition.holds(measured):
                missed = f"{condition.text} does not hold there: {number(measured, 2)} {unit(condition.metric)}"
                found.append(("test", missed))
        found += [("note", warning) for warning in result.warnings]
    found.append(("trials", f"{tuned.trials} (kept for the next budget)"))
    return found


def tested(tuned: Tuned, metric: str) -> float | None:
    """A budget's metric of the chosen engine as the report measured it; None where it did not."""
    result = tuned.result
    if result is None:
        return None
    accuracy, point = result.accuracy, result.effort.point if result.effort is not None else None
    ms = result.latency_ms if point is None else point
    worth = point.map if point is not None else accuracy.map if accuracy is not None else None
    reference = accuracy.map_reference if accuracy is not None else None
    if isinstance(ms, Percentiles):
        mean, p50, p90, p99 = ms.mean, ms.p50, ms.p90, ms.p99
    else:
        mean, p50, p90, p99 = ms.mean_ms, ms.p50_ms, None, ms.p99_ms
    figures: dict[str, float | None] = {
        "mean": mean,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "throughput": 1e3 * result.batch / mean if mean else None,
        "map": worth,
        "map_drop": None if worth is None or reference is None else reference - worth,
        "size": None if result.memory_mb.bundle is None else result.memory_mb.bundle * 2**20 / 1e6,
        "mean_looks": None if point is None else point.mean_looks,
    }
    return figures.get(metric)


def advice(tuned: Tuned) -> str:
    """Which condition to relax first."""
    if not tuned.misses:
        return "Relax the `budget`"
    first = tuned.misses[0]
    if first.choice is None:
        return f"Relax {first.condition.text} first, although that alone is not enough"
    return f"Relax {first.condition.text} first: {first.choice.name} needs {_needed(first.choice, first.condition)}"


def _needed(choice: Choice, condition: Condition) -> str:
    """The limit at which a condition would hold, with its headroom, rounded to the safe side."""
    value = choice.needed(condition)
    if value is None:
        return "a figure that was not measured"
    safe = math.ceil(100 * value) / 100 if condition.upper else math.floor(100 * value) / 100
    return f"{number(safe, 2)} {unit(condition.metric)}".strip()


def html(tuned: Tuned) -> str:
    """The page: needs nothing else."""
    title = tuned.bundle.path.name if tuned.bundle is not None else "no engine"
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(tuned))
    plot = _plot(tuned)
    sections = [
        section("Result", f"<dl>{said}</dl>"),
        section("Accuracy against latency", plot, PLOTTED) if plot else "",
        section("Trials", f'<div class="worded">{table(COLUMNS, rows(tuned))}</div>', LEGEND),
    ]
    badge = "valid" if tuned.bundle is not None else "invalid"
    where = machine.sentence(tuned.result.machine) if tuned.result is not None else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)} – tune</title><style>{style.SHEET}</style></head><body><main>"
        f'<header><p class="kicker">mcar-edge tune</p><h1>{escape(title)}</h1>'
        f'<p><span class="badge {badge}">{"fits" if tuned.bundle is not None else "nothing fits"}</span> {escape(where)}</p></header>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def _some(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def _figures(one: Choice) -> list[str]:
    point = one.point
    return [
        f"{point.effort:g}",
        number(point.map, 2),
        change(point.map_drop),
        number(point.mean_ms, 2),
        number(point.p99_ms, 2),
        number(point.mean_looks, 2),
        number(one.trial.size_mb, 2),
    ]


def _plot(tuned: Tuned) -> str:
    """mAP against the mean and against p99, with the same engines in both; empty where nothing was
    judged."""
    shown = [one for one in _shown(tuned) if one.point.map is not None]
    if not shown:
        return ""
    reference = next(
        (one.point.map + one.point.map_drop for one in shown if one.point.map is not None and one.point.map_drop is not None), None
    )
    wanted = (tuned.best, *_ends(shown))
    names = [one.name + (", chosen" if one == tuned.best else "") for one in shown]
    named = {name for name, one in zip(names, shown, strict=True) if one in wanted}
    colours = [PRECISIONS.index(one.trial.candidate.precision) for one in shown]
    drawn = ""
    for heading, metric in (("Mean", "mean"), ("p99", "p99")):
        points = [(name, (one.figure(metric) or 0.0) / tuned.batch, one.point.map or 0.0) for name, one in zip(names, shown, strict=True)]
        limits = _limits(tuned, metric, reference)
        drawn += f"<h3>{heading}</h3>{charts.pareto(points, reference=reference, named=named, limits=limits, colours=colours)}"
    return drawn


def _limits(tuned: Tuned, metric: str, reference: float | None) -> tuple[float | None, float | None]:
    """Of an image's latency and of mAP, as the budget sets them."""
    latency = [one.value / tuned.batch for one in tuned.budget if one.metric == metric and one.upper]
    worth = [one.value for one in tuned.budget if one.metric == "map" and not one.upper]
    worth += [reference - one.value for one in tuned.budget if one.metric == "map_drop" and one.upper and reference is not None]
    return min(latency, default=None), max(worth, default=None)


def _ends(judged: Sequence[Choice]) -> tuple[Choice, Choice]:
    """The fastest, and the best: what is named beside the chosen one."""
    fastest = min(judged, key=lambda one: one.point.mean_ms)
    return fastest, max(judged, key=lambda one: (one.point.map or 0.0, -one.point.mean_ms))


def _shown(tuned: Tuned) -> list[Choice]:
    """Each engine at its best effort, and what of all efforts no other beats in mAP and mean at
    once."""
    points = [one for one in tuned.points if one.point.map is not None]
    best = charts.front([(one.name, one.point.mean_ms, one.point.map or 0.0) for one in points])
    ours = [row.choice for row in tuned.rows if row.choice is not None]
    return [*ours, *(points[index] for index in best if points[index] not in ours)]
