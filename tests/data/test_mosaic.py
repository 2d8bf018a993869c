"""Frames of several images: their labels together, never across splits or parts, the same every
time."""

from __future__ import annotations

import numpy as np
import pytest

from edge.data import REPORT, open_dataset, validation_split
from edge.data.mosaic import LEAST, Mosaic
from edge.errors import EdgeError


@pytest.fixture
def base(csv_tree):
    names = ["cat", "dog", "emu", "", "cat;emu"]
    return csv_tree(*(f"{split}{index}.png,{split},{names[index % 5]}" for split in ("train", "test") for index in range(20)))


def test_a_frame_shows_its_images_and_has_their_labels(base) -> None:
    train = open_dataset(f"csv:{base}", "train")
    mosaic = Mosaic(train, 2, length=30)
    assert (len(mosaic), mosaic.name, mosaic.classes) == (30, "mosaic2-things", ("cat", "dog", "emu"))
    for index in (0, 29):
        parts, image = mosaic.parts[index], mosaic[index].image
        assert len(set(parts.tolist())) == 4
        assert image.shape == (512, 512, 3)
        corners = [image[y, x, 0] for y in (0, 511) for x in (0, 511)]
        assert corners == [train[part].image[0, 0, 0] for part in parts.tolist()]  # the images are of one colour each
        for column in range(3):
            assert (mosaic.labels[index, column] == 1) == any(train.labels[part, column] == 1 for part in parts)
    counts = np.bincount(mosaic.parts.ravel(), minlength=20)
    assert counts.min() == counts.max() == 6


def test_mosaics_are_the_same_every_time_and_never_cross_splits(base) -> None:
    for spec, side in ((f"mosaic:csv:{base}", 512), (f"mosaic3:csv:{base}", 768)):
        test, again = open_dataset(spec, REPORT), open_dataset(spec, REPORT)
        assert (len(test), test.split, test[5].image.shape) == (LEAST, "test", (side, side, 3))
        assert np.array_equal(test[5].image, again[5].image)
        assert test.digest == again.digest != open_dataset(spec, "train").digest
        assert all(name.startswith("test") for name in test.base.files)
    assert Mosaic(test.base, 2, 10).digest != Mosaic(test.base, 2, 10, seed=1).digest


def test_no_image_is_in_frames_of_both_parts(base) -> None:
    kept, held_out = validation_split(open_dataset(f"mosaic:csv:{base}", "train"))
    images = [{part.base[index].name for index in np.unique(part.parts)} for part in (kept, held_out)]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == 20
    assert len(kept) + len(held_out) == LEAST


def test_what_has_no_labels_makes_no_mosaic(base) -> None:
    with pytest.raises(EdgeError, match="has no labels"):
        open_dataset(f"mosaic:images:{base / 'images'}", "train")
    with pytest.raises(EdgeError, match=r"lacks its data set\. Write mosaic:SPEC"):
        open_dataset("mosaic:", "train")
