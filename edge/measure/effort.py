"""What an engine that looks only where it pays costs and is worth: its latency depends on the
image, so it is measured over images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.effort import fused, looked_at
from edge.graph import Outputs
from edge.measure.accuracy import average_precision, map_drop_interval
from edge.measure.latency import Clock
from edge.spec import RuleSpec

GRID = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)  # efforts of a curve, besides the chosen one: nine points at most
RESAMPLES = 500
LIMIT_S = 60.0
BLOCK = 16  # images that are run at one effort before the next


@dataclass(frozen=True)
class EffortPoint:
    """An effort: what it costs a batch of the data set's images, in milliseconds, and what it is
    worth, in points of mAP.

    Attributes:
        mean_looks: regions looked at, of an image in the mean.
        map: None without labels.
    """

    effort: float
    mean_looks: float
    map: float | None
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Effort:
    """An engine at its effort, beside effort 1 in one interleaved run.

    Attributes:
        chosen: the bundle's effort, or the one that was asked for.
        map_drop, map_drop_interval: against effort 1 of the same engine; paired 95 % interval.
        mean_ratio, p99_ratio: of the latency to that at effort 1.
        regions: K, that effort 1 looks at.
        images: whose latency was measured, ``batch`` at a time.
        curve: rising efforts, 0, the chosen one and 1 among them.
    """

    chosen: float
    mean_looks: float
    map: float | None
    map_drop: float | None
    map_drop_interval: tuple[float, float] | None
    mean_ratio: float
    p99_ratio: float
    regions: int
    images: int
    batch: int
    curve: tuple[EffortPoint, ...]

    @property
    def point(self) -> EffortPoint:
        """That of the chosen effort."""
        return next(point for point in self.curve if point.effort == self.chosen)


def efforts_of(chosen: float) -> tuple[float, ...]:
    """The efforts of a curve."""
    return tuple(sorted({*GRID, chosen}))


def time_efforts(
    infer: Callable[[np.ndarray, float], object],
    batches: Iterable[np.ndarray],
    efforts: Sequence[float],
    *,
    limit_s: float = LIMIT_S,
    clock: Clock = time.perf_counter,
) -> tuple[dict[float, NDArray[np.float64]], int]:
    """Seconds of every batch at every effort, interleaved on the same images; and how many images
    that were.

    A block of batches is run at one effort, then at the next, in an order that turns with the
    blocks: a program stays at one effort too, and call by call each would find the caches as
    another left them. A call that is not counted goes before each: threads sleep while a block is
    decoded.

    Args:
        infer: a batch at an effort.
        batches: of images, each made only when it is asked for.
        limit_s: no block begins later.
    """
    taken: dict[float, list[float]] = {effort: [] for effort in efforts}
    images, begun = 0, clock()
    for number, block in enumerate(_blocks(batches)):
        if number == 0:
            for effort in efforts:  # compiles what they need
                infer(block[0], effort)
        for turn in range(len(efforts)):
            effort = efforts[(number + turn) % len(efforts)]
            infer(block[0], effort)
            for batch in block:
                start = clock()
                infer(batch, effort)
                taken[effort].append(clock() - start)
        images += sum(map(len, block))
        if clock() - begun > limit_s:
            break
    return {effort: np.asarray(seconds) for effort, seconds in taken.items()}, images


def _blocks(batches: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Batches that are ``BLOCK`` images together; a larger one is a block of its own."""
    block: list[np.ndarray] = []
    for batch in batches:
        block.append(batch)
        if sum(map(len, block)) >= BLOCK:
            yield block
            block = []
    if block:
        yield block


def judge_effort(
    chosen: float,
    rule: RuleSpec,
    outputs: Outputs,
    labels: NDArray[np.integer] | None,
    seconds: Mapping[float, NDArray[np.float64]],
    *,
    images: int,
    batch: int,
) -> Effort:
    """Put together what was timed and what the outputs are worth.

    Args:
        outputs: of ``Engine.infer_each`` over a data set.
        labels: (N, C) of it; None without.
        seconds: of ``time_efforts``; ``chosen`` and 1 are among its efforts.
    """
    count, regions = outputs["region_classes"].shape
    full = fused(outputs, np.ones((count, regions), bool))
    curve = []
    for effort in sorted(seconds):
        looked = looked_at(rule, outputs, effort)
        points = None if labels is None else 100 * float(average_precision(fused(outputs, looked), labels).mean())
        ms = seconds[effort] * 1e3
        p50, p99 = np.percentile(ms, (50, 99)).tolist()
        curve.append(EffortPoint(effort, float(looked.sum(1).mean()), points, float(ms.mean()), p50, p99, float(ms.max())))
    mine, whole = (next(point for point in curve if point.effort == effort) for effort in (chosen, 1.0))
    drop = None if mine.map is None or whole.map is None else whole.map - mine.map
    interval = None
    if labels is not None and chosen < 1:
        interval = map_drop_interval(full, fused(outputs, looked_at(rule, outputs, chosen)), labels, resamples=RESAMPLES)
    ratios = (mine.mean_ms / whole.mean_ms, mine.p99_ms / whole.p99_ms)
    return Effort(chosen, mine.mean_looks, mine.map, drop, interval, *ratios, regions, images, batch, tuple(curve))
