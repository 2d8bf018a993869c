"""Approximate pixels in C++: those of Python, where that was asked for and nowhere else."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge import Engine
from edge.image import decode_resized, normalise


@pytest.fixture
def native(open_native, bundle: Path):
    return open_native(bundle)


@pytest.fixture
def approximate(open_native, bundle: Path):
    made = open_native(bundle)
    made.require(made.api.edge_engine_approximate_pixels(made.handle, 1))
    return made


def test_the_reducing_resize_is_pillows_bit_for_bit(approximate, native, bundle: Path) -> None:
    random, differ = np.random.default_rng(0), 0
    sizes = [(64, 64), (127, 128), (128, 129), (256, 256), (641, 479), (1080, 1920), (700, 70), (70, 700), (259, 1000)]
    with Engine.load(bundle) as engine:
        for height, width in [*sizes, *random.integers(2, 900, (20, 2)).tolist()]:
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            expected = normalise(decode_resized(pixels, 64, approximate=True)[0], engine.bundle.image)
            found = approximate.preprocess(pixels)
            np.testing.assert_array_equal(found, expected, err_msg=f"{width}x{height}")
            differ += not (native.preprocess(pixels) == found).all()
    assert differ > 10


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_reduced_and_its_boxes_are_not(approximate, native, bundle: Path, tmp_path: Path, orientation: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(coarse).resize((1501, 1101)).save(tmp_path / "a.jpg", quality=90, exif=exif)
    with Engine.load(bundle) as engine:
        (expected,) = engine.predict(tmp_path / "a.jpg", approximate_pixels=True)
        (exact,) = engine.predict(tmp_path / "a.jpg")
    found, whole = approximate.predict(tmp_path / "a.jpg"), native.predict(tmp_path / "a.jpg")
    # Two JPEG decoders may round differently; what the flag changes is more.
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-3)
    assert np.abs(found["scores"] - whole["scores"]).max() > 10 * np.abs(whole["scores"] - exact.scores).max()
    np.testing.assert_allclose(found["scores"], whole["scores"], atol=0.05)
    width, height = (1501, 1101) if orientation == 1 else (1101, 1501)
    for box, _, _ in found["regions"]:
        np.testing.assert_allclose(np.array(box) / [width, height, width, height] * 64 % 1, 0, atol=1e-3)  # whole input pixels


def test_it_can_be_turned_off_again(approximate, native) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8)
    approximate.require(approximate.api.edge_engine_approximate_pixels(approximate.handle, 0))
    np.testing.assert_array_equal(approximate.preprocess(pixels), native.preprocess(pixels))
    assert approximate.api.edge_engine_approximate_pixels(ctypes.c_void_p(), 1) == 1
