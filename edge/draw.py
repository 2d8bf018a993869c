"""Draws labels and regions into an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge.prediction import Prediction

RANKS = (
    (255, 196, 61),
    (77, 208, 225),
    (255, 112, 112),
    (156, 220, 110),
    (196, 150, 255),
    (255, 160, 80),
    (120, 170, 255),
    (240, 130, 200),
)
INK, PAPER, PALE, TRACK = (18, 20, 24), (28, 31, 36), (222, 226, 232), (62, 67, 75)
MOST_LABELS = 24
LEAST_SIDE = 720  # smaller photographs are enlarged, so that there is room for text


Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


def draw(photo: NDArray[np.uint8], prediction: Prediction, *, labels: bool = True) -> Image.Image:
    """The image with its regions, and below it a strip of labels and scores.

    A region has a thick outline if its class is among the labels, a thin one if not, and a dashed
    one if the second pass did not process it. Each rank has a colour, shared with its label. Lines
    and text grow with the photo; small photos are enlarged.

    Args:
        photo: (H, W, 3) uint8 RGB.
        prediction: of ``Engine.predict``, boxes in pixels of this photo.
        labels: whether there is a strip of them.
    """
    height, width = photo.shape[:2]
    zoom = max(1.0, LEAST_SIDE / max(width, height))
    image = Image.fromarray(photo)
    if zoom > 1:
        image = image.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC)
    unit = min(max(image.size) / 100, min(image.size) / 30)  # of lengths; the second holds for ribbons
    found = [name for name, _ in prediction.labels]
    colours: dict[str, Colour] = {}
    for rank, region in enumerate(prediction.regions):
        colours.setdefault(region.label, RANKS[rank % len(RANKS)])
    boxes = [_within(np.asarray(region.box) * zoom, image.size) for region in prediction.regions]
    canvas = image.copy()
    # Weak regions first and the best last, so that what counts lies on top.
    order = sorted(range(len(boxes)), key=lambda index: (prediction.regions[index].label in found, -index))
    for index in order:
        region = prediction.regions[index]
        _outline(canvas, boxes[index], colours[region.label], unit, strong=region.label in found, dashed=not region.looked)
    taken: list[Box] = []
    for index in reversed(order):
        region = prediction.regions[index]
        text = f"{region.label}  {region.score:.2f}"
        _tag(canvas, text, boxes[index], colours[region.label], unit, taken, strong=region.label in found)
    if not labels:
        return canvas
    strip = _strip(image.width, prediction.labels, colours, unit)
    whole = Image.new("RGB", (image.width, image.height + strip.height), PAPER)
    whole.paste(canvas, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _within(box: NDArray[np.float64], size: tuple[int, int]) -> Box:
    """Whole pixels inside the image, x2/y2 exclusive, at least one pixel each way."""
    x1, y1 = (int(np.clip(round(value), 0, limit - 1)) for value, limit in zip(box[:2].tolist(), size, strict=True))
    x2, y2 = (int(np.clip(round(value), 1, limit)) for value, limit in zip(box[2:].tolist(), size, strict=True))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _outline(canvas: Image.Image, box: Box, colour: Colour, unit: float, *, strong: bool, dashed: bool) -> None:
    line = max(2, round(unit * (0.5 if strong else 0.2)))
    halo = max(1, round(line / 3))
    pen = ImageDraw.Draw(canvas, "RGBA")
    x1, y1, x2, y2 = box
    if strong and not dashed:
        pen.rectangle((x1 - halo, y1 - halo, x2 - 1 + halo, y2 - 1 + halo), outline=(*INK, 170), width=line + 2 * halo)
    ink = (*colour, 255 if strong else 190)
    if not dashed:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=ink, width=line)
        return
    dash = max(line, round(unit * 1.5))
    for x in range(x1, x2, 2 * dash):
        for y in (y1, max(y1, y2 - line)):
            pen.rectangle((x, y, min(x + dash, x2) - 1, min(y + line, y2) - 1), fill=ink)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, max(x1, x2 - line)):
            pen.rectangle((x, y, min(x + line, x2) - 1, min(y + dash, y2) - 1), fill=ink)


def _tag(canvas: Image.Image, text: str, box: Box, colour: Colour, unit: float, taken: list[Box], *, strong: bool) -> None:
    """A label at the box's corner; elsewhere at its edge where another label lies."""
    font, pad = _font(unit * (2.5 if strong else 1.9)), round(unit * 0.6)
    width, height = min(math.ceil(font.getlength(text)) + 2 * pad, canvas.width), min(sum(font.getmetrics()) + pad, canvas.height)
    x, y = next(_places(box, (width, height), canvas.size, taken))
    taken.append((x, y, x + width, y + height))
    plate = Image.new("RGB", (width, height), colour if strong else PAPER)
    ImageDraw.Draw(plate).text((pad, height / 2), text, fill=INK if strong else colour, font=font, anchor="lm")
    canvas.paste(plate, (x, y), _rounded(plate.size, round(unit * 0.5), 245 if strong else 200))


def _places(box: Box, size: tuple[int, int], limits: tuple[int, int], taken: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """Where a tag of that size may lie, best first: free places at the box's corners, then further
    down its side."""
    (x1, y1, x2, y2), (width, height) = box, size
    right, bottom = max(0, limits[0] - width), max(0, limits[1] - height)
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]
    steps = [(x1, y) for y in range(y1, limits[1], max(1, height // 2))] + [(x1, y) for y in range(y1, 0, -max(1, height // 2))]
    for x, y in corners + steps:
        x, y = min(max(x, 0), right), min(max(y, 0), bottom)
        if all(x >= other[2] or other[0] >= x + width or y >= other[3] or other[1] >= y + height for other in taken):
            yield x, y
    yield min(max(x1, 0), right), min(max(y1, 0), bottom)


def _strip(width: int, labels: Sequence[tuple[str, float]], colours: Mapping[str, Colour], unit: float) -> Image.Image:
    """The labels, best first, each with a bar of its score; as many columns as fit."""
    font, margin = _font(unit * 2.6), round(unit * 2.2)
    line, bar = sum(font.getmetrics()), max(3, round(unit * 0.55))
    rest = len(labels) - MOST_LABELS
    labels = [*labels[:MOST_LABELS], *([(f"and {rest} more", -1.0)] if rest > 0 else [])] or [("nothing above the threshold", -1.0)]
    widest = max(font.getlength(f"{name}  0.00") for name, _ in labels)
    columns = max(1, min(len(labels), int((width - margin) / max(widest + margin, unit * 22))))
    rows = -(-len(labels) // columns)
    cell = (width - margin) // columns
    strip = Image.new("RGB", (width, rows * (line + bar + margin) + margin), PAPER)
    pen = ImageDraw.Draw(strip)
    for index, (name, score) in enumerate(labels):
        row, column = divmod(index, columns)
        x, y = margin + column * cell, margin + row * (line + bar + margin)
        end, colour = x + cell - margin, colours.get(name, PALE)
        pen.text((x, y), _shortened(name, font, end - x - font.getlength("  0.00")), fill=PALE, font=font)
        if score < 0:  # a remark
            continue
        pen.text((end, y), f"{score:.2f}", fill=colour, font=font, anchor="ra")
        for length, fill in ((end - x, TRACK), (max(bar, round((end - x) * min(score, 1.0))), colour)):
            strip.paste(fill, (x, y + line + bar // 2), _rounded((max(1, length), bar), bar // 2, 255))
    return strip


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which every installation has."""
    font = ImageFont.load_default(max(10, round(size)))
    assert isinstance(font, ImageFont.FreeTypeFont)  # as any of a given size
    return font


def _rounded(size: tuple[int, int], radius: int, opacity: int) -> Image.Image:
    """A mask of a rounded rectangle with smooth edges."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, opacity)
    return mask.resize(size, Image.Resampling.BOX)
