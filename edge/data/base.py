"""What a data set is: names, classes, a label table, and images decoded when asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError
from edge.manifest import digest_json

REPORT = "report"  # asks for the split that is only reported: test, or val where no test labels are published


@dataclass(frozen=True)
class Sample:
    """One image: its name within the data set, and (H, W, 3) uint8 RGB."""

    name: str
    image: NDArray[np.uint8] = field(repr=False)


class Dataset:
    """One split of a data set: a fixed order of images, decoded one at a time; reading it twice
    gives the same.

    Attributes:
        name: short name, fit for a file name (``scenes``, ``voc2007``, the folder's name for
            ``csv:DIR``).
        split, splits: which split this is, and those there are.
        report_split: the split that is only reported, never decided on.
        classes: class names in column order, length C; empty when unlabelled.
        labels: (N, C) int8, 1 present, 0 present but difficult, -1 absent; None when unlabelled.
        digest: SHA-256 of what defines names, labels and images; worked out when first asked for.
    """

    name: str
    split: str
    splits: tuple[str, ...]
    report_split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int8] | None
    digest: str

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Decode image ``index`` of 0..N-1.

        Raises:
            EdgeError: the file is missing or damaged.
        """
        raise NotImplementedError

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Dataset:
        """The images at ``indices``, in that order."""
        chosen = tuple(int(index) for index in indices)
        if any(not 0 <= index < len(self) for index in chosen):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}")
        return Subset(self, chosen)

    def __repr__(self) -> str:
        return f"<{self.name} {self.split}: {len(self)} images, {len(self.classes)} classes>"


class View(Dataset):
    """A data set seen through another one: what it does not change is the base's."""

    def __init__(self, base: Dataset) -> None:
        self.base = base
        self.name, self.split, self.splits, self.report_split = base.name, base.split, base.splits, base.report_split

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Sample:
        return self.base[index]


class Subset(View):
    """Some images of a data set."""

    def __init__(self, base: Dataset, indices: tuple[int, ...]) -> None:
        super().__init__(base)
        self.classes, self.indices = base.classes, indices

    @cached_property
    def labels(self) -> NDArray[np.int8] | None:  # type: ignore[override]
        return None if self.base.labels is None else self.base.labels[np.asarray(self.indices, np.intp)]

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_json([self.base.digest, list(self.indices)])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.base[self.indices[index]]


class Relabelled(View):
    """A data set with its label columns in another order; classes it does not know are absent
    everywhere."""

    def __init__(self, base: Dataset, classes: tuple[str, ...]) -> None:
        super().__init__(base)
        self.classes = classes

    @cached_property
    def labels(self) -> NDArray[np.int8] | None:  # type: ignore[override]
        if self.base.labels is None:
            return None
        table = np.full((len(self.base), len(self.classes)), -1, np.int8)
        for column, name in enumerate(self.classes):
            if name in self.base.classes:
                table[:, column] = self.base.labels[:, self.base.classes.index(name)]
        return table

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_json([self.base.digest, list(self.classes)])


def match_labels(dataset: Dataset, labels: Sequence[str], owner: str = "the model") -> Dataset:
    """The data set with its columns in the order of ``labels``, those of a checkpoint or bundle,
    which rule.

    A class of ``labels`` the data set does not have is absent everywhere, and ``warnings.warn``
    says so. An unlabelled data set comes back as it is.

    Args:
        labels: class names in the model's output order.
        owner: whose labels they are, for messages.

    Raises:
        EdgeError: the data set has a class that ``labels`` lacks.
    """
    labels = tuple(labels)
    if dataset.labels is None or dataset.classes == labels:
        return dataset
    unknown = [name for name in dataset.classes if name not in labels]
    if unknown:
        raise EdgeError(
            "data",
            f"{dataset.name} has classes that {owner} does not have: {_some(unknown)}",
            f"Rename them in the labels of the data set ({owner} has {_some(labels, 24)}), or use another model",
        )
    absent = [name for name in labels if name not in dataset.classes]
    if absent:
        warnings.warn(f"{dataset.name} has no labels for {_some(absent)}; they count as absent in every image", stacklevel=2)
    return Relabelled(dataset, labels)


def check_split(dataset: str, split: str, splits: Sequence[str], fix: str = "Change `dataset`") -> None:
    """Refuse a split a data set does not have, naming those it has."""
    if split not in splits:
        present = " and ".join(filter(None, (", ".join(splits[:-1]), *splits[-1:]))) or "none"
        raise EdgeError("data", f"{dataset} has no split {split!r}; it has {present}", fix)


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} … ({len(names)} in all)"
