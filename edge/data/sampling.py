"""Which images: a validation part that keeps the class frequencies, and a calibration subset that
evens them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.data.base import Dataset
from edge.data.mosaic import Mosaic
from edge.errors import EdgeError


def validation_split(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Cut a validation part from a training split: (train part, validation part), disjoint, each in
    the data set's order.

    Iterative stratification (Sechidis et al., *On the Stratification of Multi-Label Data*, 2011):
    the images of the rarest class are dealt out first, each to the part that still wants that class
    most. Plain shuffling when unlabelled.

    Raises:
        EdgeError: a fraction outside (0, 1), or too few images to have two parts.
    """
    if isinstance(dataset, Mosaic):  # an image in frames of both parts would be known to the one from the other
        kept, held_out_images = validation_split(dataset.base, fraction, seed)
        return dataset.of(kept), dataset.of(held_out_images)
    if not 0 < fraction < 1:
        raise EdgeError("data", f"`fraction` is {fraction:g}", "Set `fraction` to a value between 0 and 1")
    count = len(dataset)
    wanted = max(1, round(count * fraction))
    if wanted >= count:
        raise EdgeError("data", f"{count} images are too few to hold some out for validation", "Add images")
    order = np.random.default_rng(seed).permutation(count)
    held_out = _stratified(dataset.labels > 0, order, wanted) if dataset.labels is not None else np.isin(np.arange(count), order[:wanted])
    return dataset.subset(np.flatnonzero(~held_out)), dataset.subset(np.flatnonzero(held_out))


def _stratified(present: NDArray[np.bool_], order: NDArray[np.int64], wanted: int) -> NDArray[np.bool_]:
    """(N,) bool, about ``wanted`` of them True, positives of every class shared in proportion."""
    count = len(present)
    shares = np.array([count - wanted, wanted], np.float64)  # images each part still wants: training, validation
    wants = np.outer(shares / count, present.sum(axis=0))  # (2, C) positives each part still wants
    left = present.sum(axis=0).astype(np.int64)
    open_ = np.ones(count, bool)
    held_out = np.zeros(count, bool)

    def deal(index: int, part: int) -> None:
        held_out[index] = part == 1
        open_[index] = False
        shares[part] -= 1
        wants[part] -= present[index]
        np.subtract(left, present[index], out=left)

    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, count + 1)))
        for index in order[(open_ & present[:, rarest])[order]]:
            hunger = wants[:, rarest] - wants[::-1, rarest]
            part = int(hunger[1] > 1e-9) if abs(hunger[1]) > 1e-9 else int(shares[1] > shares[0])
            deal(index, part)
    for index in order[open_[order]]:
        deal(index, int(shares[1] > shares[0]))
    if not held_out.any():
        held_out[order[0]] = True
    return held_out


def calibration_subset(dataset: Dataset, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of ``count`` images (all, where there are fewer) in which every class is seen about
    equally often.

    Greedy: the next image is one that shows the class seen least so far, in a seeded random order;
    when no class can get more, any image. The order is that of the choice, so a prefix is balanced
    too. Random when unlabelled.

    Raises:
        EdgeError: ``count`` is not positive.
    """
    if count < 1:
        raise EdgeError("data", f"`calib_images` is {count}", "Set `calib_images` to 1 or more")
    order = np.random.default_rng(seed).permutation(len(dataset))
    if dataset.labels is None:
        return order[:count]
    present = dataset.labels > 0
    queues = [iter(order[present[order, column]]) for column in range(present.shape[1])]
    seen = np.zeros(len(queues), np.float64)  # infinite once a class has no more images
    taken = np.zeros(len(dataset), bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(dataset)) and np.isfinite(seen).any():
        least = int(np.argmin(seen))
        index = next((int(candidate) for candidate in queues[least] if not taken[candidate]), None)
        if index is None:
            seen[least] = np.inf
            continue
        taken[index] = True
        chosen.append(index)
        seen += present[index]
    rest = order[~taken[order]]
    return np.concatenate([np.asarray(chosen, np.int64), rest[: min(count, len(dataset)) - len(chosen)]])


def coverage(dataset: Dataset, indices: Sequence[int] | NDArray[np.integer] | None = None) -> dict[str, int]:
    """How many of the images at ``indices`` (default all) show each class; empty when
    unlabelled."""
    if dataset.labels is None:
        return {}
    labels = dataset.labels if indices is None else dataset.labels[np.asarray(indices, np.intp)]
    return dict(zip(dataset.classes, (labels > 0).sum(axis=0).tolist(), strict=True))
