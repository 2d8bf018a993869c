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
            looked = np.ones(found["regions"].shape[:2], bool)
            scores = self._region_scores(held, found["regions"], looked, timing)
        local = np.zeros_like(found["global_scores"])  # below every score: where nothing was looked at, the first pass decides
        np.maximum.at(local, np.nonzero(looked)[0], scores)
        return {"scores": np.maximum(found["global_scores"], local), "local_scores": local, **found}

    def _region_scores(self, images: Native, regions: np.ndarray, looked: np.ndarray, timing: Timing) -> np.ndarray:
        """regions (B, K, 4), looked (B, K) bool → (R, C) float32 of the R regions that are looked at, image by image."""
        assert self._spec is not None
        owner, boxes = np.nonzero(looked)[0].astype(np.int32), regions[looked]
        sizes, scores = self._spec.sizes, []
        for start in range(0, len(owner), sizes[-1]):
            count = min(sizes[-1], len(owner) - start)
            size = next(size for size in sizes if size >= count)
            # Padding repeats the last region: any valid one does.
            rows = np.minimum(np.arange(start, start + size), start + count - 1)
            given = {INPUT: images, BOXES: boxes[rows], OWNER: owner[rows]}
            scores.append(timing.run(CLOSER, self.runners[CLOSER], given)[REGION_SCORES][:count])
        return np.concatenate(scores)
