from __future__ import annotations

import numpy as np
import pytest

from edge.data import calibration_subset, coverage, validation_split
from edge.data.base import Dataset, Sample
from edge.errors import EdgeError


class Table(Dataset):
    """Labels without images."""

    name, split, splits, report_split, digest = "table", "train", ("train",), "test", "0"

    def __init__(self, labels: np.ndarray | None, count: int = 0) -> None:
        self.labels = labels
        self.count = count if labels is None else len(labels)
        self.classes = () if labels is None else tuple(f"c{column}" for column in range(labels.shape[1]))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), np.zeros((1, 1, 3), np.uint8))


def skewed(count: int = 1000) -> Table:
    """Ten classes, from one image in two down to one in a hundred; one class in five images."""
    random = np.random.default_rng(0)
    share = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.02, 0.01])
    return Table(np.where(random.random((count, 10)) < share, 1, -1).astype(np.int8))


def names(dataset: Dataset) -> set[str]:
    return {dataset[index].name for index in range(len(dataset))}


def test_the_validation_part_is_disjoint_seeded_and_of_the_wanted_size() -> None:
    table = skewed()
    train, validation = validation_split(table, 0.1, seed=3)
    assert names(train) | names(validation) == {str(index) for index in range(1000)}
    assert not names(train) & names(validation)
    assert abs(len(validation) - 100) <= 5
    assert names(validation_split(table, 0.1, seed=3)[1]) == names(validation)
    assert names(validation_split(table, 0.1, seed=4)[1]) != names(validation)


def test_the_validation_part_has_every_class_in_proportion() -> None:
    for seed in range(5):
        table = skewed()
        _, validation = validation_split(table, 0.1, seed=seed)
        whole, part = np.array(list(coverage(table).values())), np.array(list(coverage(validation).values()))
        assert (np.abs(part - whole / 10) <= np.maximum(2, whole / 50)).all()
        assert part.min() >= 1


def test_tiny_and_unlabelled_data_still_give_two_parts() -> None:
    for table in (Table(np.array([[1], [1]], np.int8)), Table(np.array([[-1], [-1], [1]], np.int8)), Table(None, 7)):
        train, validation = validation_split(table)
        assert len(train) >= 1
        assert len(validation) >= 1
    with pytest.raises(EdgeError, match="1 images"):
        validation_split(Table(np.array([[1]], np.int8)))
    for fraction in (0, 1, -0.1):
        with pytest.raises(EdgeError, match="between 0 and 1"):
            validation_split(skewed(), fraction)


def test_a_calibration_subset_evens_out_the_classes() -> None:
    table = skewed()
    chosen = calibration_subset(table, 100, seed=1)
    balanced = np.array(list(coverage(table, chosen).values()))
    shuffled = np.array(list(coverage(table, np.random.default_rng(1).permutation(1000)[:100]).values()))
    assert len(set(chosen.tolist())) == 100
    assert balanced.min() >= min(8, coverage(table)["c9"])
    assert balanced.min() > shuffled.min()


def test_a_calibration_subset_is_seeded_and_its_prefixes_balanced() -> None:
    table = skewed()
    long, short = calibration_subset(table, 200, seed=1), calibration_subset(table, 50, seed=1)
    assert (long[:50] == short).all()
    assert (calibration_subset(table, 50, seed=2) != short).any()


def test_a_calibration_subset_takes_what_there_is() -> None:
    labels = np.full((6, 2), -1, np.int8)
    labels[2, 0] = 1
    table = Table(labels)
    assert calibration_subset(table, 3)[0] == 2
    assert sorted(calibration_subset(table, 100).tolist()) == list(range(6))
    assert coverage(table) == {"c0": 1, "c1": 0}
    assert len(set(calibration_subset(Table(None, 9), 4).tolist())) == 4
    assert coverage(Table(None, 9)) == {}
    with pytest.raises(EdgeError, match="`calib_images`"):
        calibration_subset(table, 0)


def test_difficult_labels_do_not_count_as_shown() -> None:
    assert coverage(Table(np.array([[1, 0], [0, 0]], np.int8))) == {"c0": 1, "c1": 0}
