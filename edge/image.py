"""Photographs: decode anything sensible to RGB, and prepare it for the network."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge.errors import EdgeError, one_of
from edge.spec import ImageSpec

# Formats that Pillow reads by itself: no EPS, which starts another program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 1 << 27  # 400 MB of RGB; a photograph of 134 megapixels
MAX_SIDE = 65535  # as JPEG's; a resize keeps whole rows or columns of this length
_ORIENTATION = 0x0112
Float = TypeVar("Float", np.float32, np.float64)
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
        except OSError as error:  # a name too long
            missing = error.strerror or str(error)
        except ValueError as error:  # a name with a null in it
            missing = str(error)
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
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else str(error)[:120] or type(error).__name__
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


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) to (size, size, 3), by Pillow's antialiased bilinear filter."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def preprocess(image: NDArray[np.uint8], spec: ImageSpec, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """What the network eats: (3, S, S) float32, contiguous; where it takes bytes, (S, S, 3) uint8, the resized image.

    As the official evaluation: Pillow's antialiased bilinear resize to S×S on 8-bit RGB, whatever the aspect ratio,
    then ``(value / 255 - mean) / std`` per channel.

    Args:
        image: (H, W, 3) uint8 RGB.
        out: where to write, such as one row of a batch.
    """
    image = resize(image, spec.size)
    if out is None:
        out = np.empty(spec.shape, spec.input)
    if spec.input == "uint8":
        out[...] = image
        return out
    tables = _tables(spec.mean, spec.std)
    for channel in range(3):
        np.take(tables[channel], image[:, :, channel], out=out[channel], mode="clip")
    return out


@cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(3, 256) float32: the normalised value of every byte, per channel."""
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def boxes_to_photo(boxes: NDArray[Float], size: int, photo_width: int, photo_height: int) -> NDArray[Float]:
    """Boxes from model-input pixels to photo pixels; the two axes were squeezed separately.

    Args:
        boxes: (…, 4) x1 y1 x2 y2, x2/y2 exclusive, in 0..size.
        size: S, the side of the model's input.

    Returns:
        (…, 4) of the same type and order, in 0..photo_width and 0..photo_height.
    """
    scale: NDArray[Float] = np.array([photo_width, photo_height, photo_width, photo_height], boxes.dtype) / boxes.dtype.type(size)
    return np.multiply(boxes, scale)
