from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge.data import batches
from edge.data.base import Dataset, Sample
from edge.errors import EdgeError
from edge.image import preprocess
from edge.spec import ImageSpec

SPEC = ImageSpec(32)


class Slow(Dataset):
    """Images that take longer the earlier they come, and count how many are being held."""

    name, split, splits, report_split, classes, labels, digest = "slow", "train", ("train",), "train", (), None, ""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken = count, broken
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        time.sleep(0.002 * (3 - index % 4))
        if index == self.broken:
            raise EdgeError("image", f"Cannot read image {index}", "Replace it")
        return Sample(str(index), np.full((40, 50, 3), index, np.uint8))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_keep_the_order_and_hold_the_preprocessed_images(workers: int) -> None:
    dataset = Slow(11)
    found = list(batches(dataset, SPEC, 4, workers=workers))
    assert [len(images) for _, images in found] == [4, 4, 3]
    assert [name for names, _ in found for name in names] == [str(index) for index in range(11)]
    images = np.concatenate([images for _, images in found])
    assert images.dtype == np.float32
    for index in range(11):
        assert (images[index] == preprocess(np.full((40, 50, 3), index, np.uint8), SPEC)).all()
    assert threading.get_ident() not in dataset.threads


def test_only_a_few_batches_are_ever_in_flight() -> None:
    dataset = Slow(100)
    reader = batches(dataset, SPEC, 4)
    next(reader)
    time.sleep(0.2)
    assert len(dataset.asked) <= 12
    reader.close()
    asked = len(dataset.asked)
    time.sleep(0.1)
    assert len(dataset.asked) == asked


def test_a_broken_image_is_told_where_it_comes() -> None:
    reader = batches(Slow(12, broken=5), SPEC, 4)
    assert len(next(reader)[0]) == 4
    with pytest.raises(EdgeError, match="image 5"):
        next(reader)


def test_batches_of_nothing_and_of_no_size() -> None:
    assert list(batches(Slow(0), SPEC, 4)) == []
    with pytest.raises(ValueError, match="positive"):
        next(batches(Slow(1), SPEC, 0))


def test_the_shared_csv_folder_comes_in_batches(shared: Path) -> None:
    from edge.data import open_dataset

    dataset = open_dataset(f"csv:{shared / 'datasets' / 'ucmerced'}", "test")
    assert (len(dataset), len(dataset.classes)) == (210, 17)
    names, images = next(batches(dataset.subset(range(6)), SPEC, 4))
    assert len(names) == 4
    assert images.std() > 0.1
