"""The engine: a loaded bundle, from images to labels and regions."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from edge import backends
from edge.backends.base import Facts
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.fit import check_fit, check_form, checked_batch
from edge.graph import Graph
from edge.image import Source, boxes_to_photo, decode_resized, is_one_image, normalise
from edge.manifest import REBUILD, fits
from edge.prediction import Prediction, Region
from edge.process import PROCESS
from edge.spec import ModelSpec, TargetSpec
from edge.stages import Spend, Stages, Timing

DECISION_THRESHOLD = 0.5


class Engine:
    """A loaded engine bundle.

    One engine may be used from many threads. Use it as a context manager, or call ``close``.

        with Engine.load("engines/mcar-mobilenetv2-ucmerced-256-int8-openvino") as engine:
            predictions = engine.predict(["photo.jpg"])
    """

    def __init__(self, bundle: Bundle, stages: Stages, effort: float | None = None) -> None:
        self.bundle = bundle
        self.effort = self._checked_effort(effort, "load")  # of calls that name none
        self._tells = effort is not None or self.effort < 1  # whether those say what was looked at
        self._stages: Stages | None = stages
        self._calls = 0  # under way; close waits for them
        self._changed = threading.Condition()
        PROCESS.engines.add(self)

    @classmethod
    def load(cls, path: Path | str, *, effort: float | None = None, cuda: str = "bindings") -> Engine:
        """Load a bundle after checking its digests and that it fits this machine.

        Args:
            effort: for calls that set none: 0 (no region is processed) to 1 (every region);
                default: the bundle's own.
            cuda: for engines on a GPU: ``bindings`` (cuda-bindings), or ``pycuda`` in the current
                context.

        Raises:
            EdgeError: the bundle is damaged, was built for another backend or device, or the
                backend is missing; the message says why and what to do.
        """
        PROCESS.check("load")
        bundle, payload = Bundle.load(path)
        PROCESS.claim()  # from here on the vendor library may start threads
        check_fit(bundle)
        backend = backends.backend(bundle.target.backend)
        if cuda != "bindings" and not backend.on_gpu:
            raise EdgeError(
                "load", f"`cuda` is {cuda!r}, which needs an engine on a GPU; this one runs on {bundle.target.backend}", "Leave it out"
            )
        return cls._checked_form(bundle, backend.open(payload, bundle.target, bundle.manifest["engine"], cuda=cuda), effort)

    @classmethod
    def from_lowered(cls, lowered: Mapping[str, bytes], graph: Graph, target: TargetSpec, folder: Path) -> Engine:
        """An engine without a bundle, for trials: built into ``folder`` (which the caller removes)
        and opened.

        Args:
            lowered: what the backend parses, by stage.
            graph: what it was lowered from.
        """
        backend = backends.backend(target.backend)
        stages = backends.stages_of(backend, lowered, graph.model, target)
        facts = backend.build(lowered, target, stages, folder)
        bundle = Bundle(folder, {"engine": facts, "files": {}}, graph.model, graph.image, target, stages)
        return cls._checked_form(bundle, backends.open_built(backend, folder, target, facts))

    @classmethod
    def _checked_form(cls, bundle: Bundle, runners: Mapping[str, backends.Runner], effort: float | None = None) -> Engine:
        stages = Stages(runners, bundle.target, bundle.stages)
        try:
            check_form(bundle, {stage: runner.forms() for stage, runner in runners.items()})
            return cls(bundle, stages, effort)
        except BaseException:
            stages.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """The model's ``ModelSpec``."""
        return self.bundle.model

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.bundle.model.labels

    def infer(
        self, batch: np.ndarray, *, effort: float | None = None, budget_ms: float | None = None, timing: Timing | None = None
    ) -> dict[str, np.ndarray]:
        """Run a batch of any size up to the bundle's largest; it is padded to the next compiled
        size.

        Args:
            batch: (B, 3, S, S) float32, normalised as in ``bundle.image``; if its ``input`` is
                uint8, (B, S, S, 3) uint8 RGB. An engine on a GPU also takes arrays there
                (``__cuda_array_interface__`` or DLPack); the images then never pass through the
                host. An engine with one stage leaves its outputs on the GPU, where this thread's
                next call overwrites them; with two stages they come to the host. Values must be
                finite: with NaN or infinity the scores are undefined and may look plausible (int8
                saturates).
            effort: 0 to 1, the mean share of regions that the second pass processes; default: the
                engine's own.
            budget_ms: milliseconds from the start of the call. The first stage always runs; a chunk
                of the second starts only if its median time on this machine still fits, the most
                promising regions first. The first such call, or the first with an effort between 0
                and 1, times the stages before it starts.
            timing: receives the seconds spent in each stage.

        Returns:
            ``scores``, ``global_scores``, ``local_scores``: (B, C) float32 in [0, 1];
            ``regions``: (B, K, 4) float32, x1 y1 x2 y2 in model-input pixels, x2/y2 exclusive;
            ``region_classes``: (B, K) int64. A model without a stage omits its keys. With an effort
                or a budget, here, in ``load`` or below 1 in the bundle, there is also
                ``regions_looked`` (B, K) bool; ``local_scores`` are 0 for an image of which no
                region was processed.
        """
        spend = replace(self._spend(effort, budget_ms), tell=self._tells or effort is not None or budget_ms is not None)
        return self._run(batch, spend, timing)

    def infer_each(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of ``infer`` at effort 1, and ``region_scores``: (B, K, C) float32, the
        scores of each region."""
        return self._run(batch, Spend(each=True))

    def _run(self, batch: np.ndarray, spend: Spend, timing: Timing | None = None) -> dict[str, np.ndarray]:
        with self._changed:
            if self._stages is None:
                PROCESS.check("infer")
                raise EdgeError("infer", "The engine is closed", "Load it again")
            stages = self._stages
            self._calls += 1
        try:
            return (
                self._on_device(stages, batch, spend)
                if backends.on_device(batch)
                else stages.run(checked_batch(batch, self.bundle), timing, spend)
            )
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _spend(self, effort: float | None, budget_ms: float | None) -> Spend:
        """What a call may spend; its budget starts now."""
        chosen = self.effort if effort is None else self._checked_effort(effort, "infer")
        if budget_ms is None:
            return Spend(chosen)
        now = time.perf_counter()
        if self.bundle.stages is None:
            raise EdgeError("infer", f"`budget_ms` is {budget_ms!r}, but this engine has no second stage", "Leave it out")
        if not fits(budget_ms, 0, math.inf, (int, float)) or not 0 < budget_ms < math.inf:
            raise EdgeError("infer", f"`budget_ms` is {budget_ms!r}", "Use a positive number of milliseconds")
        return Spend(chosen, now + budget_ms / 1e3)

    def _checked_effort(self, effort: float | None, stage: str) -> float:
        if effort is None:
            return self.bundle.stages.effort if self.bundle.stages else 1.0
        if not fits(effort, 0, 1, (int, float)):
            raise EdgeError(stage, f"`effort` is {effort!r}", "Use a value from 0 (no region) to 1 (every region)")
        if self.bundle.stages is None and effort != 1:
            raise EdgeError(stage, f"`effort` is {effort!r}, but this engine has no second stage", "Leave it out, or set it to 1")
        return float(effort)

    def predict(
        self,
        images: Any,
        *,
        score_threshold: float | None = None,
        effort: float | None = None,
        budget_ms: float | None = None,
        approximate_pixels: bool = False,
    ) -> list[Prediction]:
        """Decode, resize, normalise and classify images, in batches of at most the bundle's
        largest.

        Args:
            images: one image, or any iterable of them: paths, the bytes of files, open binary
                files, PIL images, or (H, W, 3) uint8 RGB arrays.
            score_threshold: one label threshold for all classes, 0 to 1; default: the bundle's own,
                else 0.5.
            effort: as in ``infer``.
            budget_ms: for the whole call, including decoding.
            approximate_pixels: decode and resize large photos faster, to pixels that differ
                slightly from those of training (``edge.image.decode_resized``); docs/embedding.md
                says what it costs.

        Returns:
            A prediction for each image, in order; a list of one for a single image.
        """
        if score_threshold is not None and not (isinstance(score_threshold, Real) and 0 <= score_threshold <= 1):
            raise EdgeError("infer", f"`score_threshold` is {score_threshold!r}", "Use a value from 0 to 1")
        spend = self._spend(effort, budget_ms)
        thresholds = self.thresholds(spend.effort, score_threshold)
        predictions: list[Prediction] = []
        step = self.bundle.target.max_batch
        waiting = iter([images] if is_one_image(images) else images)
        batch = np.empty((step, *self.bundle.image.shape), self.bundle.image.input)
        while sizes := [self._take(photo, row, approximate_pixels) for row, photo in zip(batch, waiting, strict=False)]:
            outputs = self._run(batch[: len(sizes)], spend)
            self._check_classes(outputs)
            predictions += [self._prediction(outputs, index, size, thresholds) for index, size in enumerate(sizes)]
        return predictions

    def _take(self, photo: Source, row: np.ndarray, approximate: bool) -> tuple[int, int]:
        """Write a photograph into its row of the batch; its width and height."""
        image = self.bundle.image
        pixels, size = decode_resized(photo, image.size, approximate=approximate)
        normalise(pixels, image, out=row)
        return size

    def thresholds(self, effort: float | None = None, score_threshold: float | None = None) -> np.ndarray:
        """(C,) float32, the label thresholds: ``score_threshold``, else those fitted at effort 1 or
        at the bundle's, whichever is nearer."""
        if score_threshold is not None:
            return np.full(len(self.labels), score_threshold, np.float32)
        effort = self.effort if effort is None else effort
        stages, own = self.bundle.stages, self.bundle.model.thresholds
        if stages is not None and stages.thresholds and effort < (1 + stages.effort) / 2:
            own = stages.thresholds
        return np.asarray(own or (DECISION_THRESHOLD,) * len(self.labels), np.float32)

    def _prediction(self, outputs: Mapping[str, np.ndarray], index: int, photo: tuple[int, int], thresholds: np.ndarray) -> Prediction:
        scores = outputs["scores"][index]
        order = np.argsort(-scores, kind="stable")
        labels = [(self.labels[c], float(scores[c])) for c in order if scores[c] >= thresholds[c]]
        regions = []
        if "regions" in outputs:
            boxes = boxes_to_photo(outputs["regions"][index], self.bundle.image.size, *photo)
            classes = outputs["region_classes"][index]
            looked = outputs.get("regions_looked", np.ones((index + 1, len(classes)), bool))[index]
            for box, c, seen in zip(boxes.tolist(), classes.tolist(), looked.tolist(), strict=True):
                regions.append(Region(tuple(box), self.labels[c], float(scores[c]), seen))
        return Prediction(scores.copy(), labels, regions)

    def _check_classes(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Check what only shows in the outputs."""
        classes = outputs.get("region_classes")
        if classes is not None and classes.size and not 0 <= classes.min() <= classes.max() < len(self.labels):
            got = f"{classes.min()} to {classes.max()}"
            raise EdgeError(
                "infer", f"The engine returned class indices {got} for regions; the bundle has {len(self.labels)} classes", REBUILD
            )

    @property
    def runners(self) -> Mapping[str, backends.Runner]:
        """The runners of its stages, by name; none once it is closed."""
        return self._stages.runners if self._stages is not None else {}

    def layers(self) -> Facts:
        """What the engine consists of, if the backend can tell: layers, precisions, reformats,
        casts, share of int8."""
        return self._stages.layers() if self._stages is not None else {}

    def _on_device(self, stages: Stages, batch: Any, spend: Spend) -> Facts:
        if not backends.backend(self.bundle.target.backend).on_gpu:
            raise EdgeError(
                "infer",
                f"Device arrays need an engine on a GPU, and this one runs on {self.bundle.target.backend}",
                "Copy it to the host, or build with `backend` tensorrt or tensorrt-rtx",
            )
        return dict(stages.on_device(batch, spend))

    def close(self) -> None:
        """Release the engine once running calls have finished; further calls are refused."""
        with self._changed:
            stages, self._stages = self._stages, None
            self._changed.wait_for(lambda: not self._calls)
        if stages is not None:
            stages.close()

    def abandon(self) -> None:
        """In a forked child: close the engine without destroying it, which would wait for threads
        that no longer exist."""
        self._changed = threading.Condition()  # the old one may be held by one of them
        self._calls = 0
        if self._stages is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._stages))
            self._stages = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
