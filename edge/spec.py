"""Frozen descriptions of a model, its input and its target: plain values that travel in every
manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from edge.errors import EdgeError, one_of

PRECISIONS = ("fp32", "fp16", "int8")
INPUTS = ("float32", "uint8")
# What is allocated follows from these, and they may come from a manifest.
MAX_BATCH = 4096
MAX_REGIONS = 100_000  # of a batch
RULES = ("rank", "interval")
MAX_STEPS = 1001  # of a rule
REDUNDANT = ("max_overlap", "max_area", "redundant_low", "redundant_high")  # left out of the manifest where a rule has no limits


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
            raise EdgeError("spec", "The model has no classes: there are no labels", "Pass `labels`")
        if len(set(self.labels)) != len(self.labels):
            twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
            raise EdgeError("spec", f"Class names must be unique, but {', '.join(twice)} occurs more than once", "Rename it")
        if self.thresholds and len(self.thresholds) != len(self.labels):
            problem = f"There are {len(self.thresholds)} thresholds for {len(self.labels)} classes"
            raise EdgeError("spec", problem, "Rebuild the bundle")


@dataclass(frozen=True)
class ImageSpec:
    """The input of the network: ``(B, 3, size, size)`` float32, resized with Pillow's antialiased
    bilinear filter, scaled to [0, 1], then ``(value - mean) / std`` per channel (RGB). With
    ``input`` uint8 an engine takes the resized pixels, ``(B, size, size, 3)``, and normalises them
    itself."""

    size: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    input: str = "float32"

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            low = max(32, self.size // 32 * 32)
            raise EdgeError("spec", f"The image size {self.size} is not a multiple of 32", f"Change `size`, to {low} or {low + 32}")
        if self.input not in INPUTS:
            raise EdgeError("spec", f"`input` is {self.input!r}", f"Change `input` to {one_of(INPUTS)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return (self.size, self.size, 3) if self.input == "uint8" else (3, self.size, self.size)

    @property
    def normalised(self) -> ImageSpec:
        """What the canonical graph and the reference take."""
        return replace(self, input="float32")


@dataclass(frozen=True)
class TargetSpec:
    """What the engine runs on.

    Attributes:
        backend: ``openvino``, ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        precision: one of ``PRECISIONS``; ``fp16`` stands for the target's 16-bit float.
        batches: exact batch sizes the engine is compiled for, ascending; others are padded to the
            next size.
        float16: the 16-bit float of the engine, ``bf16`` or ``fp16``: for precision ``fp16``
            everywhere, for ``int8`` in what is not quantised, if the backend gains by it; None if
            there is none.
        reduced_range: whether int8 weights have 7 bits, because the processor adds products of
            uint8 and int8 in 16 bits; None if that does not matter or is not recorded.
    """

    backend: str
    precision: str
    batches: tuple[int, ...] = (1, 8)
    float16: str | None = None
    reduced_range: bool | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EdgeError("spec", f"`precision` is {self.precision!r}", f"Change `precision` to {one_of(PRECISIONS)}")
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise EdgeError("spec", f"The batch sizes {self.batches} are not positive and ascending, as (1, 8) are", "Change `batch`")

    @property
    def max_batch(self) -> int:
        return self.batches[-1]


@dataclass(frozen=True)
class RuleSpec:
    """Which regions the second pass processes (``edge.effort``).

    Attributes:
        kind: ``rank``: the best-ranked; ``interval``: those whose class the first pass is unsure
            of.
        low, high: of ``interval``, at efforts from 0 to 1 in equal steps: a region is processed if
            the global score of its class lies within. ``low`` never rises and ``high`` never falls,
            so a processed region stays so at any larger effort.
        fitted_on: ``backend``, ``precision``, ``data`` and ``digest`` of the fit; empty for
            ``rank``.
        max_overlap, max_area: a region is redundant if its IoU with a better-ranked one is above
            ``max_overlap``, or its box above ``max_area`` pixels of the model's input; without
            either none is.
        redundant_low, redundant_high: like ``low`` and ``high``, for redundant regions.
    """

    kind: str = "rank"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    max_overlap: float | None = None
    max_area: float | None = None
    redundant_low: tuple[float, ...] = ()
    redundant_high: tuple[float, ...] = ()

    @property
    def tells_redundant(self) -> bool:
        return self.max_overlap is not None or self.max_area is not None

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise EdgeError("spec", f"The rule for the second pass is {self.kind!r}, not {one_of(RULES)}", "Rebuild the bundle")
        bounds = (self.low, self.high), (self.redundant_low, self.redundant_high)
        used = self.kind != "rank", self.kind != "rank" and self.tells_redundant
        if not all(_widen(*pair) if needed else pair == ((), ()) for pair, needed in zip(bounds, used, strict=True)):
            problem = "The rule for the second pass is damaged: its score intervals do not widen from step to step within 0 to 1"
            raise EdgeError("spec", problem, "Rebuild the bundle")
        in_range = 0 <= (self.max_overlap or 0) <= 1 and 0 <= (self.max_area or 0) < math.inf
        if not in_range or (self.kind == "rank" and self.tells_redundant):
            problem = "The rule for the second pass is damaged: its limits for redundant regions are out of range"
            raise EdgeError("spec", problem, "Rebuild the bundle")


def _widen(low: tuple[float, ...], high: tuple[float, ...]) -> bool:
    """Whether these are intervals within 0 to 1 of which each holds the one before."""
    return (
        2 <= len(low) == len(high) <= MAX_STEPS
        and list(low) == sorted(low, reverse=True)
        and list(high) == sorted(high)
        and 0 <= low[-1] <= low[0] <= high[0] <= high[-1] <= 1
    )


@dataclass(frozen=True)
class StagesSpec:
    """How the second pass of a model runs.

    Attributes:
        sizes: numbers of regions that *closer* is compiled for, ascending; others are padded to the
            next size, larger numbers are split.
        rule: which regions it processes.
        effort: how many, 0 (none) to 1 (all), unless a call sets it.
        thresholds: like those of the model, which are for effort 1, for scores at ``effort``; empty
            if they are the same.
    """

    sizes: tuple[int, ...]
    rule: RuleSpec = RuleSpec()
    effort: float = 1.0
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise EdgeError(
                "spec", f"The numbers of regions {self.sizes} are not positive and ascending, as (1, 2, 4) are", "Rebuild the bundle"
            )
        if not 0 <= self.effort <= 1:
            raise EdgeError("spec", f"The bundle's effort is {self.effort:g}, not 0 to 1", "Rebuild the bundle")


def to_plain(spec: ModelSpec | ImageSpec | TargetSpec | StagesSpec | RuleSpec) -> dict[str, Any]:
    """The spec as JSON types."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(spec).items()}
    if plain.get("input") == "float32":  # as before there was another: digests are taken of it
        del plain["input"]
    if isinstance(spec, RuleSpec) and not spec.tells_redundant:
        plain = {name: value for name, value in plain.items() if name not in REDUNDANT}
    if isinstance(spec, StagesSpec):
        plain["rule"] = to_plain(spec.rule) if spec.rule.fitted_on or spec.rule.low else spec.rule.kind
    return plain


Spec = TypeVar("Spec", ModelSpec, ImageSpec, TargetSpec, StagesSpec, RuleSpec)


def from_plain(kind: type[Spec], plain: Mapping[str, Any]) -> Spec:
    """A spec from JSON types; unknown fields are refused by the dataclass itself."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    if kind is StagesSpec and "rule" in fields:
        rule = fields["rule"]  # its kind alone where there is nothing else to say
        fields["rule"] = RuleSpec(rule) if isinstance(rule, str) else from_plain(RuleSpec, rule)
    return kind(**fields)
