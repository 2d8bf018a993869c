"""From a data set to batches: images decoded and resized by threads while the engine works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.data.base import Dataset
from edge.image import preprocess
from edge.spec import ImageSpec

AHEAD = 2  # batches in flight: bounds memory at AHEAD + 1 batches

Batch: TypeAlias = NDArray[Any]  # uint8 or float32, as the image spec says


def batches(dataset: Dataset, image_spec: ImageSpec, batch: int, *, workers: int = 2) -> Iterator[tuple[tuple[str, ...], Batch]]:
    """Batches in the order of the data set: (names, (b, 3, S, S) float32 normalised); b < ``batch``
    only for the last.

    With an ``image_spec.input`` of uint8 they are (b, S, S, 3) uint8.

    Pillow decodes and resizes outside the interpreter lock, so threads do. Stopping early stops
    them.

    Raises:
        EdgeError: an image is missing or damaged.
    """
    if batch < 1 or workers < 1:
        raise ValueError("batch and workers must be positive")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edge-data")
    try:
        starts = iter(range(0, len(dataset), batch))
        waiting: deque[tuple[Batch, list[Future[str]]]] = deque()

        def submit() -> None:
            start = next(starts, None)
            if start is not None:
                images = np.empty((min(batch, len(dataset) - start), *image_spec.shape), image_spec.input)
                waiting.append((images, [pool.submit(_load, dataset, start + i, image_spec, images[i]) for i in range(len(images))]))

        for _ in range(AHEAD):
            submit()
        while waiting:
            images, futures = waiting.popleft()
            names = tuple(future.result() for future in futures)
            submit()
            yield names, images
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(dataset: Dataset, index: int, spec: ImageSpec, out: Batch) -> str:
    sample = dataset[index]
    preprocess(sample.image, spec, out=out)
    return sample.name
