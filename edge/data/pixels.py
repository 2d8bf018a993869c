"""Images decoded and resized once into one file, memory-mapped: training reads every image dozens
of times."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.atomic import file_written_atomically
from edge.data.base import Dataset
from edge.events import Progress
from edge.image import resize
from edge.manifest import digest_json

CHUNK = 64  # images in flight: bounds memory
KEY = 16  # digits of the digest in a file's name


def cached_pixels(dataset: Dataset, size: int, folder: Path, *, workers: int = 2, progress: Progress | None = None) -> NDArray[np.uint8]:
    """The images of a data set, (N, size, size, 3) uint8 RGB, resized as at evaluation (Pillow's
    antialiased bilinear filter).

    The file in ``folder`` is named by the data's digest and used again; it takes N · size² · 3
    bytes of disk, no memory of ours.

    Raises:
        EdgeError: an image cannot be read, or the file does not fit on the disk.
    """
    key = digest_json([dataset.digest, dataset.split, len(dataset), size])[:KEY]
    path = folder / f"pixels-{key}.npy"
    if not path.is_file():
        with file_written_atomically(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(dataset), size, size, 3)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]  # until NumPy 2.3
            # Written, not mapped: where a memory map runs out of disk, the process is killed.
            for index, image in enumerate(_resized(dataset, size, workers)):
                file.write(image.tobytes())
                if progress:
                    progress(index + 1, len(dataset))
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def remove_pixels(folder: Path) -> None:
    """Give back the disk that ``cached_pixels`` took in a folder; what else lies there stays."""
    for path in folder.glob("pixels-" + "[0-9a-f]" * KEY + ".npy"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _resized(dataset: Dataset, size: int, workers: int) -> Iterator[NDArray[np.uint8]]:
    def one(index: int) -> NDArray[np.uint8]:
        return resize(dataset[index].image, size)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset), CHUNK):
            yield from pool.map(one, range(start, min(start + CHUNK, len(dataset))))
