"""What a bench finds, as frozen values: the schema of ``edge.bench --json``, key by key.

Parts that one measurement makes are defined beside it in ``edge.measure``; what they are put
together to stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edge.measure.effort import Effort
from edge.measure.energy import Energy, NoEnergy
from edge.measure.latency import Percentiles
from edge.measure.load import Soak, Streams
from edge.measure.machine import Disturbance, Machine
from edge.measure.quality import Quality, Sensitivity
from edge.measure.regions import Drift
from edge.plain import LEFT_OUT, Json, from_plain, to_plain


@dataclass(frozen=True)
class Run:
    """Latency of one batch size, with its verdict.

    Attributes:
        latency_ms: per batch.
        median_interval_ms: 95 %.
        variation: coefficient of variation.
        samples_ms: every call, in the order made.
        warm_up: calls before these.
        reasons: why the run may not be believed; empty when it is valid.
        disturbance: what happened to the machine meanwhile.
    """

    batch: int
    latency_ms: Percentiles
    throughput_images_per_s: float
    median_interval_ms: tuple[float, float]
    variation: float
    samples_ms: tuple[float, ...]
    warm_up: int
    valid: bool
    reasons: tuple[str, ...]
    disturbance: Disturbance


@dataclass(frozen=True)
class Memory:
    """In MiB: the most ever held, what the engine added when loaded, its files; None where nothing
    tells it."""

    peak_rss: float | None
    engine: float | None
    bundle: float | None


@dataclass(frozen=True)
class Compared:
    """An engine interleaved with the first: paired ratios of their latencies, above 1 is slower."""

    bundle: str
    p50_ms: float
    ratio: float
    interval: tuple[float, float]
    rounds: int
    verdict: str


@dataclass(frozen=True)
class Changes:
    """How the metrics of the gate moved against a baseline.

    Attributes:
        file: of the baseline.
        changes: metric → change, in percent but for mAP.
        differs: what the baseline was measured with otherwise.
    """

    file: str
    changes: Mapping[str, str]
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """One condition of ``fail_on``, judged.

    Attributes:
        measured: None where this run has no such figure.
        limit: what it was compared with.
        engine: its name, where there are several.
    """

    condition: str
    measured: float | None
    limit: float
    failed: bool
    engine: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Result(Run):
    """Everything about one engine; as a run, that of its largest batch. Of several, the first, and
    what they share.

    Attributes:
        float16: the 16-bit float of the engine, where it has one.
        load_ms, first_ms: to load the engine, and its first call.
        layers: what the engine is made of, where its backend can tell.
        effort: at its own effort; all the rest is at effort 1. None without a second stage or
            without images.
        sweep: a run for each batch, where there are several.
        stages_ms: milliseconds of a batch by stage (``edge.measure.stages``).
        warnings: reasons and notes.
        engines: all of them, where there are several, and ``comparison`` in their order.
        gates: of all engines; only the whole has them.
    """

    bundle: str
    model: str
    weights: str | None
    size: int
    backend: str
    precision: str
    float16: str | None
    load_ms: float
    first_ms: float
    layers: Mapping[str, Any] | None  # as the vendor library tells them
    sweep: tuple[Run, ...]
    machine: Machine
    energy: Energy | NoEnergy | None
    stages_ms: Mapping[str, float]
    memory_mb: Memory
    accuracy: Quality | None
    regions: Drift | None
    effort: Effort | None
    sensitivity: Sensitivity | None
    warnings: tuple[str, ...]
    streams: Streams | None = field(default=None, metadata=LEFT_OUT)
    soak: Soak | None = field(default=None, metadata=LEFT_OUT)
    engines: tuple[Result, ...] | None = field(default=None, metadata=LEFT_OUT)
    comparison: tuple[Compared, ...] | None = field(default=None, metadata=LEFT_OUT)
    baseline: Changes | None = field(default=None, metadata=LEFT_OUT)
    gates: tuple[Outcome, ...] | None = field(default=None, metadata=LEFT_OUT)

    @property
    def each(self) -> tuple[Result, ...]:
        """Every engine of the report."""
        return self.engines or (self,)

    def worded(self, said: Callable[[str], str]) -> Result:
        """The same with its warnings said in other words, such as a command's flags for the
        parameters they name."""
        engines = tuple(one.worded(said) for one in self.engines) if self.engines else None
        return replace(self, warnings=tuple(map(said, self.warnings)), engines=engines)

    def plain(self) -> dict[str, Json]:
        """The content of the JSON file."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, content: Json) -> Result:
        """From the content of a JSON file, be it of an earlier version: see ``edge.plain``."""
        return from_plain(cls, content)
