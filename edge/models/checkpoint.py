"""Checkpoints: the official files and ours, read without running anything they hold, and what they tell about a model."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edge.errors import EdgeError
from edge.labels import COCO_CLASSES, VOC_CLASSES
from edge.manifest import write_atomically
from edge.models.network import Network

NetworkT = TypeVar("NetworkT", bound=nn.Module)

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
# Legacy files may hold NumPy scalars beside the tensors (`best_score`); nothing else is allowed in.
_SAFE_GLOBALS: list[Any] = [np.dtype, np.ndarray, *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")}]


@dataclass(frozen=True)
class Description:
    """What a checkpoint tells about its model; None or empty where it does not tell.

    Attributes:
        model: architecture name.
        num_classes: C.
        classes: class names in output order.
        size: input side in pixels.
        options: the architecture's options that are known (MCAR: pooling, regions, threshold).
    """

    model: str
    num_classes: int
    classes: tuple[str, ...] | None = None
    size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path | str) -> dict[str, Any]:
    """The dict a checkpoint file holds: tensors and plain values only (``weights_only``), on the CPU.

    Raises:
        EdgeError: no such file, truncated, no checkpoint, or one that wants to run code.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgeError(
            "models", "the checkpoint must be readable", got=f"{path}: {error.strerror}", expected="a file", do="Change --weights"
        ) from error
    try:
        with torch.serialization.safe_globals([*_SAFE_GLOBALS, _numpy_scalar()]):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in any of a dozen types
        wants_code = isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower()
        reason = "a checkpoint that asks to run code" if wants_code else "a damaged file or no checkpoint"
        raise EdgeError(
            "models",
            "the checkpoint must be a PyTorch file of tensors and plain values",
            got=f"{path}: {reason}",
            expected="a file written by torch.save",
            do="Download or save it again",
        ) from error
    if not isinstance(content, Mapping) or not _tensors(content):
        raise EdgeError(
            "models",
            "the checkpoint must hold weights by name",
            got=f"{path}: {type(content).__name__} without tensors",
            expected="a state_dict, or a dict with the key state_dict",
            do="Save model.state_dict()",
        )
    return dict(content)


def state_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights by the official key names, without ``module.`` in front."""
    return {name.removeprefix("module."): value for name, value in _tensors(checkpoint).items()}


def describe(checkpoint: Mapping[str, Any], filename: str | None = None) -> Description:
    """What a checkpoint is, from its ``edge`` key, else its official file name, else its key names.

    Args:
        checkpoint: as ``read`` gives it.
        filename: such as ``voc2007-resnet101-gwp-448-4-0.5.pth.tar``.
    """
    state = state_of(checkpoint)
    model = next((name for name, sign in _SIGNS if sign in state), None)
    classifier = state.get(_CLASSIFIER)
    ours = checkpoint.get(OURS)
    ours = ours if isinstance(ours, Mapping) else {}
    model = ours.get("model", model)
    if model is None or classifier is None or classifier.ndim < 1:
        first = ", ".join(list(state)[:3])
        raise EdgeError(
            "models",
            "the checkpoint must be of a known architecture",
            got=f"{len(state)} tensors such as {first}",
            expected=f"keys of {', '.join(name for name, _ in _SIGNS)}",
            do="Check that it is an MCAR checkpoint",
        )
    named = _OFFICIAL_NAME.search(filename or "")
    from_name: dict[str, Any] = {}
    if named:
        from_name = {
            "classes": _DATASET_CLASSES[named[1]],
            "size": int(named[4]),
            "pooling": named[3],
            "regions": int(named[5]),
            "threshold": float(named[6]),
        }
    told = {**from_name, **{key: value for key, value in ours.items() if value is not None}}
    classes, num_classes = told.get("classes"), int(classifier.shape[0])
    if classes is not None and len(classes) != num_classes and not ours.get("classes"):
        classes = None  # a renamed file: the weights know better than the name
    options = {name: told[name] for name in ("pooling", "regions", "threshold") if name in told}
    return Description(str(model), num_classes, tuple(map(str, classes)) if classes else None, told.get("size"), options)


def load_checkpoint(model: NetworkT, source: Path | str | Mapping[str, Any]) -> NetworkT:
    """Load weights into a model of the same architecture and class count; returns the model.

    Args:
        model: from ``edge.models.create``.
        source: path, or mapping: the official dict, ours, or a bare state dict; with or without ``module.``.

    Raises:
        EdgeError: keys or shapes differ; the message says which.
    """
    checkpoint = dict(source) if isinstance(source, Mapping) else read(source)
    state, own = state_of(checkpoint), model.state_dict()
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
        raise EdgeError(
            "models",
            "the checkpoint must fit the model",
            got=found,
            expected=f"the {len(own)} tensors of this architecture and class count",
            do="Change --model, or give the checkpoint that belongs to it",
        )
    if any(not bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point()):
        raise EdgeError("models", "weights must be finite", got="NaN or infinity", expected="finite numbers", do="Train or save it again")
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
    extra: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the official dict (``epoch``, ``arch``, ``state_dict``, ``best_score``) and what describes the model under ``edge``.

    Args:
        name: architecture, as in ``create``.
        extra: further plain values for the ``edge`` key (data set, recipe, seed …).
        dtype: storage of floating-point weights; float16 halves the file and is widened on loading.
    """
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    described = {"model": name, "classes": list(classes), "size": size, **model.spec_options(), **dict(extra or {})}
    buffer = io.BytesIO()
    torch.save({"epoch": epoch, "arch": None, "state_dict": state, "best_score": best_score, OURS: described}, buffer)
    write_atomically(path, buffer.getvalue())


def _tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = checkpoint.get("state_dict", checkpoint)
    if not isinstance(inner, Mapping):
        return {}
    return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}


def _numpy_scalar() -> Any:
    # NumPy 2 moved it; files written with NumPy 1 name the old place, which torch maps itself.
    from importlib import import_module

    home = "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core.multiarray"
    return import_module(home).scalar
