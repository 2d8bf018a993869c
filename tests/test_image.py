"""Photographs: what is decoded and how, what is refused, what the network is given."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.errors import EdgeError
from edge.image import MAX_PIXELS, MAX_SIDE, boxes_to_photo, decode, decode_resized, preprocess, resize
from edge.spec import ImageSpec


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.fixture
def scene() -> np.ndarray:
    """(40, 60, 3) uint8: every corner another colour, smooth in between."""
    down, across = np.mgrid[0:40, 0:60].astype(np.float64)
    return np.stack([across * 255 / 59, down * 255 / 39, 255 - across * 255 / 59], axis=2).round().astype(np.uint8)


# ---- decode --------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_pixels(scene: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(scene).save(path)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(scene), scene):
        found = decode(source)
        assert found.dtype == np.uint8
        assert (found == scene).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(scene: np.ndarray, orientation: int) -> None:
    stored = {
        1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1), 7: np.rot90(scene, 2).transpose(1, 0, 2), 8: np.rot90(scene, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
    assert (decode(data) == scene).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_exif_is_read_from_every_format_and_applied_once(scene: np.ndarray, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.fromarray(scene), kind, exif=exif.tobytes())).shape == (60, 40, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_refuse_the_photo(scene: np.ndarray) -> None:
    data = saved(Image.fromarray(scene), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40)
    assert decode(data).shape == scene.shape


def test_cmyk_jpeg_comes_out_in_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 40)).convert("CMYK")
    assert np.abs(decode(saved(red, "JPEG", quality=95))[8, 8].astype(int) - (220, 30, 40)).max() < 8


def test_grey_and_one_bit_have_three_equal_channels(scene: np.ndarray) -> None:
    for mode in ("L", "1"):
        found = decode(saved(Image.fromarray(scene).convert(mode)))
        assert found.shape == scene.shape
        assert (found == found[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    assert (decode(saved(Image.fromarray(values), kind))[:, :, 0] == np.rint(values / 257)).all()


def test_floating_point_grey_is_scaled_or_refused() -> None:
    assert decode(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, :, 1].tolist() == [0, 128, 255]
    for values in ([[0, 200]], [[-1, 1]], [[np.nan, 1]]):
        with pytest.raises(EdgeError, match="Scale it to 0 to 1"):
            decode(Image.fromarray(np.array(values, np.float32)))


def test_transparent_pixels_show_white() -> None:
    clear, half, full = (10, 20, 30, 0), (0, 0, 0, 128), (10, 20, 30, 255)
    image = Image.new("RGBA", (3, 1))
    for x, value in enumerate((clear, half, full)):
        image.putpixel((x, 0), value)
    assert decode(saved(image))[0].tolist() == [[255, 255, 255], [127, 127, 127], [10, 20, 30]]


def test_palettes_with_and_without_transparency(scene: np.ndarray) -> None:
    palette = Image.fromarray(scene).quantize(16)
    assert (decode(saved(palette)) == np.asarray(palette.convert("RGB"))).all()
    corner = palette.getpixel((0, 0))
    assert decode(saved(palette, transparency=corner))[0, 0].tolist() == [255, 255, 255]
    assert decode(saved(Image.fromarray(scene), transparency=tuple(scene[5, 5].tolist())))[5, 5].tolist() == [255, 255, 255]


def test_a_truncated_file_is_refused_by_name(scene: np.ndarray, tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        path = tmp_path / f"cut.{kind.lower()}"
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        path.write_bytes(saved(Image.fromarray(noise), kind)[:-4000])
        with pytest.raises(EdgeError, match=rf"cut\.{kind.lower()}.*Replace it"):
            decode(path)
        with pytest.raises(EdgeError, match=r"a PIL image"):
            decode(Image.open(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_an_opened_tiff_is_decoded_as_its_file(scene: np.ndarray, mode: str, orientation: int, tmp_path: Path) -> None:
    """These are what Pillow would map."""
    exif, path = Image.Exif(), tmp_path / "scene.tif"
    exif[0x0112] = orientation
    Image.fromarray(scene).convert("L" if mode == "I;16" else mode).convert(mode).save(path, exif=exif)
    image = Image.open(path)
    np.testing.assert_array_equal(decode(image), decode(path))
    assert image.filename == str(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(EdgeError, match=r"thing\.jpg"):
        decode(path)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent.jpg", ".", "pipe"):
        with pytest.raises(EdgeError, match="no file"):
            decode(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "null\0byte.jpg"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no file"):
        decode(tmp_path / name)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 20000, MAX_SIDE + 1])
def test_a_decompression_bomb_is_refused_in_our_words_before_it_is_unpacked(side: int) -> None:
    bomb = bytearray(saved(Image.new("1", (1, 1))))
    bomb[16:24] = side.to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(EdgeError, match=rf"too large, {side}×{side}.*at most {MAX_PIXELS} pixels"):
        decode(bytes(bomb))


def test_images_without_pixels_and_odd_arrays_are_refused() -> None:
    with pytest.raises(EdgeError, match="0×5"):
        decode(Image.new("RGB", (0, 5)))
    for array in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ):
        with pytest.raises(EdgeError, match="uint8 RGB"):
            decode(array)


# ---- preprocess ----------------------------------------------------------------------------------


def test_preprocess_equals_the_official_evaluation(scene: np.ndarray) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    spec = ImageSpec(64)
    official = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]
    )(Image.fromarray(scene)).numpy()  # fmt: skip
    found = preprocess(scene, spec)
    assert found.shape == (3, 64, 64)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.abs(found - official).max() < 1e-6


def test_preprocess_antialiases_when_shrinking() -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[::2] = 255
    spec = ImageSpec(32, mean=(0, 0, 0), std=(1, 1, 1))
    assert np.abs(preprocess(stripes, spec) - 0.5).max() < 0.06


def test_preprocess_writes_into_a_batch(scene: np.ndarray) -> None:
    batch = np.zeros((2, 3, 32, 32), np.float32)
    assert preprocess(scene, ImageSpec(32), out=batch[1]).base is batch
    assert (batch[1] == preprocess(scene, ImageSpec(32))).all()
    assert not batch[0].any()


def test_boxes_scale_each_axis_by_itself() -> None:
    boxes = np.array([[[0, 0, 256, 256], [64, 128, 128, 192]]], np.float32)
    found = boxes_to_photo(boxes, 256, 512, 1024)
    assert found.dtype == np.float32
    assert found.tolist() == [[[0, 0, 512, 1024], [128, 512, 256, 768]]]


def test_the_shared_photographs_decode(shared: Path) -> None:
    paths = sorted((shared / "photos").glob("*.jpg"))[:4]
    assert paths
    for path in paths:
        assert decode(path).shape[2] == 3


PEAK = """
import resource, sys
from PIL import Image
from edge.image import decode
Image.init()
decode(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = decode(sys.argv[1]).shape
print(shape[0] * shape[1], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("RGB", "JPEG"), ("CMYK", "JPEG")]
)
def test_decoding_takes_at_most_three_times_the_decoded_photograph(mode: str, kind: str, tmp_path: Path) -> None:
    for name, side in (("large", 4000), ("small", 16)):
        picture = Image.new(mode, (side, side), 200)
        exif = {} if kind == "GIF" else {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}
        picture.save(tmp_path / name, kind, **exif)
    words = [sys.executable, "-W", "error", "-c", PEAK, str(tmp_path / "large"), str(tmp_path / "small")]
    told = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    pixels, taken = map(int, told.stdout.split())
    assert pixels == 4000 * 4000
    assert taken <= 3 * 3 * pixels
    assert not told.stderr


def test_open_files_and_views_of_bytes_are_read(scene: np.ndarray) -> None:
    data = saved(Image.fromarray(scene))
    for source in (io.BytesIO(data), bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(decode(source), scene)


@pytest.mark.parametrize("source", [None, 3, [], io.StringIO("text"), object()])
def test_what_can_be_no_photograph_is_refused(source: object) -> None:
    with pytest.raises(EdgeError, match=r"\[image\]"):
        decode(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_of_several_strips_is_turned_as_one(scene: np.ndarray, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene), exif=exif)
    whole = decode(data)
    monkeypatch.setattr("edge.image.STRIP", 7 * scene.shape[1])
    np.testing.assert_array_equal(decode(data), whole)


# ---- decode_resized ----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_it_is_the_resize_of_what_decode_gives(scene: np.ndarray, mode: str, orientation: int, tmp_path: Path) -> None:
    exif, kind = Image.Exif(), "JPEG" if mode == "CMYK" else "PNG"
    exif[0x0112] = orientation
    path = tmp_path / "scene"
    path.write_bytes(saved(Image.fromarray(scene).convert(mode), kind, exif=exif.tobytes()))
    for source in (path, path.read_bytes(), Image.open(path), decode(path)):
        pixels, size = decode_resized(source, 16)
        assert (pixels == resize(decode(path), 16)).all()
        assert size == ((40, 60) if orientation == 6 else (60, 40))


def test_approximate_pixels_are_those_of_pillows_draft_and_reducing_gap() -> None:
    """Decoded at half the scale at 4 times the side of the result, at a quarter from 8 times on."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    for scale, drawn in ((1, (199, 150)), (2, (257, 256)), (4, (700, 520))):
        data = saved(coarse.resize(drawn), "JPEG", quality=90)
        image = Image.open(io.BytesIO(data))
        image.draft(None, (128, 128))
        assert image.size == tuple(-(-side // scale) for side in drawn)
        expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0))
        found, size = decode_resized(data, 64, approximate=True)
        assert (found == expected).all()
        assert size == drawn
        exact = decode_resized(data, 64)[0].astype(int)
        assert np.abs(found - exact).mean() < 8
        assert (found == exact).all() == (scale == 1)


def test_an_image_that_the_caller_opened_keeps_its_size() -> None:
    image = Image.open(io.BytesIO(saved(Image.new("RGB", (1000, 800), "red"), "JPEG")))
    assert decode_resized(image, 64, approximate=True)[1] == (1000, 800)
    assert image.size == (1000, 800)


def test_what_is_too_large_is_refused_whatever_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.image.MAX_PIXELS", 500_000)
    with pytest.raises(EdgeError, match="the image is too large, 1000×800"):
        decode_resized(saved(Image.new("RGB", (1000, 800)), "JPEG"), 64, approximate=True)
