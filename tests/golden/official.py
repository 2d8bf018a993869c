"""The recorded cases: weights and images are drawn again from their seeds, what the official code
made of them is read."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edge.models import create, load_checkpoint
from edge.models.network import Network

FOLDER = Path(__file__).resolve().parent


class Case(NamedTuple):
    """One network with its options.

    Attributes:
        model: architecture name; ``network`` is it, with the weights loaded.
        images: (B, 3, S, S) float32.
        expected: ``global_scores``, ``local_scores``, ``regions`` and ``region_classes`` as our
            models give them.
    """

    model: str
    network: Network
    images: np.ndarray
    expected: Mapping[str, np.ndarray]


def read(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def case(name: str) -> Case:
    """The case ``mcar_<name>.npz``."""
    recorded = read(f"mcar_{name}")
    told = {key: value.item() for key, value in recorded.items() if value.ndim == 0}
    model = f"mcar-{name.partition('_')[0]}"
    network = create(model, told["num_classes"], pooling=told["pooling"], regions=told["topn"], threshold=told["threshold"])
    weights = {key: weight(key, tuple(own.shape), told["classifier_std"]) for key, own in network.state_dict().items()}
    load_checkpoint(network, {key: torch.from_numpy(value) for key, value in weights.items()})
    x1, x2, y1, y2, classes, _ = np.moveaxis(recorded["regions"], -1, 0)
    expected = {
        "global_scores": recorded["global_scores"],
        "local_scores": recorded["local_scores"],
        "regions": np.stack([x1, y1, x2, y2], axis=-1),
        "region_classes": classes.astype(np.int64),
    }
    return Case(model, network, images(told["seed"], told["batch"], told["size"]), expected)


def weight(key: str, shape: tuple[int, ...], classifier_std: float) -> np.ndarray:
    """A tensor of the state dict; it depends on its own name and shape only."""
    draw, kind = np.random.default_rng(zlib.crc32(key.encode())), key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        values = draw.uniform(0.8, 1.6, shape)
    elif kind == "weight" and len(shape) != 4:  # of a BatchNorm
        values = draw.uniform(0.4, 0.9, shape)
    else:
        values = draw.standard_normal(shape) * _spread(key, shape, classifier_std)
    return np.asarray(values, np.float32)


def _spread(key: str, shape: tuple[int, ...], classifier_std: float) -> float:
    if key == "convclass.weight":
        return classifier_std
    return math.sqrt(2 / math.prod(shape[1:])) if len(shape) == 4 else 0.1


def images(seed: int, batch: int, size: int) -> np.ndarray:
    """(B, 3, S, S) float32, about normalised: six soft coloured blobs each, on noise."""
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((batch, 3, size, size)).astype(np.float32) * np.float32(0.25)
    down, across = np.indices((size, size), np.float32) / np.float32(size)
    for image in noise:
        for _ in range(6):
            x, y, radius = (draw.uniform(*span) for span in ((0.1, 0.9), (0.1, 0.9), (0.03, 0.2)))
            colour = draw.uniform(-2, 2.5, 3).astype(np.float32)
            distance = (across - np.float32(x)) ** 2 + (down - np.float32(y)) ** 2
            image += colour.reshape(3, 1, 1) * np.exp(-distance / np.float32(2 * radius**2))
    return noise
