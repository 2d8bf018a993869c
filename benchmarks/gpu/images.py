"""The images that plans are judged on, the same on every machine: test scenes, drawn with integers
and normalised without a resize.

At 256 they are the scenes themselves; at another size pieces of four scenes side by side, which
random weights are judged on.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import participants
from benchmarks.gpu.place import Place
from edge.data.scenes import SIZE, Scenes
from edge.graph import OUTPUTS, Outputs
from edge.image import preprocess
from edge.manifest import digest_file
from edge.measure.outputs import sample
from edge.spec import ImageSpec

COUNTS = {256: 1000, 448: 64}
REHEARSED = 16


@dataclass(frozen=True)
class Images:
    """``file``: (N, 3, S, S) float32, native byte order; ``labels``: (N, C) int8, 1 present, -1
    absent."""

    file: Path
    size: int
    labels: np.ndarray

    @property
    def array(self) -> np.ndarray:
        return np.memmap(self.file, np.float32, "r").reshape(-1, 3, self.size, self.size)


def prepare(work: Path, size: int, count: int) -> Images:
    """The first ``count`` images of a size, drawn on all cores unless they are there already."""
    dataset = Scenes("test")
    indices = sample(len(dataset), COUNTS[256])[:count]
    file = work / f"images-{size}-{count}.f32"
    if not file.is_file():
        beside = file.with_suffix(".new")
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool, open(beside, "wb") as out:
            for image in pool.map(partial(_image, size=size), indices, chunksize=8):
                out.write(image)
        beside.replace(file)
    return Images(file, size, dataset.labels[indices])


def _image(index: int, size: int) -> bytes:
    dataset = Scenes("test")
    if size == SIZE:
        pixels = dataset[index].image
    else:
        four = [dataset[(index + step) % len(dataset)].image for step in range(4)]
        pixels = np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)])[:size, :size]
    return preprocess(pixels, ImageSpec(size)).tobytes()


def reference(file: Path, images: Images) -> Outputs:
    """What a graph in ONNX Runtime answers for all images, a few at a time."""
    run, array = participants.session(file), images.array
    answers = [run(np.ascontiguousarray(array[start : start + 4])) for start in range(0, len(array), 4)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in OUTPUTS if name in answers[0]}


def packed_reference(place: Place, model: str, images: Images) -> tuple[Outputs, str]:
    """The pack's answers for these images, or else those of ONNX Runtime here; and which of the
    two."""
    count = len(images.labels)
    packed = place.work / "reference" / f"{model}.npz"
    if packed.is_file():
        with np.load(packed) as stored:
            if place.rehearse or str(stored["digest"]) == digest_file(images.file):
                return {name: stored[name][:count] for name in OUTPUTS if name in stored}, "packed"
    return reference(place.work / "reference" / f"{model}.onnx", images), "made here"
