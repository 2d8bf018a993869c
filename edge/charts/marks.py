"""What charts are made of: marks, scales and grids as pieces of SVG, and their style sheet.

Colours are CSS variables with a light and a dark value, so that one drawing serves light, dark and
paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.shown import in_html

SERIES = 6  # colours --c0 … --c5
WIDTH = 960
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 24, 44

LIGHT = """
--bg:#f6f6f3;--card:#fff;--ink:#1a1e23;--soft:#5b6570;--line:#e2e4e7;--grid:#e8eaed;--inside:#fff;
--c0:#2563c9;--c1:#d9730d;--c2:#1f8a5b;--c3:#a33bb5;--c4:#c0392b;--c5:#7a8691;--good:#1f7a51;--bad:#b5331f;
"""

DARK = """
--bg:#13161a;--card:#1b1f25;--ink:#e8eaed;--soft:#9aa4af;--line:#2c323a;--grid:#2a3038;--inside:#13161a;
--c0:#6ea8ff;--c1:#ffa657;--c2:#56c596;--c3:#d58be3;--c4:#ff7b72;--c5:#8b98a5;--good:#56c596;--bad:#ff8a80;
"""

_SERIES = "".join(f".f{i}{{fill:var(--c{i})}}.o{i},.l{i}{{fill:none;stroke-width:2;stroke:var(--c{i})}}" for i in range(SERIES))

STYLE = f"""
svg text{{fill:var(--ink);font-size:12px}}
text.small{{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}}
text.label{{font-weight:600}}
text.over{{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-opacity:.7;stroke-linejoin:round}}
text.inside{{fill:var(--inside);font-size:11px}}
{_SERIES}.faint{{opacity:.55}}
.grid{{stroke:var(--grid)}}
.mark{{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 2}}
.join{{stroke:var(--soft);stroke-width:1.5}}
.reference{{stroke:var(--soft);stroke-dasharray:5 4}}
.front{{fill:none;stroke:var(--soft);stroke-width:1.5}}
"""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten (Heckbert,
    *Graphics Gems*, 1990)."""
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [round(factor * 10.0**power, 12) for power in powers for factor in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low)
    return steps[first : next(index for index, step in enumerate(steps) if step >= high) + 1]


def figure(value: float) -> str:
    """A number as a reader wants it: three digits that count, no tail of zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A rectangle; ``kind`` is its class in the style sheet, ``title`` what it tells when it is
    pointed at."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"{_end("rect", title)}'


def label(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    """A line of text; ``anchor`` says whether ``x`` is its start, its middle or its end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{in_html(text)}</text>'


class Scale:
    """A linear or logarithmic map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        self._shape = math.log if logarithmic else float

    def __call__(self, value: float) -> float:
        low, high = self._shape(self.low), self._shape(self.high)
        return self.start + (self._shape(value) - low) / ((high - low) or 1) * (self.end - self.start)


def grid_x(marks: Sequence[float], x: Scale, top: float, bottom: float, unit: str, height: float) -> str:
    drawn = [line(x(mark), top, x(mark), bottom, "grid") + label(x(mark), bottom + 16, figure(mark), "small", "middle") for mark in marks]
    return "".join(drawn) + label((x.start + x.end) / 2, height - 8, unit, "small", "middle")


def grid_y(marks: Sequence[float], y: Scale, unit: str) -> str:
    drawn = [
        line(LEFT, y(mark), WIDTH - RIGHT, y(mark), "grid") + label(LEFT - 8, y(mark) + 4, figure(mark), "small", "end") for mark in marks
    ]
    return "".join(drawn) + label(LEFT - 8, 9, unit, "small", "end")


def line(x1: float, y1: float, x2: float, y2: float, kind: str, title: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{_end("line", title)}'


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}"{_end("circle", title)}'


def _end(tag: str, title: str) -> str:
    return f"><title>{in_html(title)}</title></{tag}>" if title else "/>"


def fill(index: int) -> str:
    return f"f{index % SERIES}" + (" faint" if index >= SERIES else "")


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def svg(height: float, parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{in_html(title)}">{"".join(parts)}</svg>'
