"""Photographs are upright by their Exif, else by their XMP, in both languages alike."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from edge import image

PIXELS = np.zeros((32, 64, 3), np.uint8)
PIXELS[:16, :32], PIXELS[16:, :32], PIXELS[:16, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
UPRIGHT = {1: PIXELS, 3: PIXELS[::-1, ::-1], 6: np.rot90(PIXELS, -1), 8: np.rot90(PIXELS)}
ATTRIBUTE = '<rdf:Description tiff:Orientation="{}"/>'
ELEMENT = "<tiff:Orientation>{}</tiff:Orientation>"
XMP_OF_JPEG = 13  # the release of Pillow that these rules are of
PLACES = ("marker", "before", "behind", "compressed")  # of a JPEG; in a PNG before or behind the pixels

# Exif (None: none; 0: without an orientation), XMP, and what is right.
CASES = {
    "neither": (None, "", 1),
    "Exif": (6, "", 6),
    "XMP, an attribute": (None, ATTRIBUTE.format(6), 6),
    "XMP, an element": (None, ELEMENT.format(8), 8),
    "both": (3, ATTRIBUTE.format(6), 3),
    "Exif without an orientation, and XMP": (0, ELEMENT.format(6), 6),
    "upright Exif, and XMP": (1, ELEMENT.format(6), 1),
    "damaged Exif, and XMP": (-1, ELEMENT.format(6), 1),
    "XMP out of range": (None, ATTRIBUTE.format(9), 1),
    "XMP in other quotes": (None, "<x tiff:Orientation='6'/>", 1),
    "the second of XMP": (None, ATTRIBUTE.format("up") + ELEMENT.format(6), 6),
}


def exif(orientation: int | None) -> bytes | None:
    """The TIFF data of an Exif record."""
    if orientation is None:
        return None
    if orientation < 0:
        return b"II" + bytes(20)
    made = Image.Exif()
    made[0x010F] = "a maker whose name lies outside its entry"
    if orientation:
        made[0x0112] = orientation
    return made.tobytes()[6:]


def jpeg(tiff: bytes | None, xmp: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "JPEG", quality=95, subsampling=0)
    whole, parts = data.getvalue(), []
    if tiff is not None:
        parts.append(b"Exif\0\0" + tiff)
    if xmp:
        parts.append(b"http://ns.adobe.com/xap/1.0/\0" + xmp.encode())
    return whole[:2] + b"".join(b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part for part in parts) + whole[2:]


def png(tiff: bytes | None, xmp: str, place: str) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "PNG")
    whole, chunks = data.getvalue(), b""
    if tiff is not None and place == "compressed":  # as ImageMagick writes it
        profile = f"\nexif\n{len(tiff) + 6:8}\n{(b'Exif' + bytes(2) + tiff).hex()}\n"
        chunks += chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile.encode()))
    elif tiff is not None:
        chunks += chunk(b"eXIf", tiff)
    if xmp:
        packed = (b"\1\0\0\0", zlib.compress(xmp.encode())) if place == "compressed" else (b"\0\0\0\0", xmp.encode())
        chunks += chunk(b"iTXt", b"XML:com.adobe.xmp\0" + b"".join(packed))
    at = len(whole) - 12 if place == "behind" else 33
    return whole[:at] + chunks + whole[at:]


@pytest.mark.parametrize("case", CASES)
def test_both_languages_turn_alike(decode, tmp_path: Path, case: str) -> None:
    orientation, xmp, right = CASES[case]
    files = []
    for place in PLACES:
        files.append(tmp_path / ("a.jpg" if place == "marker" else f"{place}.png"))
        files[-1].write_bytes(jpeg(exif(orientation), xmp) if place == "marker" else png(exif(orientation), xmp, place))
    for file, found in zip(files, decode(files), strict=True):
        # A JPEG of flat squares: two decoders may differ by a level.
        np.testing.assert_allclose(found.astype(int), UPRIGHT[right], atol=2 if file.suffix == ".jpg" else 0, err_msg=file.name)
        if int(PIL.__version__.split(".")[0]) >= XMP_OF_JPEG:
            np.testing.assert_allclose(image.decode(file).astype(int), found, atol=2 if file.suffix == ".jpg" else 0, err_msg=file.name)
