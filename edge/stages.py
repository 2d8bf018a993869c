"""How the stages of an engine give one answer: sizes that were compiled, the choice of regions, the maximum over what was seen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edge.backends.base import DeviceArray, Facts, Native, Runner
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OWNER, REGION_SCORES, WHOLE
from edge.spec import StagesSpec, TargetSpec

Outputs = dict[str, np.ndarray]


@dataclass
class Timing:
    """Seconds inside each stage, by name; those of *closer* over all its calls."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, runner: Runner, inputs: Mapping[str, np.ndarray]) -> Outputs:
        start = time.perf_counter()
        outputs = runner.run(inputs)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return outputs


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

    def run(self, images: np.ndarray, timing: Timing | None = None) -> Outputs:
        """images: (B, 3, S, S) float32, B up to the largest batch → the outputs of ``Engine.infer``."""
        timing, count = timing or Timing(), len(images)
        size = next(size for size in self._batches if size >= count)
        if size > count:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), np.float32)])
        if self._spec is None:
            with self.runners[WHOLE].hold(images) as held:
                found = timing.run(WHOLE, self.runners[WHOLE], {INPUT: held})
            return {name: value[:count] for name, value in found.items()}
        return self._both(images, count, timing)

    def on_device(self, images: Native) -> Mapping[str, DeviceArray] | Outputs:
        """The same for an array on the GPU; the outputs of one stage stay there."""
        if self._spec is None:
            return self.runners[WHOLE].on_device(images)
        return self._both(images, None, Timing())

    def layers(self) -> Facts:
        """What the stages are made of, where their backend can tell: by stage where there are two."""
        told = {stage: runner.layers() for stage, runner in self.runners.items()}
        return told.get(WHOLE, {stage: facts for stage, facts in told.items() if facts})

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()

    def _both(self, images: Native, count: int | None, timing: Timing) -> Outputs:
        """*look*, then *closer*; the outputs of the first ``count`` images, or of all."""
        with self.runners[LOOK].hold(images) as held:
            found = timing.run(LOOK, self.runners[LOOK], {INPUT: held})
            found = {name: value[:count] for name, value in found.items()}
            batch, regions, _ = found["regions"].shape
            owner = np.arange(batch, dtype=np.int32).repeat(regions)
            scores = self._region_scores(held, found["regions"].reshape(-1, 4), owner, timing)
        local = scores.reshape(batch, regions, -1).max(1)
        return {"scores": np.maximum(found["global_scores"], local), "local_scores": local, **found}

    def _region_scores(self, images: Native, boxes: np.ndarray, owner: np.ndarray, timing: Timing) -> np.ndarray:
        """boxes (R, 4), owner (R) → (R, C) float32, in the sizes that *closer* was compiled for."""
        assert self._spec is not None
        sizes, scores = self._spec.sizes, []
        for start in range(0, len(owner), sizes[-1]):
            given = {BOXES: boxes[start : start + sizes[-1]], OWNER: owner[start : start + sizes[-1]]}
            count = len(given[OWNER])
            size = next(size for size in sizes if size >= count)
            if size > count:  # the last region again: any valid one would do
                given = {name: np.concatenate([value, value[-1:].repeat(size - count, 0)]) for name, value in given.items()}
            scores.append(timing.run(CLOSER, self.runners[CLOSER], {INPUT: images, **given})[REGION_SCORES][:count])
        return np.concatenate(scores)
