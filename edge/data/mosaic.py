"""``mosaic:SPEC`` and ``mosaic3:SPEC``: wide frames, put together from 2 × 2 or 3 × 3 images of
another data set.

What fills one of its images is small in a frame: there a second look at a region can say more than
the whole.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge.data.base import Dataset, Sample, View
from edge.errors import EdgeError
from edge.image import resize
from edge.manifest import digest_json

GRIDS = {"mosaic": 2, "mosaic3": 3}  # kind → images along each side
LEAST = 1000  # frames of a split, where its images are fewer
TILE = 256  # side in pixels that each image is resized to


class Mosaic(View):
    """Frames of grid × grid images of one split of ``base``, each image equally often; a frame has
    the labels of them all.

    Args:
        base: a labelled data set.
        grid: images along each side.
        length: frames; None for as many as ``base`` has images, at least ``LEAST``.
        seed: of which images come together.

    Raises:
        EdgeError: no labels to join.
    """

    def __init__(self, base: Dataset, grid: int, length: int | None = None, seed: int = 0) -> None:
        super().__init__(base)
        if base.labels is None:
            raise EdgeError("data", f"{base.name} has no labels", "Set `dataset` to a mosaic of labelled images")
        self.name, self.classes, self.grid, self.seed = f"mosaic{grid}-{base.name}", base.classes, grid, seed
        self.length = max(LEAST, len(base)) if length is None else length
        generator, needed = np.random.default_rng(seed), self.length * grid**2
        rounds = [generator.permutation(len(base)) for _ in range(-(-needed // len(base)))]
        self.parts = np.concatenate(rounds)[:needed].reshape(self.length, grid**2)  # which images, row by row

    @cached_property
    def labels(self) -> NDArray[np.int8]:  # type: ignore[override]
        assert self.base.labels is not None
        joined: NDArray[np.int8] = self.base.labels[self.parts].max(axis=1)
        return joined

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_json([self.base.digest, self.grid, self.length, self.seed, TILE])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        tiles = np.stack([resize(self.base[part].image, TILE) for part in self.parts[index].tolist()])
        rows = tiles.reshape(self.grid, self.grid, TILE, TILE, 3).transpose(0, 2, 1, 3, 4)
        return Sample(f"{index:06d}", np.ascontiguousarray(rows.reshape(self.grid * TILE, self.grid * TILE, 3)))

    def of(self, base: Dataset) -> Mosaic:
        """As many frames in proportion of a part of ``base``: no image of another part is in
        them."""
        return Mosaic(base, self.grid, max(1, round(self.length * len(base) / len(self.base))), self.seed)
