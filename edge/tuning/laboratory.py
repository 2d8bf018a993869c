"""Builds and measures trials, and keeps them: a folder each, with the bundle, its outputs on the
validation images and ``result.json``.

A folder's name ends with a digest of all that decides what lies in it, so a later run, be it with
another budget, finds what it needs and never what belongs to something else. What was killed
half-way is done again.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import __version__, backends
from edge.atomic import write_atomically
from edge.backends.base import Facts
from edge.backends.onnxruntime import Session
from edge.bundle import REFERENCE, Bundle
from edge.data import batches
from edge.effort import fused, looked_at
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import Events
from edge.graph import Outputs
from edge.manifest import NAME, digest_json
from edge.measure.accuracy import average_precision, map_drop_interval
from edge.measure.effort import efforts_of
from edge.measure.latency import Comparison
from edge.measure.outputs import collect
from edge.options import AUTO, REPAIRS, BuildOptions
from edge.pipeline import build, rebuild
from edge.plain import from_plain, to_plain
from edge.tuning import timing
from edge.tuning.given import Given
from edge.tuning.search import BETTER, LATENCY, SAME, WORSE
from edge.tuning.trial import Candidate, Choice, Point, Trial

RESULT = "result.json"
OUTPUTS = "outputs.npz"
RESAMPLES = 500
ENERGY_NOISE = 0.05


class RealLaboratory:
    """``edge.tuning.search.Laboratory`` on this machine."""

    def __init__(self, given: Given, first: Candidate, events: Events) -> None:
        self._given, self._first, self._events = given, first, events
        options = given.options
        read = ("model", "labels", "threshold", "pooling", "dataset", "calib_method", "calib_images", "repair", "seed")
        self._key = digest_json(
            {
                "version": __version__,
                "weights": given.digest,
                "images": given.images.digest,
                "batch": given.batch,
                "own": [first.size, first.regions],
                "options": {name: str(vars(options)[name]) for name in read},
                "machine": [
                    [name, support.version, support.device] for name in backends.BACKENDS if not (support := backends.probe(name)).reason
                ],
            }
        )[:8]

    # What the search asks.

    def has(self, candidate: Candidate) -> bool:
        return self._kept(candidate) is not None

    def trial(self, candidate: Candidate) -> Trial:
        folder, kept = self.folder_of(candidate), self._kept(candidate)
        if kept is not None:
            return kept
        started = time.perf_counter()
        bundle = self._built(candidate)
        trial = replace(self._measured(candidate, bundle, folder), seconds=time.perf_counter() - started)
        write_atomically(folder / RESULT, json.dumps(to_plain(trial), indent=1, allow_nan=False) + "\n")
        return trial

    def least_drop(self, candidate: Candidate) -> float:
        if (candidate.size, candidate.regions) == (self._first.size, self._first.regions):
            return 0.0
        labels = self._labels
        found = self._remembered(self.folder_of(candidate) / "fp32.json", lambda: self._fp32_drop(candidate, labels))
        return float(found["low"])

    def compare(self, challenger: Choice, best: Choice, metric: str) -> str:
        if metric == "size":
            return _sign(challenger.trial.size_mb - best.trial.size_mb)
        if metric == "energy":
            one, other = challenger.point.energy_mj or 0.0, best.point.energy_mj or 0.0
            return SAME if abs(one - other) <= ENERGY_NOISE * max(one, other) else _sign(one - other)
        if metric == "map_drop":
            low, high = map_drop_interval(self.scores(best), self.scores(challenger), self._labels, resamples=RESAMPLES)
            return SAME if low <= 0 <= high else _sign(low)
        assert metric in LATENCY
        name = f"against-{digest_json([best.trial.candidate.name, best.point.effort, challenger.point.effort, metric])[:8]}.json"
        path = self.folder_of(challenger.trial.candidate) / name
        found = self._remembered(path, lambda: {"against": best.name, "ratios": self._duel(challenger, best, metric)})
        verdict = Comparison(tuple(found["ratios"])).verdict
        return {"faster": BETTER, "slower": WORSE}.get(verdict, SAME)

    # What the chosen one is made of.

    def folder_of(self, candidate: Candidate) -> Path:
        return self._given.folder / f"{candidate.name}-{self._key}"

    def bundle_of(self, candidate: Candidate) -> Path:
        return self.folder_of(candidate) / "bundle"

    def scores(self, choice: Choice) -> NDArray[np.float32]:
        """(N, C) of the validation images, at the choice's effort."""
        outputs = self._outputs(self.folder_of(choice.trial.candidate))
        return self._scores_at(Bundle.read(self.bundle_of(choice.trial.candidate)), outputs, choice.point.effort)

    # Building.

    def _built(self, candidate: Candidate) -> Bundle:
        path = self.bundle_of(candidate)
        if (path / NAME).is_file():
            return Bundle.read(path)
        donor = self._donor(candidate)
        if donor is not None:  # neither exported nor calibrated again
            return rebuild(
                donor, BuildOptions(backend=candidate.backend, batch=self._given.batch, output=path, force=True), events=self._events
            )
        options = replace(
            self._given.options,
            backend=candidate.backend,
            precision=candidate.precision,
            size=candidate.size,
            regions=candidate.regions,
            batch=self._given.batch,
            max_map_drop=candidate.max_map_drop,
            repair=self._given.options.repair if candidate.precision == "int8" else REPAIRS,  # the default, which no other reads
            effort=AUTO if self._given.judged and self._given.staged and backends.backend(candidate.backend).in_stages else None,
            output=path,
            force=True,
        )
        return build(options, events=self._events)

    def _donor(self, candidate: Candidate) -> Path | None:
        """A bundle that differs in its backend only."""
        for backend in backends.BACKENDS:
            path = self.bundle_of(replace(candidate, backend=backend))
            if backend != candidate.backend and (path / NAME).is_file():
                same = backends.backend(backend).in_stages == backends.backend(candidate.backend).in_stages
                return path if same else None
        return None

    # Measuring.

    def _measured(self, candidate: Candidate, bundle: Bundle, folder: Path) -> Trial:
        given, images = self._given, self._given.images
        outputs: Outputs = {}
        with Engine.load(bundle.path, effort=1) as engine:
            efforts = efforts_of(bundle.stages.effort) if bundle.stages is not None and given.judged else (1.0,)
            seconds, timed = timing.timed(engine, images, given.batch, efforts)
            if given.judged:
                with self._events.progress(candidate.name) as progress:
                    infer = engine.infer if bundle.stages is None else engine.infer_each
                    outputs = collect(infer, batches(images, bundle.image, given.batch), len(images), progress=progress).outputs
            joules = timing.energies(engine, images, given.batch) if "energy" in given.metrics else {}
        if given.judged:
            _write_outputs(folder / OUTPUTS, outputs)
        reference = self._reference if given.judged else None
        points = []
        for effort in efforts:
            ms = seconds[effort] * 1e3
            worth = None if reference is None else self._map(self._scores_at(bundle, outputs, effort))
            looks = None if candidate.regions is None else float(candidate.regions)
            if bundle.stages is not None and given.judged:
                looks = float(looked_at(bundle.stages.rule, outputs, effort).sum(1).mean())
            p50, p90, p99 = np.percentile(ms, (50, 90, 99)).tolist()
            points.append(
                Point(
                    effort,
                    looks,
                    worth,
                    None if worth is None or reference is None else self._map(reference) - worth,
                    float(ms.mean()),
                    p50,
                    p90,
                    p99,
                    throughput=1e3 * given.batch / float(ms.mean()),
                    energy_mj=_between(joules, looks, bundle),
                )
            )
        peak = timing.peak_mb(bundle, given.batch) if "peak_rss" in given.metrics else None
        return Trial(candidate, bundle.bytes / 1e6, peak, tuple(points), timed, 0.0)

    def _duel(self, challenger: Choice, best: Choice, metric: str) -> list[float]:
        given, pair = self._given, [(self.bundle_of(one.trial.candidate), one.point.effort) for one in (challenger, best)]
        return timing.duel(pair[0], pair[1], given.images, given.batch, metric)

    # Worth.

    @property
    def _labels(self) -> NDArray[np.int8]:
        labels = self._given.images.labels
        assert labels is not None
        return labels

    @cached_property
    def _reference(self) -> NDArray[np.float32]:
        """(N, C) scores of the given weights in FP32."""
        return self._fp32(self._first)

    def _fp32(self, candidate: Candidate) -> NDArray[np.float32]:
        """(N, C) scores of a candidate's graph in FP32, kept beside its engine."""
        path = self.folder_of(candidate) / "fp32.npz"
        kept = _read_outputs(path)
        if kept is None:
            bundle = Bundle.read(self.bundle_of(candidate))
            session = Session(bundle.read_file(REFERENCE))
            with self._events.progress("reference") as progress:
                kept = collect(session, batches(self._given.images, bundle.image, 1), len(self._given.images), progress=progress).outputs
            _write_outputs(path, {"scores": kept["scores"]})
        scores: NDArray[np.float32] = kept["scores"]
        return scores

    def _fp32_drop(self, candidate: Candidate, labels: NDArray[np.int8]) -> dict[str, float]:
        scores = self._fp32(candidate)
        low, high = map_drop_interval(self._reference, scores, labels, resamples=RESAMPLES)
        return {"drop": self._map(self._reference) - self._map(scores), "low": low, "high": high}

    def _map(self, scores: NDArray[np.float32]) -> float:
        return 100 * float(average_precision(scores, self._labels).mean())

    def _scores_at(self, bundle: Bundle, outputs: Outputs, effort: float) -> NDArray[np.float32]:
        if bundle.stages is None:
            whole: NDArray[np.float32] = outputs["scores"]
            return whole
        return fused(outputs, looked_at(bundle.stages.rule, outputs, effort))

    # What earlier runs left.

    def _kept(self, candidate: Candidate) -> Trial | None:
        """What an earlier run found, if that is all this budget asks for."""
        folder, metrics = self.folder_of(candidate), self._given.metrics
        try:
            trial = from_plain(Trial, json.loads((folder / RESULT).read_bytes()))
        except (OSError, ValueError):
            return None
        complete = (
            (folder / "bundle" / NAME).is_file(),
            "peak_rss" not in metrics or trial.peak_rss_mb is not None,
            "energy" not in metrics or all(point.energy_mj is not None for point in trial.points),
        )
        return trial if all(complete) else None

    def _outputs(self, folder: Path) -> Outputs:
        kept = _read_outputs(folder / OUTPUTS)
        if kept is None:
            raise EdgeError("tune", f"The trial {folder} has no valid {OUTPUTS}", "Remove the folder, and run edge.tune again")
        return kept

    def _remembered(self, path: Path, make: Callable[[], Facts]) -> Facts:
        """A measurement of an earlier run, so that one that was killed chooses the same."""
        try:
            found: Facts = json.loads(path.read_bytes())
        except (OSError, ValueError):
            found = make()
            write_atomically(path, json.dumps(found) + "\n")
        return found


def _sign(difference: float) -> str:
    return SAME if difference == 0 else BETTER if difference < 0 else WORSE


def _between(joules: Mapping[float, float], looks: float | None, bundle: Bundle) -> float | None:
    """The energy of an effort: what looking takes goes with the number of regions."""
    if 0.0 not in joules or looks is None:
        return joules.get(1.0)
    return joules[0.0] + (joules[1.0] - joules[0.0]) * looks / int(bundle.model.options["regions"])


def _write_outputs(path: Path, outputs: Outputs) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, **outputs)  # type: ignore[arg-type]
    write_atomically(path, packed.getvalue())


def _read_outputs(path: Path) -> Outputs | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError):
        return None
