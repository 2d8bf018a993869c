"""Charts as inline SVG, written by hand: numbers in, one ``<svg>`` out.

Colours are the page's CSS variables, so that one drawing serves light, dark and paper. Every mark that carries a number has
a ``<title>``, which browsers show when it is pointed at and screen readers speak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

SERIES = 6  # colours --c0 … --c5 of the page
_WIDTH = 960
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 24, 44
_LINE = 14  # of small text


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten (Heckbert, *Graphics Gems*, 1990)."""
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def figure(value: float) -> str:
    """A number as a reader wants it: three digits that count, no tail of zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def distribution(series: Mapping[str, Sequence[float]], *, unit: str = "ms") -> str:
    """Latency as it was: per engine a histogram of its calls, with p50, p90 and p99.

    Args:
        series: name → milliseconds of every call.
    """
    row, gap = 74, 26
    height = _TOP + len(series) * (row + gap) + _BOTTOM - gap
    # A single stall must not squeeze the rest into a line; what lies beyond is counted at the edge.
    tops = [min(max(values), 1.6 * _percentile(sorted(values), 90)) for values in series.values()]
    marks = ticks(min(min(values) for values in series.values()), max(tops))
    x = Scale(marks[0], marks[-1], _LEFT, _WIDTH - _RIGHT)
    parts = [_grid_x(marks, x, _TOP, height - _BOTTOM, unit, height)]
    for index, (name, values) in enumerate(series.items()):
        top, ordered = _TOP + index * (row + gap), sorted(values)
        parts += [label(_LEFT, top + 10, name, "label"), _histogram(ordered, x, top + 16, row - 16, index)]
        for percent in (50, 90, 99):
            value = _percentile(ordered, percent)
            at = x(min(value, marks[-1]))
            parts.append(_line(at, top + 16, at, top + row, "mark", f"{name}: p{percent} {figure(value)} {unit}"))
        named = "   ".join(f"p{percent} {figure(_percentile(ordered, percent))}" for percent in (50, 90, 99))
        beyond = sum(value > marks[-1] for value in values)
        named += f"   {beyond} beyond, up to {figure(ordered[-1])} →" if beyond else ""
        parts.append(label(_WIDTH - _RIGHT, top + 10, named, "small", "end"))
    return _svg(height, parts, "Latency of every call")


def timeline(values: Sequence[float], *, unit: str = "ms") -> str:
    """The same calls over time: drift and stalls show as a slope and as spikes."""
    height = 150
    ordered = sorted(values)
    marks = ticks(0, min(ordered[-1], 2.5 * ordered[len(ordered) // 2]), 3)
    x = Scale(0, max(1, len(values) - 1), _LEFT, _WIDTH - _RIGHT)
    y = Scale(marks[0], marks[-1], height - _BOTTOM, _TOP)
    parts = [_grid_y(marks, y, unit)]
    parts += [_dot(x(i), y(min(v, marks[-1])), 2, "f0", f"call {i + 1}: {figure(v)} {unit}") for i, v in enumerate(values)]
    parts.append(label((_LEFT + _WIDTH - _RIGHT) / 2, height - 12, "calls, in the order made", "small", "middle"))
    return _svg(height, parts, "Latency over the run")


def pareto(points: Sequence[tuple[str, float, float]], *, reference: float | None = None) -> str:
    """Accuracy against latency; engines that no other beats in both are filled and joined.

    Args:
        points: (name, milliseconds per image, mAP in points).
        reference: mAP of the FP32 graph, as a line.
    """
    height = 320
    heights = [point[2] for point in points] + ([reference] if reference is not None else [])
    room = max(0.5, (max(heights) - min(heights)) * 0.25)
    ys = ticks(max(0.0, min(heights) - room), min(100.0, max(heights) + room))
    xs = ticks(0, max(point[1] for point in points) * 1.1)
    x, y = Scale(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT), Scale(ys[0], ys[-1], height - _BOTTOM, _TOP)
    parts = [_grid_x(xs, x, _TOP, height - _BOTTOM, "ms per image", height), _grid_y(ys, y, "mAP")]
    if reference is not None:
        parts.append(_line(_LEFT, y(reference), _WIDTH - _RIGHT, y(reference), "reference"))
        parts.append(label(_WIDTH - _RIGHT, y(reference) - 6, f"FP32 {reference:.2f}", "small", "end"))
    best = front(points)
    corners = " ".join(f"{x(points[i][1]):.1f},{y(points[i][2]):.1f}" for i in best)
    parts.append(f'<polyline points="{corners}" class="front"/>')
    named: list[tuple[float, float]] = []
    for index, (name, ms, accuracy) in enumerate(points):
        at, up, kind = x(ms), y(accuracy), "f" if index in best else "o"
        parts.append(_dot(at, up, 6, f"{kind}{index % SERIES}", f"{name}: {figure(ms)} ms per image, {accuracy:.2f} mAP"))
        end = at > _WIDTH * 0.7
        # Names of the front stand above, of what is beaten below, and further off where another name is in the way.
        away = -_LINE if index in best else _LINE
        row = up + (-9 if index in best else 18)
        while any(abs(row - other) < _LINE and abs(at - there) < _WIDTH / 3 for there, other in named):
            row += away
        named.append((at, row))
        parts.append(label(at - 10 if end else at + 10, row, name, "small", "end" if end else "start"))
    return _svg(height, parts, "Accuracy against latency")


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
    height = _TOP + 22 + step * len(rows) + _BOTTOM
    marks = ticks(max(0.0, min(min(a, b) for _, a, b in rows)), max(max(a, b) for _, a, b in rows))
    x = Scale(marks[0], marks[-1], left, _WIDTH - 70)
    parts = [_grid_x(marks, x, _TOP + 14, height - _BOTTOM, unit, height)]
    parts += [_dot(left + 6, _TOP, 4.5, "o1"), label(left + 16, _TOP + 4, before, "small")]
    parts += [_dot(left + 106, _TOP, 4.5, "f0"), label(left + 116, _TOP + 4, after, "small")]
    for index, (name, old, new) in enumerate(rows):
        y = _TOP + 30 + step * index
        parts += [label(left - 12, y + 4, _cut(name, 26), "small", "end"), _line(x(old), y, x(new), y, "join")]
        parts += [_dot(x(old), y, 4.5, "o1"), _dot(x(new), y, 4, "f0", f"{name}: {old:.1f} → {new:.1f} ({new - old:+.1f})")]
        parts.append(label(_WIDTH - 8, y + 4, f"{new - old:+.1f}", "small", "end"))
    return _svg(height, parts, f"{unit} by class, {before} and {after}")


def bars(rows: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Horizontal bars, for rankings."""
    step, left = 22, 300
    height = _TOP + step * len(rows) + _BOTTOM
    marks = ticks(min(0.0, *(value for _, value in rows)), max(0.0, *(value for _, value in rows)))
    x = Scale(marks[0], marks[-1], left, _WIDTH - 60)
    parts = [_grid_x(marks, x, _TOP - 6, height - _BOTTOM, unit, height)]
    for index, (name, value) in enumerate(rows):
        y = _TOP + step * index
        start, end = sorted((x(0), x(value)))
        parts.append(label(left - 8, y + 11, _cut(name, 44), "small", "end"))
        parts.append(box(start, y, max(1.0, end - start), step - 8, "f0", f"{name}: {figure(value)} {unit}"))
        parts.append(label(end + 6, y + 11, figure(value), "small"))
    return _svg(height, parts, "Ranking")


def stacks(rows: Mapping[str, Mapping[str, float]], *, colours: Mapping[str, int], unit: str = "ms") -> str:
    """One stacked bar per row on one scale, its parts named below.

    Args:
        rows: row → part → value.
        colours: part → number of its colour; from ``SERIES`` on the same colours, faint.
    """
    names = list(dict.fromkeys(part for values in rows.values() for part in values))
    bar, gap = 30, 30
    below = 14 + 20 * math.ceil(len(names) / 8)
    height = _TOP + len(rows) * (bar + gap) + _BOTTOM + below
    marks = ticks(0, max(sum(values.values()) for values in rows.values()))
    x = Scale(0, marks[-1], _LEFT, _WIDTH - _RIGHT)
    parts = [_grid_x(marks, x, _TOP, height - below - _BOTTOM, unit, height - below)]
    for index, (row, values) in enumerate(rows.items()):
        y, start, total = _TOP + 16 + index * (bar + gap), 0.0, sum(values.values())
        parts.append(label(_LEFT, y - 6, f"{row}: {figure(total)} {unit}", "label"))
        for part, value in values.items():
            wide = x(start + value) - x(start)
            title = f"{row}: {part} {figure(value)} {unit}, {value / total:.0%}"
            parts.append(box(x(start), y, max(0.0, wide - 1), bar, _fill(colours.get(part, SERIES - 1)), title))
            if wide > 44:
                parts.append(label(x(start) + wide / 2, y + bar / 2 + 4, figure(value), "inside", "middle"))
            start += value
    for index, part in enumerate(names):
        at, y = _LEFT + index % 8 * 110, height - below + 20 * (index // 8) + 18
        parts += [box(at, y - 9, 11, 11, _fill(colours.get(part, SERIES - 1))), label(at + 16, y, part, "small")]
    return _svg(height, parts, "Time by stage")


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, x_unit: str, y_unit: str) -> str:
    """Curves through few points.

    Args:
        series: name → (x, y) in order of x.
    """
    height = 240
    points = [point for values in series.values() for point in values]
    xs, ys = ticks(min(p[0] for p in points), max(p[0] for p in points)), ticks(0, max(p[1] for p in points))
    x, y = Scale(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT), Scale(ys[0], ys[-1], height - _BOTTOM, _TOP)
    parts = [_grid_x(xs, x, _TOP, height - _BOTTOM, x_unit, height), _grid_y(ys, y, y_unit)]
    for index, (name, values) in enumerate(series.items()):
        corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values)
        parts.append(f'<polyline points="{corners}" class="l{index % SERIES}"/>')
        for a, b in values:
            parts.append(_dot(x(a), y(b), 3.5, f"f{index % SERIES}", f"{name}: {figure(b)} {y_unit} at {figure(a)} {x_unit}"))
        if len(series) > 1:
            parts.append(label(x(values[-1][0]) - 6, y(values[-1][1]) - 8, name, "small", "end"))
    return _svg(height, parts, f"{y_unit} against {x_unit}")


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A rectangle; ``kind`` is its class in the style sheet, ``title`` what it tells when it is pointed at."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"{_end("rect", title)}'


def label(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    """A line of text; ``anchor`` says whether ``x`` is its start, its middle or its end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _histogram(ordered: Sequence[float], x: Scale, top: float, height: float, colour: int) -> str:
    """The calls in 90 columns; heights are square roots, so that the few slow calls are seen beside the many usual ones."""
    columns = 90
    counts = [0] * columns
    for value in ordered:
        counts[min(columns - 1, max(0, int((value - x.low) / (x.high - x.low) * columns)))] += 1
    wide = (x.end - x.start) / columns
    tall = [height * math.sqrt(count / max(counts)) for count in counts]
    return "".join(
        box(x.start + index * wide, top + height - tall[index], wide - 0.8, tall[index], _fill(colour), f"{count} calls")
        for index, count in enumerate(counts)
        if count
    )


class Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    at = (len(ordered) - 1) * percent / 100
    below = math.floor(at)
    return ordered[below] + (at - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


def _grid_x(marks: Sequence[float], x: Scale, top: float, bottom: float, unit: str, height: float) -> str:
    drawn = [_line(x(mark), top, x(mark), bottom, "grid") + label(x(mark), bottom + 16, figure(mark), "small", "middle") for mark in marks]
    return "".join(drawn) + label((x.start + x.end) / 2, height - 8, unit, "small", "middle")


def _grid_y(marks: Sequence[float], y: Scale, unit: str) -> str:
    drawn = [
        _line(_LEFT, y(mark), _WIDTH - _RIGHT, y(mark), "grid") + label(_LEFT - 8, y(mark) + 4, figure(mark), "small", "end")
        for mark in marks
    ]
    return "".join(drawn) + label(_LEFT - 8, 9, unit, "small", "end")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, title: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{_end("line", title)}'


def _dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}"{_end("circle", title)}'


def _end(tag: str, title: str) -> str:
    return f"><title>{escape(title)}</title></{tag}>" if title else "/>"


def _fill(index: int) -> str:
    return f"f{index % SERIES}" + (" faint" if index >= SERIES else "")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
