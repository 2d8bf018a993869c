"""Charts below one another as a file: an SVG with its own style sheet, or a PNG drawn from it with
Pillow alone."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont

from edge.charts.marks import DARK, LIGHT, STYLE, WIDTH, label

HEAD = 24  # pixels above each chart, for its title
COLOURS: Mapping[str, str] = dict(re.findall(r"--(\w+):(#\w+)", LIGHT))
# What of the style sheet a PNG keeps: which variable colours a class.
INK = {"grid": "grid", "small": "soft", "join": "soft", "reference": "soft", "front": "soft"}
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def sheet(charts: Mapping[str, str], *, title: str, foot: str = "") -> str:
    """One SVG of several.

    Args:
        charts: heading → drawing, as ``edge.charts`` makes them.
        title: for who cannot see it; ``foot`` stands below.
    """
    parts, top = [], 0.0
    for heading, drawing in charts.items():
        height = float(drawing.partition(f'viewBox="0 0 {WIDTH} ')[2].partition('"')[0])
        parts.append(label(8, top + HEAD - 8, heading, "label"))
        parts.append(drawing.replace("<svg ", f'<svg y="{top + HEAD:.0f}" width="{WIDTH}" height="{height:.0f}" ', 1))
        top += HEAD + height
    if foot:
        parts.append(label(8, top + 14, foot, "small"))
        top += HEAD
    style = f"svg{{{LIGHT}}}@media (prefers-color-scheme:dark){{svg{{{DARK}}}}}text{{font-family:system-ui,sans-serif}}{STYLE}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{title}"><style>{style}</style>{"".join(parts)}</svg>\n'
    )


def png(drawing: str) -> bytes:
    """A sheet as a PNG, light."""
    root = ElementTree.fromstring(drawing)
    image = Image.new("RGB", (WIDTH, int(root.attrib["viewBox"].split()[3])), "white")
    _paint(ImageDraw.Draw(image), root, 0.0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _paint(pen: ImageDraw.ImageDraw, drawing: ElementTree.Element, top: float) -> None:
    for mark in drawing:
        kind, colour = mark.tag.rpartition("}")[2], _colour(mark.get("class", ""))

        def at(*names: str, mark: ElementTree.Element = mark) -> tuple[float, ...]:
            return tuple(float(mark.attrib[name]) + (top if "y" in name else 0) for name in names)

        if kind == "svg":
            _paint(pen, mark, *at("y"))
        elif kind == "text":
            x, y = at("x", "y")
            pen.text((x, y), mark.text or "", colour, ImageFont.load_default(12), ANCHORS[mark.attrib["text-anchor"]])
        elif kind == "line":
            pen.line(at("x1", "y1", "x2", "y2"), colour)
        elif kind == "rect":
            x, y, width, height = at("x", "y", "width", "height")
            pen.rectangle((x, y, x + width, y + height), colour)
        elif kind == "circle":
            x, y, radius = at("cx", "cy", "r")
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        elif kind == "polyline":
            corners = [pair.split(",") for pair in mark.attrib["points"].split()]
            pen.line([(float(x), float(y) + top) for x, y in corners], colour, 2)


def _colour(kind: str) -> str:
    return COLOURS[f"c{kind[1]}" if re.match(r"[flo]\d", kind) else INK.get(kind.partition(" ")[0], "ink")]
