"""Images decoded and resized once into one file, memory-mapped: training reads every image dozens of times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge.data.base import Dataset
from edge.manifest import digest_json

CHUNK = 64  # images in flight: bounds memory


def cached_pixels(
    dataset: Dataset, size: int, folder: Path, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """The images of a data set, (N, size, size, 3) uint8 RGB, resized as at evaluation (Pillow's antialiased bilinear filter).

    The file in ``folder`` is named by the data's digest and used again; it takes N · size² · 3 bytes of disk, no memory of ours.
    """
    key = digest_json([dataset.digest, dataset.split, len(dataset), size])[:16]
    path = folder / f"pixels-{key}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(dataset), size, size, 3))
        for index, image in enumerate(_resized(dataset, size, workers)):
            pixels[index] = image
            if progress:
                progress(index + 1, len(dataset))
        pixels.flush()
        del pixels
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def _resized(dataset: Dataset, size: int, workers: int) -> Iterator[NDArray[np.uint8]]:
    def one(index: int) -> NDArray[np.uint8]:
        image = dataset[index].image
        if image.shape[:2] == (size, size):
            return image
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset), CHUNK):
            yield from pool.map(one, range(start, min(start + CHUNK, len(dataset))))
