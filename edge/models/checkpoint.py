"""Checkpoints: the official files and ours, read without running anything they hold, and what they
tell about a model."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edge.atomic import write_atomically
from edge.errors import EdgeError, one_of
from edge.labels import COCO_CLASSES, VOC_CLASSES
from edge.models import Options, options_of
from edge.models.network import Network
from edge.reading import read_whole

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Content = Mapping[str, Any]  # of a file, as torch.load gives it: tensors and plain values

MAX_BYTES = 16 << 30  # of a file
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)  # the last of counters
OURS = "edge"  # the key that makes the official dict ours
_OFFICIAL_NAME = re.compile(r"(voc2007|voc2012|coco2014)-(\w+?)-(avg|gwp|max)-(\d+)-(\d+)-(0?\.\d+)")
_DATASET_CLASSES = {"voc2007": VOC_CLASSES, "voc2012": VOC_CLASSES, "coco2014": COCO_CLASSES}
# A key that only this architecture has, most particular first.
_SIGNS = (
    ("mcar-resnet101", "features.6.22.conv3.weight"),
    ("mcar-resnet50", "features.7.2.conv3.weight"),
    ("mcar-mobilenetv2", "features.0.17.conv.6.weight"),
)
_CLASSIFIER = "convclass.weight"
# Files may hold NumPy scalars beside the tensors (`best_score`); nothing else is allowed in. NumPy
# 2 moved the function that rebuilds them, so both places are named: either version may have written
# the file, either may read it.
_SCALAR: Callable[..., object] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_SAFE_GLOBALS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("b1", "f2", "f4", "f8", "i4", "i8")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
# What the `edge` key must hold for later stages to count on it.
_FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str,), "a name"),
    "classes": ((list, tuple), "a list of names"),
    "size": ((int,), "a whole number of pixels"),
    "pooling": ((str,), "a name"),
    "regions": ((int,), "a whole number"),
    "threshold": ((int, float), "a number"),
    "data": ((str,), "a data set"),
}


@dataclass(frozen=True)
class Description:
    """What a checkpoint tells about its model; None or empty where it does not tell.

    Attributes:
        model: architecture name.
        num_classes: C.
        classes: class names in output order.
        size: input side in pixels.
        options: the architecture's options that are known.
        data: the data set it was trained on, as ``--dataset`` has it.
    """

    model: str
    num_classes: int
    classes: tuple[str, ...] | None = None
    size: int | None = None
    options: Options = field(default_factory=dict)
    data: str | None = None


def read(path: Path | str) -> Content:
    """The dict a checkpoint file holds: tensors and plain values only (``weights_only``), on the
    CPU.

    Raises:
        EdgeError: no such file, truncated, no checkpoint, or one that wants to run code.
    """
    path = Path(path)
    try:
        data = read_whole(path, MAX_BYTES)
    except OSError as error:
        raise EdgeError("models", f"Cannot read {path}: {error.strerror}", "Change `weights`") from error
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read is refused below
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in any of a dozen types
        wants_code = re.search(r"unsupported (global|class)", str(error), re.IGNORECASE)
        if wants_code:
            raise EdgeError("models", f"{path} contains code to run, which is not allowed", "Save only its state_dict") from error
        raise EdgeError("models", f"{path} is damaged, or is not a PyTorch checkpoint", "Download or save it again") from error
    if not isinstance(content, Mapping) or not _tensors(content):
        raise EdgeError("models", f"{path} contains a {type(content).__name__} instead of named weights", "Save model.state_dict()")
    return content


def state_of(checkpoint: Content) -> dict[str, Tensor]:
    """The weights by the official key names, without ``module.`` in front.

    Raises:
        EdgeError: one is no plain array of floating-point numbers or counts on the CPU.
    """
    state = {name.removeprefix("module."): value for name, value in _tensors(checkpoint).items()}
    for name, value in state.items():
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.is_nested
            or value.device.type != "cpu"
            or value.dtype not in DTYPES
        ):
            kind = "quantised" if value.is_quantized else f"{value.dtype} {value.layout} on {value.device}".replace("torch.", "")
            fix = f"Save them as {one_of(str(each).removeprefix('torch.') for each in DTYPES[:3])}"
            raise EdgeError("models", f"The checkpoint's {name[:80]} is {kind}, which is not a plain array of weights", fix)
    return state


def describe(source: Path | str | Content, filename: str | None = None) -> Description:
    """What a checkpoint is, from its ``edge`` key, else its official file name, else its key names.

    Args:
        source: path, or mapping as ``read`` gives it.
        filename: such as ``voc2007-resnet101-gwp-448-4-0.5.pth.tar``; that of the path where there
            is one.

    Raises:
        EdgeError: no known architecture, or an ``edge`` key of another form.
    """
    if not isinstance(source, Mapping):
        filename = filename or Path(source).name
        source = read(source)
    state, ours = state_of(source), _ours(source)
    model = ours.get("model") or next((name for name, sign in _SIGNS if sign in state), None)
    classifier = state.get(_CLASSIFIER)
    if model is None or classifier is None or classifier.ndim < 1:
        first = ", ".join(list(state)[:3])
        raise EdgeError(
            "models",
            f"The architecture of the checkpoint is unknown: it has {len(state)} tensors such as {first}",
            f"Use a checkpoint of {one_of(name for name, _ in _SIGNS)}, or one written by edge.train",
        )
    num_classes = int(classifier.shape[0])
    told = {**_from_name(filename, num_classes), **ours}
    options = {name: told[name] for name in options_of(model) if name in told}
    classes = tuple(told["classes"]) if "classes" in told else None
    return Description(model, num_classes, classes, told.get("size"), options, ours.get("data"))


def load_checkpoint(model: NetworkT, source: Path | str | Content) -> NetworkT:
    """Load weights into a model of the same architecture and class count; returns the model.

    Args:
        model: from ``edge.models.create``.
        source: path, or mapping: the official dict, ours, or a bare state dict; with or without
            ``module.``.

    Raises:
        EdgeError: keys or shapes differ; the message says which.
    """
    state, own = state_of(source if isinstance(source, Mapping) else read(source)), model.state_dict()
    # Files older than PyTorch 0.4.1 lack these counters, which inference never reads.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    shapes = [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in differing]
    if missing or extra or shapes:
        found = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if names
        )
        raise EdgeError("models", f"The checkpoint does not fit the model: {found}", "Change `model`, or use a checkpoint of that model")
    rounded = [name for name, value in own.items() if name in state and value.is_floating_point() != state[name].is_floating_point()]
    if rounded:
        kind = str(state[rounded[0]].dtype).removeprefix("torch.")
        raise EdgeError("models", f"The checkpoint's {rounded[0]} is {kind}, which is not the type in the model", "Save it again")
    if any(not bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point()):
        raise EdgeError("models", "The checkpoint contains weights that are NaN or infinite", "Train or save it again")
    model.load_state_dict({**{name: value for name, value in own.items() if name not in state}, **state})
    return model


def save_checkpoint(
    path: Path | str,
    model: Network,
    *,
    name: str,
    classes: tuple[str, ...],
    size: int,
    epoch: int = 0,
    best_score: float = 0.0,
    extra: Mapping[str, str | float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the official dict (``epoch``, ``arch``, ``state_dict``, ``best_score``) and what
    describes the model under ``edge``.

    Args:
        name: architecture, as in ``create``.
        extra: further plain values for the ``edge`` key (data set, recipe, seed …).
        dtype: storage of floating-point weights; float16 halves the file and is widened on loading.
    """
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    described = {"model": name, "classes": list(classes), "size": size, **model.spec_options(), **(extra or {})}
    write_atomically(path, to_bytes({"epoch": epoch, "arch": None, "state_dict": state, "best_score": best_score, OURS: described}))


def to_bytes(content: Content) -> bytes:
    """A file as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _tensors(checkpoint: Content) -> dict[str, Tensor]:
    inner = checkpoint.get("state_dict", checkpoint)
    if not isinstance(inner, Mapping):
        return {}
    return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}


def _ours(checkpoint: Content) -> Content:
    """The ``edge`` key, checked against ``_FORMS``; empty where the file has none."""
    ours = checkpoint.get(OURS, {})
    if not isinstance(ours, Mapping):
        raise _malformed(OURS, ours, "a dict")
    told = {str(name): value for name, value in ours.items() if value is not None}
    for name, (kinds, form) in _FORMS.items():
        if name in told and (not isinstance(told[name], kinds) or isinstance(told[name], bool)):
            raise _malformed(name, told[name], form)
    if "classes" in told and not (told["classes"] and all(isinstance(label, str) for label in told["classes"])):
        raise _malformed("classes", told["classes"], _FORMS["classes"][1])
    return told


def _malformed(name: str, value: object, form: str) -> EdgeError:
    problem = f"The checkpoint's key {OURS!r} has {name} = {str(value)[:40]!r}, which is not {form}"
    return EdgeError("models", problem, "Save the checkpoint again")


def _from_name(filename: str | None, num_classes: int) -> Content:
    """What an official file name says; its data set names the classes only where their number is
    that of the weights."""
    named = _OFFICIAL_NAME.search(filename or "")
    if not named:
        return {}
    dataset, _, pooling, size, regions, threshold = named.groups()
    told = {"size": int(size), "pooling": pooling, "regions": int(regions), "threshold": float(threshold)}
    classes = _DATASET_CLASSES[dataset]
    return {**told, "classes": classes} if len(classes) == num_classes else told
