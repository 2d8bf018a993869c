"""Frozen descriptions of a model, its input and its target: plain values that travel in every manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edge.errors import EdgeError, one_of

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ModelSpec:
    """What the network is.

    Attributes:
        name: architecture, as in ``edge.models.create`` (``mcar-resnet50``).
        labels: class names in output order, length C.
        options: the architecture's own options, ``edge.models.options_of``, plain types.
        thresholds: per-class decision thresholds of ``predict``, length C; empty means 0.5 for all.
    """

    name: str
    labels: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            raise EdgeError("spec", "a model must have classes", got="no labels", expected="one name or more", do="Give --labels FILE")
        if len(set(self.labels)) != len(self.labels):
            twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
            raise EdgeError("spec", "class names must be unique", got=f"{twice} more than once", expected="unique names", do="Rename them")
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise EdgeError(
                "spec",
                "there must be one threshold per class",
                got=len(self.thresholds),
                expected=len(self.labels),
                do="Rebuild the bundle",
            )


@dataclass(frozen=True)
class ImageSpec:
    """What the network eats: ``(B, 3, size, size)`` float32, resized with Pillow's antialiased bilinear filter,
    scaled to [0, 1], then ``(value - mean) / std`` per channel (RGB)."""

    size: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            low = max(32, self.size // 32 * 32)
            raise EdgeError(
                "spec", "the image size must be a multiple of 32", got=self.size, expected=f"{low} or {low + 32}", do="Change --size"
            )


@dataclass(frozen=True)
class TargetSpec:
    """What the engine runs on.

    Attributes:
        backend: ``openvino``, ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        precision: one of ``PRECISIONS``; ``fp16`` stands for the target's 16-bit float.
        batches: exact batch sizes the engine is compiled for, ascending; others are padded up to the next.
        float16: the 16-bit float of the engine, ``bf16`` or ``fp16``: all of it for precision ``fp16``, what is not quantised for
            ``int8`` where the backend gains by that; None where there is none.
    """

    backend: str
    precision: str
    batches: tuple[int, ...] = (1, 8)
    float16: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EdgeError("spec", "the precision must be known", got=self.precision, expected=one_of(PRECISIONS), do="Change --precision")
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise EdgeError(
                "spec", "batch sizes must be ascending from 1 on", got=self.batches, expected="such as (1, 8)", do="Change --batch"
            )

    @property
    def max_batch(self) -> int:
        return self.batches[-1]


def to_plain(spec: ModelSpec | ImageSpec | TargetSpec) -> dict[str, Any]:
    """The spec as JSON types."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(spec).items()}


def from_plain(kind: type, plain: Mapping[str, Any]) -> Any:
    """A spec from JSON types; unknown fields are refused by the dataclass itself."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})
