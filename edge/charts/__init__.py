"""Charts as inline SVG: numbers in, one ``<svg>`` out. ``edge.charts.sheet`` makes a file of them.

Every mark that carries a number has a ``<title>``, which browsers show when it is pointed at and
screen readers speak.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from edge.charts.marks import (
    BOTTOM,
    LEFT,
    RIGHT,
    SERIES,
    TOP,
    WIDTH,
    Scale,
    box,
    cut,
    decades,
    dot,
    figure,
    fill,
    grid_x,
    grid_y,
    label,
    line,
    svg,
    ticks,
)

LINE = 14  # of small text


def distribution(series: Mapping[str, Sequence[float]], *, unit: str = "ms") -> str:
    """Latency as it was: per engine a histogram of its calls, with p50, p90 and p99.

    Args:
        series: name → milliseconds of every call.
    """
    row, gap = 74, 26
    height = TOP + len(series) * (row + gap) + BOTTOM - gap
    # A single stall must not squeeze the rest into a line; what lies beyond is counted at the edge.
    tops = [min(max(values), 1.6 * _percentile(sorted(values), 90)) for values in series.values()]
    marks = ticks(min(min(values) for values in series.values()), max(tops))
    x = Scale(marks[0], marks[-1], LEFT, WIDTH - RIGHT)
    parts = [grid_x(marks, x, TOP, height - BOTTOM, unit, height)]
    for index, (name, values) in enumerate(series.items()):
        top, ordered = TOP + index * (row + gap), sorted(values)
        parts += [label(LEFT, top + 10, name, "label"), _histogram(ordered, x, top + 16, row - 16, index)]
        for percent in (50, 90, 99):
            value = _percentile(ordered, percent)
            at = x(min(value, marks[-1]))
            parts.append(line(at, top + 16, at, top + row, "mark", f"{name}: p{percent} {figure(value)} {unit}"))
        named = "   ".join(f"p{percent} {figure(_percentile(ordered, percent))}" for percent in (50, 90, 99))
        beyond = sum(value > marks[-1] for value in values)
        named += f"   {beyond} beyond, up to {figure(ordered[-1])} →" if beyond else ""
        parts.append(label(WIDTH - RIGHT, top + 10, named, "small", "end"))
    return svg(height, parts, "Latency of every call")


def timeline(values: Sequence[float], *, unit: str = "ms") -> str:
    """The same calls over time: drift and stalls show as a slope and as spikes."""
    height = 150
    ordered = sorted(values)
    marks = ticks(0, min(ordered[-1], 2.5 * ordered[len(ordered) // 2]), 3)
    x = Scale(0, max(1, len(values) - 1), LEFT, WIDTH - RIGHT)
    y = Scale(marks[0], marks[-1], height - BOTTOM, TOP)
    parts = [grid_y(marks, y, unit)]
    parts += [dot(x(i), y(min(v, marks[-1])), 2, "f0", f"call {i + 1}: {figure(v)} {unit}") for i, v in enumerate(values)]
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, height - 12, "calls, in the order made", "small", "middle"))
    return svg(height, parts, "Latency over the run")


def pareto(
    points: Sequence[tuple[str, float, float]],
    *,
    reference: float | None = None,
    named: Container[str] | None = None,
    limits: tuple[float | None, float | None] = (None, None),
    colours: Sequence[int] | None = None,
) -> str:
    """Accuracy against latency; engines that no other beats in both are filled and joined.

    Args:
        points: (name, milliseconds per image, mAP in points).
        reference: mAP of the FP32 graph, as a line.
        named: which to write beside their points, where all would be too many; None: all.
        limits: most milliseconds and least mAP that are allowed, as lines.
        colours: of the points, 0 to ``SERIES`` - 1; None: one after another.
    """
    height = 320
    most_ms, least_map = limits
    heights = [point[2] for point in points] + [value for value in (reference, least_map) if value is not None]
    room = max(0.5, (max(heights) - min(heights)) * 0.25)
    ys = ticks(max(0.0, min(heights) - room), min(100.0, max(heights) + room))
    xs = ticks(0, max(point[1] for point in points) * 1.1)
    x, y = Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT), Scale(ys[0], ys[-1], height - BOTTOM, TOP)
    parts = [grid_x(xs, x, TOP, height - BOTTOM, "ms per image", height), grid_y(ys, y, "mAP")]
    if reference is not None:
        parts.append(line(LEFT, y(reference), WIDTH - RIGHT, y(reference), "reference"))
        parts.append(label(WIDTH - RIGHT, y(reference) - 6, f"FP32 {reference:.2f}", "small", "end"))
    if most_ms is not None and most_ms <= xs[-1]:
        parts.append(line(x(most_ms), TOP, x(most_ms), height - BOTTOM, "mark", f"at most {figure(most_ms)} ms"))
        parts.append(label(x(most_ms) + 4, TOP + 8, f"budget {figure(most_ms)} ms", "small"))
    if least_map is not None:
        parts.append(line(LEFT, y(least_map), WIDTH - RIGHT, y(least_map), "mark", f"at least {least_map:.2f} mAP"))
        parts.append(label(WIDTH - RIGHT, y(least_map) + 14, f"budget {least_map:.2f}", "small", "end"))
    best = front(points)
    corners = " ".join(f"{x(points[i][1]):.1f},{y(points[i][2]):.1f}" for i in best)
    parts.append(f'<polyline points="{corners}" class="front"/>')
    taken: list[tuple[float, float]] = []
    names = []  # drawn last, so that no point hides one
    for index, (name, ms, accuracy) in enumerate(points):
        at, up, kind = x(ms), y(accuracy), "f" if index in best else "o"
        whole = named is None or name in named
        colour = (index if colours is None else colours[index]) % SERIES
        parts.append(dot(at, up, 6 if whole else 4, f"{kind}{colour}", f"{name}: {figure(ms)} ms per image, {accuracy:.2f} mAP"))
        if not whole:
            continue
        end = at > WIDTH * 0.7
        # Names of the front stand above, of what is beaten below, and further off where another
        # name is in the way.
        away = -LINE if index in best else LINE
        row = up + (-9 if index in best else 18)
        while any(abs(row - other) < LINE and abs(at - there) < WIDTH / 3 for there, other in taken):
            row += away
        taken.append((at, row))
        names.append(label(at - 10 if end else at + 10, row, name, "small over", "end" if end else "start"))
    return svg(height, [*parts, *names], "Accuracy against latency")


def front(points: Sequence[tuple[str, float, float]]) -> list[int]:
    """Indices of the points no other one beats in latency and accuracy at once, fastest first."""
    found, best = [], -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][2])):
        if points[index][2] > best:
            found.append(index)
            best = points[index][2]
    return found


def dumbbells(rows: Sequence[tuple[str, float, float]], *, before: str, after: str, unit: str = "AP") -> str:
    """Two values per row joined by a line: before as a ring, after as a dot.

    Args:
        rows: (name, value before, value after), drawn in this order.
    """
    step, left = 19, 190
    height = TOP + 22 + step * len(rows) + BOTTOM
    marks = ticks(max(0.0, min(min(a, b) for _, a, b in rows)), max(max(a, b) for _, a, b in rows))
    x = Scale(marks[0], marks[-1], left, WIDTH - 70)
    parts = [grid_x(marks, x, TOP + 14, height - BOTTOM, unit, height)]
    parts += [dot(left + 6, TOP, 4.5, "o1"), label(left + 16, TOP + 4, before, "small")]
    parts += [dot(left + 106, TOP, 4.5, "f0"), label(left + 116, TOP + 4, after, "small")]
    for index, (name, old, new) in enumerate(rows):
        y = TOP + 30 + step * index
        parts += [label(left - 12, y + 4, cut(name, 26), "small", "end"), line(x(old), y, x(new), y, "join")]
        parts += [dot(x(old), y, 4.5, "o1"), dot(x(new), y, 4, "f0", f"{name}: {old:.1f} → {new:.1f} ({new - old:+.1f})")]
        parts.append(label(WIDTH - 8, y + 4, f"{new - old:+.1f}", "small", "end"))
    return svg(height, parts, f"{unit} by class, {before} and {after}")


class Bar(NamedTuple):
    """A row of ``bars``: its colour's number, and what stands behind it; empty: its figure."""

    name: str
    value: float
    colour: int = 0
    said: str = ""


def bars(rows: Sequence[Bar], *, unit: str, logarithmic: bool = False) -> str:
    """Horizontal bars from 0, for rankings; logarithmic: from a round number below the least."""
    step, left = 22, min(300.0, 20 + 6.5 * max(len(row.name) for row in rows))
    height = TOP + step * len(rows) + BOTTOM
    values = [row.value for row in rows]
    marks = decades(min(values) / 2, max(values)) if logarithmic else ticks(min(0.0, *values), max(0.0, *values))
    x = Scale(marks[0], marks[-1], left, WIDTH - 150 if any(row.said for row in rows) else WIDTH - 60, logarithmic)
    parts = [grid_x(marks, x, TOP - 6, height - BOTTOM, unit, height)]
    for index, row in enumerate(rows):
        y = TOP + step * index
        start, end = sorted((x(marks[0] if logarithmic else 0), x(row.value)))
        parts.append(label(left - 8, y + 11, cut(row.name, 44), "small", "end"))
        parts.append(box(start, y, max(1.0, end - start), step - 8, fill(row.colour), f"{row.name}: {figure(row.value)} {unit}"))
        parts.append(label(end + 6, y + 11, row.said or figure(row.value), "small"))
    return svg(height, parts, "Ranking")


def stacks(rows: Mapping[str, Mapping[str, float]], *, colours: Mapping[str, int], unit: str = "ms") -> str:
    """One stacked bar per row on one scale, its parts named below.

    Args:
        rows: row → part → value.
        colours: part → number of its colour; from ``SERIES`` on the same colours, faint.
    """
    names = list(dict.fromkeys(part for values in rows.values() for part in values))
    bar, gap = 30, 30
    below = 14 + 20 * math.ceil(len(names) / 8)
    height = TOP + len(rows) * (bar + gap) + BOTTOM + below
    marks = ticks(0, max(sum(values.values()) for values in rows.values()))
    x = Scale(0, marks[-1], LEFT, WIDTH - RIGHT)
    parts = [grid_x(marks, x, TOP, height - below - BOTTOM, unit, height - below)]
    for index, (row, values) in enumerate(rows.items()):
        y, start, total = TOP + 16 + index * (bar + gap), 0.0, sum(values.values())
        parts.append(label(LEFT, y - 6, f"{row}: {figure(total)} {unit}", "label"))
        for part, value in values.items():
            wide = x(start + value) - x(start)
            title = f"{row}: {part} {figure(value)} {unit}, {value / total:.0%}"
            parts.append(box(x(start), y, max(0.0, wide - 1), bar, fill(colours.get(part, SERIES - 1)), title))
            if wide > 44:
                parts.append(label(x(start) + wide / 2, y + bar / 2 + 4, figure(value), "inside", "middle"))
            start += value
    for index, part in enumerate(names):
        at, y = LEFT + index % 8 * 110, height - below + 20 * (index // 8) + 18
        parts += [box(at, y - 9, 11, 11, fill(colours.get(part, SERIES - 1))), label(at + 16, y, part, "small")]
    return svg(height, parts, "Time by stage")


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, x_unit: str, y_unit: str, from_zero: bool = True) -> str:
    """Curves through few points; several are named above.

    Args:
        series: name → (x, y) in order of x.
        from_zero: whether y begins at 0, or below the lowest point.
    """
    top = TOP + 16 if len(series) > 1 else TOP
    height = 240
    points = [point for values in series.values() for point in values]
    xs = ticks(min(p[0] for p in points), max(p[0] for p in points))
    ys = ticks(0 if from_zero else min(p[1] for p in points), max(p[1] for p in points))
    x, y = Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT), Scale(ys[0], ys[-1], height - BOTTOM, top)
    parts = [grid_x(xs, x, top, height - BOTTOM, x_unit, height), grid_y(ys, y, y_unit)]
    for index, (name, values) in enumerate(series.items()):
        corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values)
        parts.append(f'<polyline points="{corners}" class="l{index % SERIES}"/>')
        for a, b in values:
            parts.append(dot(x(a), y(b), 3.5, f"f{index % SERIES}", f"{name}: {figure(b)} {y_unit} at {figure(a)} {x_unit}"))
        if len(series) > 1:
            at = LEFT + 20 + index * 150
            parts += [dot(at, TOP - 6, 4, f"f{index % SERIES}"), label(at + 10, TOP - 2, cut(name, 20), "small")]
    return svg(height, parts, f"{y_unit} against {x_unit}")


def _histogram(ordered: Sequence[float], x: Scale, top: float, height: float, colour: int) -> str:
    """The calls in 90 columns; heights are square roots, so that the few slow calls are seen beside
    the many usual ones."""
    columns = 90
    counts = [0] * columns
    for value in ordered:
        counts[min(columns - 1, max(0, int((value - x.low) / (x.high - x.low) * columns)))] += 1
    wide = (x.end - x.start) / columns
    tall = [height * math.sqrt(count / max(counts)) for count in counts]
    return "".join(
        box(x.start + index * wide, top + height - tall[index], wide - 0.8, tall[index], fill(colour), f"{count} calls")
        for index, count in enumerate(counts)
        if count
    )


def _percentile(ordered: Sequence[float], percent: float) -> float:
    at = (len(ordered) - 1) * percent / 100
    below = math.floor(at)
    return ordered[below] + (at - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])
