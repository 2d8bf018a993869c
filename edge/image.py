"""Photographs: decode anything sensible to RGB, prepare it for the network, draw what the network found."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge.errors import EdgeError, one_of
from edge.spec import ImageSpec

# Formats that Pillow reads by itself: no EPS, which starts another program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 1 << 27  # 400 MB of RGB; a photograph of 134 megapixels
MAX_SIDE = 65535  # as JPEG's; a resize keeps whole rows or columns of this length
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    CMYK, grey, palette and other modes are converted; 16-bit grey is scaled to 8 bits; what is transparent shows white.

    Args:
        source: a path, the bytes of a file, a PIL image, or an (H, W, 3) uint8 RGB array, which is returned as it is.

    Raises:
        EdgeError: names the file and what is wrong: missing, not an image, truncated, empty, or more than ``MAX_PIXELS``.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise EdgeError("image", f"The array is {source.dtype} {source.shape}; a photograph is uint8 RGB (H, W, 3)", "Convert it")
        return source
    if isinstance(source, Image.Image):
        name = "a PIL image"
    elif isinstance(source, bytes):
        name = f"{len(source)} bytes"
    else:
        name = os.fspath(source)
        try:
            missing = "" if Path(source).is_file() else "it does not exist, or is no regular file"
        except (OSError, ValueError) as error:  # a name too long, or with a null in it
            missing = str(getattr(error, "strerror", None) or error)
        if missing:
            raise EdgeError("image", f"There is no file {name[:500]}: {missing}", "Check the path")
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            return _decode(image, name)
    except EdgeError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        reason = "it is not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)[:120] or type(error).__name__
        raise EdgeError("image", f"Cannot read {name}: {reason}", f"Replace it by a whole file in {one_of(_formats())}") from error


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    width, height = image.size
    if not width or not height:
        raise EdgeError("image", f"{name}: the image has no pixels, {width}×{height}", "Replace it")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        limits = f"at most {MAX_PIXELS} pixels, and {MAX_SIDE} along a side"
        raise EdgeError("image", f"{name}: the image is too large, {width}×{height}", f"Make it smaller: {limits}")
    image.load()
    rgb = _rgb(image, name)
    turn = _TURNS.get(_orientation(image))
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(np.asarray(image, np.float64), image.mode, name)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scaled(values: NDArray[np.float64], mode: str, name: str) -> Image.Image:
    """Grey of more than 8 bits: integers are 0..65535, floats 0..1; Pillow itself would clip at 255."""
    full = 1.0 if mode == "F" else 65535.0
    if not (values >= 0).all() or not (values <= full).all():
        raise EdgeError("image", f"{name}: the grey values go from {values.min():g} to {values.max():g}", f"Scale it to 0 to {full:g}")
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse a good photograph
        return 1


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def preprocess(image: NDArray[np.uint8], spec: ImageSpec, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """What the network eats: (3, S, S) float32, contiguous.

    As the official evaluation: Pillow's antialiased bilinear resize to S×S on 8-bit RGB, whatever the aspect ratio,
    then ``(value / 255 - mean) / std`` per channel.

    Args:
        image: (H, W, 3) uint8 RGB.
        out: where to write, such as one row of a batch.
    """
    size = spec.size
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    if out is None:
        out = np.empty((3, size, size), np.float32)
    tables = _tables(spec.mean, spec.std)
    for channel in range(3):
        np.take(tables[channel], image[:, :, channel], out=out[channel], mode="clip")
    return out


@cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(3, 256) float32: the normalised value of every byte, per channel."""
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def boxes_to_photo(boxes: NDArray[np.floating[Any]], size: int, photo_width: int, photo_height: int) -> NDArray[np.floating[Any]]:
    """Boxes from model-input pixels to photo pixels; the two axes were squeezed separately.

    Args:
        boxes: (…, 4) x1 y1 x2 y2, x2/y2 exclusive, in 0..size.
        size: S, the side of the model's input.

    Returns:
        (…, 4) of the same type and order, in 0..photo_width and 0..photo_height.
    """
    scale = np.array([photo_width, photo_height, photo_width, photo_height], boxes.dtype) / boxes.dtype.type(size)
    return boxes * scale


# ---- drawing -------------------------------------------------------------------------------------------------------

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


class Region(Protocol):
    """A box in photo pixels (x1 y1 x2 y2, x2/y2 exclusive), the class it was found for, and that class's fused score."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...


class Prediction(Protocol):
    """(name, score) of the classes found, best first, and the regions in rank order."""

    @property
    def labels(self) -> Sequence[tuple[str, float]]: ...
    @property
    def regions(self) -> Sequence[Region]: ...


def draw(photo: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    """The photo with its regions, and a strip below with the labels and scores: an RGB image to look at.

    A region is drawn strong where its class is among the labels, thin where the network looked but found nothing. Each rank
    has its colour, which its label has too. Lines and text grow with the photo; small photos are enlarged.

    Args:
        photo: (H, W, 3) uint8 RGB.
        prediction: ``labels`` and ``regions`` as ``Engine.predict`` gives them, boxes in pixels of this photo.
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
        _outline(canvas, boxes[index], colours[region.label], unit, strong=region.label in found)
    taken: list[Box] = []
    for index in reversed(order):
        region = prediction.regions[index]
        text = f"{region.label}  {region.score:.2f}"
        _tag(canvas, text, boxes[index], colours[region.label], unit, taken, strong=region.label in found)
    strip = _strip(image.width, prediction.labels, colours, unit)
    whole = Image.new("RGB", (image.width, image.height + strip.height), PAPER)
    whole.paste(canvas, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


def _within(box: NDArray[np.float64], size: tuple[int, int]) -> Box:
    """Whole pixels inside the image, x2/y2 exclusive, at least one pixel each way."""
    x1, y1 = (int(np.clip(round(value), 0, limit - 1)) for value, limit in zip(box[:2].tolist(), size, strict=True))
    x2, y2 = (int(np.clip(round(value), 1, limit)) for value, limit in zip(box[2:].tolist(), size, strict=True))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _outline(canvas: Image.Image, box: Box, colour: Colour, unit: float, *, strong: bool) -> None:
    line = max(2, round(unit * (0.5 if strong else 0.2)))
    halo = max(1, round(line / 3))
    pen = ImageDraw.Draw(canvas, "RGBA")
    x1, y1, x2, y2 = box
    if strong:
        pen.rectangle((x1 - halo, y1 - halo, x2 - 1 + halo, y2 - 1 + halo), outline=(*INK, 170), width=line + 2 * halo)
    pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=(*colour, 255 if strong else 190), width=line)


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
    """Where a tag of that size may lie, best first: free places at the box's corners, then further down its side."""
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


def _shortened(text: str, font: Any, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


@cache
def _font(size: float) -> Any:
    """Pillow's own font, which every installation has."""
    return ImageFont.load_default(max(10, round(size)))


def _rounded(size: tuple[int, int], radius: int, opacity: int) -> Image.Image:
    """A mask of a rounded rectangle with smooth edges."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, opacity)
    return mask.resize(size, Image.Resampling.BOX)
