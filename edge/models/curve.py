"""The picture of a training run, drawn with Pillow alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 720, 360, 40
LOSS, STREAMS = "#cc4444", ("#228833", "#999999", "#2277aa", "#aa7722")  # of the shipped stream, which is the last, and backwards


def draw_curve(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of loss (0 to its largest) and validation mAP (0 to 100 points) over the epochs of a log."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline="grey")
    across = (WIDTH - 2 * MARGIN) / max(1, len(rows) - 1)
    highest = max(row["loss"] for row in rows) or 1.0
    names = ["loss", *(name for name in rows[0] if name.startswith("map_"))]
    for place, name in enumerate(names):
        colour = STREAMS[(len(names) - 1 - place) % len(STREAMS)] if place else LOSS
        full = highest if name == "loss" else 100.0
        known = [(index, row[name]) for index, row in enumerate(rows) if row[name] != ""]
        points = [(MARGIN + index * across, HEIGHT - MARGIN - value / full * (HEIGHT - 2 * MARGIN)) for index, value in known]
        if len(points) > 1:
            pen.line(points, fill=colour, width=2)
        for x, y in points:
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        pen.text((MARGIN + place * (WIDTH - 2 * MARGIN) // len(names), 14), f"{name} {known[-1][1] if known else '-'}", fill=colour)
    pen.text((MARGIN, HEIGHT - 28), f"epochs 1 to {len(rows)}; mAP 0 to 100 points, loss 0 to {highest:.3f}", fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
