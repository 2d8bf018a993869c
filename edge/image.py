"""Images: decode common formats to RGB and preprocess them for the network."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from edge.errors import EdgeError, one_of
from edge.spec import ImageSpec

# Formats that Pillow reads by itself: no EPS, which starts another program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 1 << 27  # a photograph of 134 megapixels, 400 MB of RGB; decoding takes at most three times that
STRIP = 1 << 20  # pixels that are converted at once
MAX_SIDE = 65535  # as JPEG's; a resize keeps whole rows or columns of this length
GAP = 2.0  # of what is approximated: so many pixels for one of the result are left to the filter
_ORIENTATION = 0x0112
_DATA = (bytes, bytearray, memoryview)
Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | io.IOBase | Image.Image | NDArray[np.uint8]"
Float = TypeVar("Float", np.float32, np.float64)
Result = TypeVar("Result")
# The pixels of an upright image as a view of the rows of the stored one, by the orientation of that
# one.
_STORED: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}
_TRANSPOSED = (5, 6, 7, 8)


def is_one_image(source: object) -> bool:
    """Whether a source is a single image for ``decode``, rather than an iterable of images."""
    if isinstance(source, np.ndarray):
        return source.ndim < 4
    return isinstance(source, (str, os.PathLike, *_DATA, io.IOBase, Image.Image)) or not isinstance(source, Iterable)


def decode(source: Source) -> Pixels:
    """An image as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    CMYK, grey, palette and other modes are converted; 16-bit grey is scaled to 8 bits; transparent
    areas become white. Memory: what Pillow decodes to (at most 4 bytes per pixel), the result (3),
    and little else.

    Args:
        source: a path, the bytes of a file, an open binary file, a PIL image, or an (H, W, 3) uint8
            RGB array, which is returned unchanged.

    Raises:
        EdgeError: names the file and what is wrong: missing, not an image, truncated, empty, or
            more than ``MAX_PIXELS``.
    """
    return _checked(source) if isinstance(source, np.ndarray) else _read(source, _decode)


def decode_resized(source: Source, size: int, *, approximate: bool = False) -> tuple[Pixels, tuple[int, int]]:
    """``resize(decode(source), size)`` without the intermediate array, and the (width, height) of
    the upright photo.

    Args:
        source: as for ``decode``.
        size: S, the side of the result.
        approximate: faster, with slightly different pixels: JPEG is decoded at 1/2, 1/4 or 1/8 of
            its scale as long as ``GAP`` times the result is left, and what is larger than that is
            averaged in blocks before the filter.

    Returns:
        (S, S, 3) uint8 RGB, and (width, height).

    Raises:
        EdgeError: as ``decode``.
    """
    if isinstance(source, np.ndarray):
        height, width = _checked(source).shape[:2]
        return resize(source, size, approximate=approximate), (width, height)

    def take(image: Image.Image, name: str) -> tuple[Pixels, tuple[int, int]]:
        _check_size(image, name)
        width, height = image.size
        if approximate and source is not image:  # one that the caller opened is not changed
            image.draft(None, (int(GAP * size),) * 2)
        image.load()
        orientation = _orientation(image)
        if image.mode == "RGB" and "transparency" not in image.info and orientation not in _STORED:
            return _resized(image, size, approximate), (width, height)
        pixels = resize(_decode(image, name), size, approximate=approximate)
        return pixels, (height, width) if orientation in _TRANSPOSED else (width, height)

    return _read(source, take)


def _checked(array: NDArray[Any]) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise EdgeError("image", f"The array is {array.dtype} {array.shape}; an image is uint8 RGB (H, W, 3)", "Convert it")
    return array


def _read(source: Source, take: Callable[[Image.Image, str], Result]) -> Result:
    """What ``take`` makes of the opened image and its name; errors of Pillow become ours."""
    if isinstance(source, Image.Image):
        with _refused("a PIL image"), _unmapped(source):
            return take(source, "a PIL image")
    if isinstance(source, io.IOBase):
        with _refused("an open file"):
            source = source.read()
        if not isinstance(source, bytes):
            raise EdgeError("image", "The file is open as text", "Open it in binary mode")
    if isinstance(source, _DATA):
        with _refused(f"{len(source)} bytes"):
            return take(_opened(io.BytesIO(source)), f"{len(source)} bytes")
    if not isinstance(source, str | os.PathLike):
        raise EdgeError("image", f"Got {type(source).__name__} instead of an image", "Pass a path, bytes, a PIL image or an array")
    name = str(os.fspath(source))
    try:
        missing = "" if stat.S_ISREG(os.stat(source).st_mode) else "it is no regular file"
    except FileNotFoundError:
        missing = "it does not exist"
    except (OSError, ValueError) as error:  # a name too long, or with a null in it
        missing = (error.strerror if isinstance(error, OSError) else "") or str(error)
    if missing:
        raise EdgeError("image", f"There is no file {name[:500]}: {missing}", "Check the path")
    with _refused(name), open(source, "rb") as file:
        return take(_opened(file), name)


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Turns whatever Pillow's plugins raise for a damaged file into an error that names it."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else str(error)[:120] or type(error).__name__
        raise EdgeError("image", f"Cannot read {name}: {reason}", f"Replace it with a complete file in {one_of(_formats())}") from error


@contextmanager
def _unmapped(image: Image.Image) -> Iterator[None]:
    """Keeps Pillow from mapping the file of an opened image, by hiding its name: a mapped TIFF is
    read in rows of its upright width, and one truncated meanwhile crashes the process."""
    if not isinstance(image, ImageFile.ImageFile):
        yield
        return
    name, image.filename = image.filename, ""
    try:
        yield
    finally:
        image.filename = name


def _opened(file: BinaryIO) -> Image.Image:
    """``Image.open`` without Pillow's limits: this module checks its own before anything is
    decompressed.

    The file object has no name, so Pillow does not map the file: see ``_unmapped``.
    """
    start = file.read(16)
    for kind in _formats():
        make, accept = Image.OPEN[kind]
        if accept is None or accept(start) is True:
            file.seek(0)
            try:
                return make(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # how a plugin says that it is none of its own
                continue
    raise UnidentifiedImageError


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if not width or not height:
        raise EdgeError("image", f"{name}: the image is empty, {width}×{height}", "Replace it")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        limits = f"at most {MAX_PIXELS} pixels, and {MAX_SIDE} along a side"
        raise EdgeError("image", f"{name}: the image is too large, {width}×{height}", f"Make it smaller: {limits}")


def _decode(image: Image.Image, name: str) -> Pixels:
    _check_size(image, name)
    width, height = image.size
    image.load()
    orientation = _orientation(image)
    upright = np.empty((width, height, 3) if orientation in _TRANSPOSED else (height, width, 3), np.uint8)
    stored = _STORED[orientation](upright) if orientation in _STORED else upright
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        stored[top : top + rows] = _rgb(strip, name)
    return upright


def _rgb(image: Image.Image, name: str) -> Pixels:
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(np.asarray(image, np.float64), image.mode, name)[:, :, None]
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _scaled(values: NDArray[np.float64], mode: str, name: str) -> Pixels:
    """Grey of more than 8 bits: integers are 0..65535, floats 0..1; Pillow itself would clip at
    255."""
    full = 1.0 if mode == "F" else 65535.0
    if not (values >= 0).all() or not (values <= full).all():
        raise EdgeError("image", f"{name}: its grey values range from {values.min():g} to {values.max():g}", f"Scale it to 0 to {full:g}")
    return np.rint(values * (255 / full)).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse a good photograph
        return 1


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def resize(image: Pixels, size: int, *, approximate: bool = False) -> Pixels:
    """(H, W, 3) to (size, size, 3) by Pillow's antialiased bilinear filter; ``approximate`` as for
    ``decode_resized``.
    """
    return image if image.shape[:2] == (size, size) else _resized(Image.fromarray(image), size, approximate)


def _resized(image: Image.Image, size: int, approximate: bool) -> Pixels:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=GAP if approximate else None))


def preprocess(image: NDArray[np.uint8], spec: ImageSpec, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The input of the network: (3, S, S) float32, contiguous, or for uint8 input the resized image
    (S, S, 3).

    As in the official evaluation: Pillow's antialiased bilinear resize to S×S on 8-bit RGB,
    whatever the aspect ratio, then ``(value / 255 - mean) / std`` per channel.

    Args:
        image: (H, W, 3) uint8 RGB.
        out: where to write, such as one row of a batch.
    """
    return normalise(resize(image, spec.size), spec, out=out)


def normalise(image: Pixels, spec: ImageSpec, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The second half of ``preprocess``. image: (S, S, 3) uint8 RGB."""
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
