"""The peers table: what is known and recorded of each way to run a model, and its form for a
terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from benchmarks.participants import Participant, Runner
from edge import command
from edge.graph import Outputs
from edge.measure import latency, machine
from edge.measure.accuracy import evaluate, map_drop_interval
from edge.measure.machine import Disturbance, Machine
from edge.measure.regions import drift
from edge.plain import LEFT_OUT
from edge.report import text
from edge.spec import PRECISIONS

Interval = tuple[float, float]
FLOORS = ("openvino", "onnxruntime")  # the backends that run on these cores
REFERENCE_ROW = "onnxruntime-fp32"  # whose scores every Δ mAP is against
COLUMNS = ("row", "backend", "p50 ms", "p99 ms", "× eager", "faster", "× floor", "× own floor", "mAP", "Δ mAP")


@dataclass(frozen=True)
class Row:
    """One way to run the model. Ratios are medians of paired ratios, with their intervals; below 1
    is faster.

    Attributes:
        ratio_to_floor, ratio_to_own_floor: to the fastest floor of its precision, and to that of
            its own runtime.
        map_drop: against the exported graph in FP32 on ONNX Runtime, as are the figures of region
            drift.
        reason: why it could not run.
        note: what of it is not as asked.
    """

    name: str
    backend: str
    precision: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    ratio_to_eager: float | None = None
    ratio_to_eager_interval: Interval | None = field(default=None, metadata=LEFT_OUT)
    ratio_to_floor: float | None = None
    ratio_to_floor_interval: Interval | None = field(default=None, metadata=LEFT_OUT)
    ratio_to_own_floor: float | None = field(default=None, metadata=LEFT_OUT)
    ratio_to_own_floor_interval: Interval | None = field(default=None, metadata=LEFT_OUT)
    map: float | None = None
    map_drop: float | None = None
    map_drop_interval: Interval | None = field(default=None, metadata=LEFT_OUT)
    class_agreement: float | None = field(default=None, metadata=LEFT_OUT)
    mean_iou: float | None = field(default=None, metadata=LEFT_OUT)
    samples: int | None = field(default=None, metadata=LEFT_OUT)
    reason: str | None = field(default=None, metadata=LEFT_OUT)
    note: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Floor:
    """A bare backbone; that of our int8 also beside the one quantised by NNCF."""

    name: str
    p50_ms: float
    ratio_to_nncf: float | None = field(default=None, metadata=LEFT_OUT)
    ratio_to_nncf_interval: Interval | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Peers:
    """The table: what ``benchmarks.peers --json`` writes."""

    version: str
    model: str
    weights: str | None
    size: int
    batch: int
    rounds: int
    dataset: str
    images: int
    calibration_images: int
    ratios: str
    rows: tuple[Row, ...]
    floors: tuple[Floor, ...]
    machine: Machine
    tools: Mapping[str, str]
    valid: bool
    warnings: tuple[str, ...]
    disturbance: Disturbance


class Quality(TypedDict, total=False):
    """Fields of a ``Row`` that its scores decide."""

    map: float
    map_drop: float
    map_drop_interval: Interval
    class_agreement: float
    mean_iou: float | None


def quality(outputs: Outputs, reference: Outputs | None, labels: NDArray[np.integer] | None) -> Quality:
    """What outputs are worth, on labelled images, and beside those of a reference on the same
    images."""
    found: Quality = {}
    moved = drift(outputs, reference) if reference is not None else None
    if moved:
        found |= {"class_agreement": moved.class_agreement, "mean_iou": moved.mean_iou}
    if labels is not None:
        found["map"] = evaluate(outputs["scores"], labels).map
    if labels is not None and reference is not None:
        found["map_drop"] = evaluate(reference["scores"], labels).map - found["map"]
        found["map_drop_interval"] = map_drop_interval(reference["scores"], outputs["scores"], labels)
    return found


@dataclass
class Table:
    """What is known about each row, filled as the run goes on."""

    only: frozenset[str] = frozenset()
    participants: dict[str, Participant] = field(default_factory=dict)
    failed: dict[str, Row] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether a row was asked for: by its name, or a floor by its precision."""
        return not self.only or name in self.only or any(name.startswith(f"{floor}-") for floor in self.only if floor.startswith("floor-"))

    def add(
        self, name: str, backend: str, precision: str, opened: Callable[[], Runner], *, scored: bool = True, adaptive: bool = False
    ) -> None:
        if self.wants(name):
            self.participants[name] = Participant(name, backend, precision, opened, scored, adaptive)

    def fail(self, name: str, backend: str, precision: str, reason: str) -> None:
        if self.wants(name):
            self.failed[name] = Row(name, backend, precision, reason=reason)
            command.warn(f"{name}: {reason}")


def rows(table: Table, rounds: latency.Rounds, quality: Mapping[str, Quality]) -> tuple[Row, ...]:
    """The table: peers, our engines, then per precision the fastest floor; rows that could not run
    give their reason."""
    fastest = {
        precision: min(names, key=lambda name: rounds.latency(name).percentile_ms(50))
        for precision in PRECISIONS
        if (names := [name for name in rounds.seconds if name in {f"floor-{precision}-{backend}" for backend in FLOORS}])
    }
    measured = [one for name, one in table.participants.items() if not name.startswith("floor-") and name in rounds.seconds]
    return (
        *(replace(_row(one, rounds, fastest, quality.get(one.name, {})), note=table.notes.get(one.name)) for one in measured),
        *(replace(_row(table.participants[name], rounds, fastest, {}), name=f"floor-{precision}") for precision, name in fastest.items()),
        *(row for name, row in table.failed.items() if not name.startswith("floor-")),
    )


def _row(one: Participant, rounds: latency.Rounds, fastest: Mapping[str, str], quality: Quality) -> Row:
    measured, precision = rounds.latency(one.name), {"bf16": "fp16"}.get(one.precision, one.precision)
    to_eager, to_eager_interval = _ratio(rounds, one.name, "eager-fp32")
    to_floor, to_floor_interval = _ratio(rounds, one.name, fastest.get(precision, ""))
    to_own, to_own_interval = _ratio(rounds, one.name, f"floor-{precision}-{one.backend}")
    return Row(
        one.name,
        one.backend,
        one.precision,
        p50_ms=measured.percentile_ms(50),
        p99_ms=measured.percentile_ms(99),
        ratio_to_eager=to_eager,
        ratio_to_eager_interval=to_eager_interval,
        ratio_to_floor=to_floor,
        ratio_to_floor_interval=to_floor_interval,
        ratio_to_own_floor=to_own,
        ratio_to_own_floor_interval=to_own_interval,
        samples=len(measured.seconds),
        **quality,
    )


def _ratio(rounds: latency.Rounds, name: str, base: str) -> tuple[float | None, Interval | None]:
    if base not in rounds.seconds:
        return None, None
    found = rounds.compare(name, base)
    return found.ratio, found.interval


def floors(rounds: latency.Rounds) -> tuple[Floor, ...]:
    """Every floor that was measured; ``floor-int8-nncf`` shows that our int8 backbone is no slower
    than NNCF's."""
    return tuple(
        Floor(
            name,
            rounds.latency(name).percentile_ms(50),
            *(_ratio(rounds, name, "floor-int8-nncf") if name == "floor-int8-openvino" else ()),
        )
        for name in rounds.seconds
        if name.startswith("floor-")
    )


def terminal(table: Peers) -> str:
    """The table for a terminal, at most 120 columns."""
    cells = [
        [
            row.name,
            row.backend,
            text.number(row.p50_ms, 2),
            text.number(row.p99_ms, 2),
            text.number(row.ratio_to_eager, 3),
            "–" if not row.ratio_to_eager else f"{1 / row.ratio_to_eager:.1f}×",
            text.number(row.ratio_to_floor, 3),
            text.number(row.ratio_to_own_floor, 3),
            text.number(row.map, 2),
            text.change(row.map_drop),
        ]
        for row in table.rows
        if not row.reason
    ]
    said = [f"{row.name}: {words}"[: text.WIDTH] for row in table.rows if (words := row.reason or row.note)]
    checks = [f"int8 backbone: {one.ratio_to_nncf:.3f} × of the one quantised by NNCF" for one in table.floors if one.ratio_to_nncf]
    head = f"{table.model} {table.size} px, batch {table.batch}, {table.rounds} rounds"
    verdict = "VALID" if table.valid else "INVALID: " + "; ".join(table.warnings)
    lines = text.text_table(COLUMNS, cells, frozenset(COLUMNS[2:]))
    return "\n".join([head, machine.sentence(table.machine), "", *lines, "", *checks, *said, verdict])
