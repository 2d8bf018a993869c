"""The tiles that come along: there, labelled as the shipped weights are, and only to be judged
on."""

from __future__ import annotations

import numpy as np
import pytest

from edge.data import REPORT, open_dataset
from edge.errors import EdgeError


def test_the_tiles_are_there_with_their_labels() -> None:
    dataset = open_dataset("aerial", REPORT)
    assert (dataset.name, dataset.split, len(dataset), len(dataset.classes)) == ("aerial", "test", 210, 17)
    assert all(dataset[index].image.shape == (256, 256, 3) for index in (0, 100, 209))
    present = dict(zip(dataset.classes, (dataset.labels > 0).sum(axis=0).tolist(), strict=True))
    assert present["airplane"] == 10
    assert min(present.values()) >= 10


def test_they_are_those_of_the_whole_data_set(shared) -> None:
    root = shared / "datasets" / "ucmerced"
    ours, whole = open_dataset("aerial", "test"), open_dataset(f"csv:{root}", "test")
    assert ours.digest == whole.digest
    assert np.array_equal(ours.labels, whole.labels)


def test_nothing_is_trained_on_them() -> None:
    with pytest.raises(EdgeError, match=r"aerial has no split 'train'; it has test. .* labelled images of your own, such as csv:DIR"):
        open_dataset("aerial", "train")
    with pytest.raises(EdgeError, match="aerial takes no folder"):
        open_dataset("aerial:here", REPORT)
