"""Runs the stages of an engine: compiled sizes, the choice of regions, the maximum of the
scores."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from edge.backends.base import DeviceArray, Facts, Native, Runner
from edge.effort import needs
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OWNER, REGION_SCORES, WHOLE
from edge.spec import StagesSpec, TargetSpec

Outputs = dict[str, np.ndarray]
PACE_CALLS = 3  # of each size, before the first call with a budget
PACE_KEPT = 25  # calls that a median is of


@dataclass(frozen=True)
class Spend:
    """What one call may spend on the second pass.

    Attributes:
        effort: 0..1, the share of regions processed on the images the rule was fitted on; 1: all.
        deadline: no chunk of *closer* starts that would end later, in seconds of
            ``time.perf_counter``; None: no deadline.
        tell: also return ``regions_looked`` (B, K).
        each: also return ``region_scores`` (B, K, C), the scores of each region, 0 if it was not
            processed.
    """

    effort: float = 1.0
    deadline: float | None = None
    tell: bool = True
    each: bool = False


ALL = Spend()


@dataclass
class Timing:
    """Seconds inside each stage, by name; those of *closer* over all its calls."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, runner: Runner, inputs: Mapping[str, np.ndarray]) -> Outputs:
        start = time.perf_counter()
        outputs = runner.run(inputs)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return outputs


class Pace:
    """How long *closer* takes here: the median of its latest calls, by the number of regions it is
    compiled for."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}

    def add(self, size: int, seconds: float) -> None:
        self._seconds.setdefault(size, deque(maxlen=PACE_KEPT)).append(seconds)

    def knows(self, size: int) -> bool:
        return len(self._seconds.get(size, ())) >= PACE_CALLS  # one alone may have compiled it

    def of(self, size: int) -> float:
        """Seconds of a call for so many regions."""
        return median(tuple(self._seconds[size]))


def chunk_size(sizes: Sequence[int], left: int, pads: bool) -> int:
    """The compiled size for the next chunk: the next larger; or, if padding is not free (``pads``)
    and would add more than a quarter, the next smaller: two and one are faster than four for three
    regions."""
    padded = next((size for size in sizes if size >= left), sizes[-1])
    smaller = [size for size in sizes if size < left]
    return smaller[-1] if smaller and not pads and 4 * (padded - left) > left else padded


class Stages:
    """The stages of a loaded engine.

    Args:
        runners: by stage, as ``Backend.open`` gives them.
        spec: of a model that runs in two.
    """

    def __init__(self, runners: Mapping[str, Runner], target: TargetSpec, spec: StagesSpec | None) -> None:
        self.runners = dict(runners)
        self._batches = target.batches
        self._spec = spec
        self._pace = Pace()

    def run(self, images: np.ndarray, timing: Timing | None = None, spend: Spend = ALL) -> Outputs:
        """images: (B, 3, S, S) float32, B up to the largest batch → the outputs of
        ``Engine.infer``."""
        timing, count = timing or Timing(), len(images)
        size = next(size for size in self._batches if size >= count)
        if size > count:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        if self._spec is None:
            with self.runners[WHOLE].hold(images) as held:
                found = timing.run(WHOLE, self.runners[WHOLE], {INPUT: held})
            return {name: value[:count] for name, value in found.items()}
        return self._both(images, count, timing, spend)

    def on_device(self, images: Native, spend: Spend = ALL) -> Mapping[str, DeviceArray] | Outputs:
        """The same for an array on the GPU; the outputs of one stage stay there."""
        if self._spec is None:
            return self.runners[WHOLE].on_device(images)
        return self._both(images, None, Timing(), spend)

    def layers(self) -> Facts:
        """What the stages are made of, where their backend can tell: by stage where there are
        two."""
        told = {stage: runner.layers() for stage, runner in self.runners.items()}
        return told.get(WHOLE, {stage: facts for stage, facts in told.items() if facts})

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()

    def _both(self, images: Native, count: int | None, timing: Timing, spend: Spend) -> Outputs:
        """*look*, then *closer*; the outputs of the first ``count`` images, or of all."""
        assert self._spec is not None
        with self.runners[LOOK].hold(images) as held:
            found = timing.run(LOOK, self.runners[LOOK], {INPUT: held})
            found = {name: value[:count] for name, value in found.items()}
            batch, regions, _ = found["regions"].shape
            deadline, waited = spend.deadline, 0.0
            if deadline is not None or 0 < spend.effort < 1:
                waited = self._measure_pace(held)
            if deadline is not None:
                deadline += waited
            chosen = self._chosen(found, spend.effort, in_order=deadline is None)
            boxes, owner = found["regions"].reshape(-1, 4)[chosen], (chosen // regions).astype(np.int32)
            scores = self._region_scores(held, boxes, owner, timing, deadline)
        chosen = chosen[: len(scores)]
        each = np.zeros((batch * regions, found["global_scores"].shape[1]), np.float32)
        each[chosen] = scores
        looked = np.zeros(batch * regions, bool)
        looked[chosen] = True
        local = each.reshape(batch, regions, -1).max(1)
        outputs = {"scores": np.maximum(found["global_scores"], local), "local_scores": local, **found}
        if spend.tell:
            outputs["regions_looked"] = looked.reshape(batch, regions)
        return {**outputs, REGION_SCORES: each.reshape(batch, regions, -1)} if spend.each else outputs

    def _chosen(self, found: Outputs, effort: float, *, in_order: bool) -> np.ndarray:
        """(R,) int64: the regions to process, numbered through the batch, in order or the most
        promising first."""
        assert self._spec is not None
        if effort >= 1 and in_order:
            return np.arange(found["region_classes"].size)
        need = needs(self._spec.rule, found).ravel()
        chosen = np.arange(need.size) if effort >= 1 else np.flatnonzero(need <= effort)
        return chosen if in_order else chosen[np.argsort(need[chosen], kind="stable")]

    def _region_scores(self, images: Native, boxes: np.ndarray, owner: np.ndarray, timing: Timing, deadline: float | None) -> np.ndarray:
        """boxes (R, 4), owner (R) → (R, C) float32, in the compiled sizes of *closer*; fewer if
        time runs out."""
        assert self._spec is not None
        sizes, scores, start = self._spec.sizes, [], 0
        while start < len(owner):
            left = len(owner) - start
            size = chunk_size(sizes, left, self.runners[CLOSER].pads)
            if deadline is not None:
                now = time.perf_counter()
                fitting = [each for each in sizes if each <= size and now + self._pace.of(each) <= deadline]
                if not fitting:
                    break
                size = fitting[-1]
            end = min(start + size, len(owner))
            scores.append(self._closer(images, boxes[start:end], owner[start:end], size, timing))
            start = end
        return np.concatenate(scores) if scores else np.zeros((0, 1), np.float32)

    def _closer(self, images: Native, boxes: np.ndarray, owner: np.ndarray, size: int, timing: Timing) -> np.ndarray:
        """One call of *closer* → (R, C); padded up to ``size``."""
        count, given = len(owner), {BOXES: boxes, OWNER: owner}
        if size > count:  # the last region again: any valid one would do
            given = {name: np.concatenate([value, value[-1:].repeat(size - count, 0)]) for name, value in given.items()}
        start = time.perf_counter()
        scores = timing.run(CLOSER, self.runners[CLOSER], {INPUT: images, **given})[REGION_SCORES][:count]
        self._pace.add(size, time.perf_counter() - start)
        return scores

    def _measure_pace(self, images: Native) -> float:
        """Compile and time the sizes that have not run yet; returns the seconds.

        A budget needs these times, and if images decide which sizes run, only the first call should
        wait.
        """
        assert self._spec is not None
        start = time.perf_counter()
        for size in self._spec.sizes:
            if not self._pace.knows(size):
                boxes = np.tile(np.array([0, 0, 32, 32], np.float32), (size, 1))  # no image is smaller
                self.runners[CLOSER].run({INPUT: images, BOXES: boxes, OWNER: np.zeros(size, np.int32)})  # compiles
                for _ in range(PACE_CALLS):
                    self._closer(images, boxes, np.zeros(size, np.int32), size, Timing())
        return time.perf_counter() - start
