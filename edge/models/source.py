"""Where a build starts: from a name, a path or nothing at all to a network with its weights and
what describes it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from edge.errors import EdgeError, one_of
from edge.manifest import digest_bytes, digest_file
from edge.models import DEFAULT_MODEL, DEFAULT_WEIGHTS, GENERATED_DATA, MODELS, TEST_DATA, Options, create
from edge.models.checkpoint import describe, load_checkpoint, read
from edge.models.network import Network
from edge.reading import read_whole
from edge.spec import ImageSpec, ModelSpec

ASSETS = Path(__file__).resolve().parent.parent / "assets"
RANDOM = "random"
RANDOM_CLASSES = 20
MAX_LABELS = 64 << 20  # bytes of a file of class names
DEFAULT_SIZE = 256


@dataclass(frozen=True)
class Source:
    """A network ready for export.

    Attributes:
        network: the torch model, in eval mode, weights loaded.
        model, image: what describes it.
        title: short name for folders and reports: the shipped name, the checkpoint's file name, or
            ``<model>-random``.
        digest: SHA-256 of the weights.
        shipped: name of the shipped weights, or None.
        named: whether the class names are known (from a flag, the checkpoint or its data set).
        trained: False for random weights.
        data: the data set it was trained on, where the checkpoint tells.
        warnings: what the user should know.
    """

    network: Network
    model: ModelSpec
    image: ImageSpec
    title: str
    digest: str
    shipped: str | None
    named: bool
    trained: bool = True
    data: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def calibration_table(self) -> Path | None:
        """The ranges that come with shipped weights, so that int8 needs no images."""
        path = ASSETS / f"{self.shipped}.calibration.json"
        return path if self.shipped and path.is_file() else None

    @property
    def default_dataset(self) -> str | None:
        """What engines are judged on: ``scenes`` for weights trained on it and for random ones,
        ``aerial`` for the shipped ones of ``ucmerced``, whose test images it has; for others there
        is none."""
        if self.data == GENERATED_DATA or not self.trained:
            return GENERATED_DATA
        return TEST_DATA if self.shipped and self.data == "ucmerced" else None


def shipped() -> tuple[str, ...]:
    """Names of the weights that come with the project."""
    return tuple(sorted(path.stem for path in ASSETS.glob("*.pth")))


def weights_file(name: str) -> Path:
    """Where shipped weights of that name are; any other name is a path."""
    return ASSETS / f"{name}.pth" if name in shipped() else Path(name)


def open_source(
    weights: str | None,
    *,
    model: str | None = None,
    labels: Path | None = None,
    size: int | None = None,
    options: Options | None = None,
    seed: int = 0,
) -> Source:
    """The network a user asked for.

    What describes it is taken from, in order: an argument, the checkpoint's ``edge`` key, the
    official file name, the key names, the default.

    Args:
        weights: a shipped name, a path, ``random``, or None for the default.
        model: architecture name; None: as the weights say.
        labels: file of class names, one a line.
        size: input side in pixels.
        options: the architecture's own options that were given (``pooling``, ``regions``,
            ``threshold``).
        seed: of random weights.

    Raises:
        EdgeError: nothing by that name, or a description and weights that do not fit each other.
    """
    if weights is None:
        weights = _default_weights(model)
    if weights == RANDOM:
        return _random(model or DEFAULT_MODEL, labels, size, options or {}, seed)
    path = weights_file(weights)
    if not os.path.isfile(path):  # which no name is too long for
        raise EdgeError("build", f"There is no file {weights}", f"Change `weights` to {one_of((*shipped(), RANDOM))}, or to a checkpoint")
    checkpoint = read(path)
    found = describe(checkpoint, path.name)
    if model is not None and model != found.model:
        raise EdgeError("build", f"The weights belong to {found.model}, but `model` is {model}", "Leave `model` out")
    names = _labels(labels) if labels else found.classes
    if names is not None and len(names) != found.num_classes:
        raise EdgeError(
            "build", f"There are {len(names)} labels, but the weights have {found.num_classes} classes", "Name each class once in `labels`"
        )
    warnings = [] if names else ["the checkpoint does not name its classes: without a file of labels they are called class_00 …"]
    described = {name: value for name, value in found.options.items() if value is not None}
    network = create(found.model, num_classes=found.num_classes, **{**described, **(options or {})})
    load_checkpoint(network, checkpoint)
    return Source(
        network,
        ModelSpec(found.model, tuple(names or _anonymous(found.num_classes)), network.spec_options()),
        ImageSpec(next(side for side in (size, found.size, DEFAULT_SIZE) if side is not None)),
        title=re.sub(r"(\.pth|\.tar|\.pt)+$", "", path.name),
        digest=digest_file(path),
        shipped=path.stem if path.parent == ASSETS else None,
        named=names is not None,
        data=found.data,
        warnings=tuple(warnings),
    )


def _default_weights(model: str | None) -> str:
    """The shipped weights of an architecture; without any, both ways out are named."""
    candidates = shipped() if model is None else tuple(name for name in shipped() if name.startswith(f"{model}-"))
    if DEFAULT_WEIGHTS in candidates:
        return DEFAULT_WEIGHTS
    if candidates:
        return candidates[0]
    if model is not None and model not in MODELS:
        raise EdgeError("build", f"There is no architecture {model!r}", f"Change `model` to {one_of(MODELS)}")
    raise EdgeError(
        "build",
        f"There are no shipped weights{f' of {model}' if model else ''}",
        f"Set `weights` to the path of a checkpoint, or to {RANDOM} to try the pipeline",
    )


def _random(model: str, labels: Path | None, size: int | None, options: Options, seed: int) -> Source:
    names = _labels(labels) if labels else _anonymous(RANDOM_CLASSES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create(model, num_classes=len(names), **options)
        _settle(network)
    digest = digest_bytes(b"".join(value.numpy().tobytes() for value in network.state_dict().values()))
    return Source(
        network,
        ModelSpec(model, tuple(names), network.spec_options()),
        ImageSpec(DEFAULT_SIZE if size is None else size),
        title=f"{model}-{RANDOM}",
        digest=digest,
        shipped=None,
        named=labels is not None,
        trained=False,
        warnings=("random weights: scores mean nothing; only timings and file formats do",),
    )


def _settle(network: Network, images: int = 8, size: int = 128) -> None:
    """Take BatchNorm statistics from noise that is coarse and fine at once, as photographs are.

    With untouched statistics the maps of a deep random network overflow or vanish; with those of
    white noise they overflow on anything smooth. Saturated maps have no peak to find, and boxes
    then hang on the last bit.
    """
    noise = torch.zeros(images, 3, size, size)
    for grid in (2, 4, 8, 16, 32, 64, size):
        noise += torch.nn.functional.interpolate(torch.randn(images, 3, grid, grid), (size, size), mode="bilinear")
    network.warm(noise / noise.std())


def _labels(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in read_whole(path, MAX_LABELS).decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EdgeError("build", f"Cannot read {path}: {reason}", "Set `labels` to a text file with one name per line") from error
    return names


def _anonymous(count: int) -> list[str]:
    return [f"class_{index:02d}" for index in range(count)]
