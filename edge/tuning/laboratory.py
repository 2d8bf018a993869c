"""Builds and measures trials, and keeps them: a folder each, with the bundle, its outputs on the
validation images and ``result.json``.

A folder's name ends with a digest of all that decides what lies in it, so a later run, be it with
another budget, finds what it needs and never what belongs to something else. What was killed
half-way is done again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import adaptive, backends
from edge.atomic import write_atomically
from edge.backends.base import Facts
from edge.backends.onnxruntime import Session
from edge.bundle import REFERENCE, Bundle
from edge.data import Dataset, batches
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import Events
from edge.graph import Outputs
from edge.manifest import NAME, digest_json
from edge.measure.accuracy import map_drop_interval
from edge.measure.latency import Comparison
from edge.measure.outputs import collect
from edge.options import REPAIRS, BuildOptions
from edge.pipeline import build, rebuild
from edge.plain import from_plain, to_plain
from edge.tuning import timing
from edge.tuning.given import Given, fitted_on
from edge.tuning.search import BETTER, LATENCY, SAME, WORSE
from edge.tuning.store import read_outputs, recalled, remembered, write_outputs
from edge.tuning.trial import Candidate, Choice, Point, Trial
from edge.tuning.worth import RESAMPLES, Worth, mean_ap, scores_at, standard_error, worth

RESULT = "result.json"
OUTPUTS = "outputs.npz"
JUDGED, MORE_OUTPUTS = "judged.json", "outputs-more.npz"  # of more images
ENERGY_NOISE = 0.05


class RealLaboratory:
    """``edge.tuning.search.Laboratory`` on this machine."""

    def __init__(self, given: Given, first: Candidate, events: Events) -> None:
        self._given, self._first, self._events = given, first, events
        self._key = given.key(first)

    # What the search asks.

    def has(self, candidate: Candidate) -> bool:
        return self._kept(candidate) is not None

    def trial(self, candidate: Candidate) -> Trial:
        folder, kept = self.folder_of(candidate), self._kept(candidate)
        if kept is None:
            started = time.perf_counter()
            bundle = self._built(candidate)
            kept = replace(self._measured(candidate, bundle), seconds=time.perf_counter() - started)
            write_atomically(folder / RESULT, json.dumps(to_plain(kept), indent=1, allow_nan=False) + "\n")
        judged = recalled(folder / JUDGED) or {}
        later = [{**judged.get(f"{point.effort:g}", {}), **(recalled(_longer(folder, point)) or {})} for point in kept.points]
        return replace(kept, points=tuple(replace(point, **facts) for point, facts in zip(kept.points, later, strict=True)))

    def fp32_drop(self, candidate: Candidate) -> tuple[float, float]:
        if (candidate.size, candidate.regions) == (self._first.size, self._first.regions):
            return 0.0, 0.0
        found = remembered(self.folder_of(candidate) / "fp32.json", lambda: self._fp32_drop(candidate))
        return float(found["drop"]), float(found["error"])

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
        found = remembered(path, lambda: {"against": best.name, "ratios": self._duel(challenger, best, metric)})
        verdict = Comparison(tuple(found["ratios"])).verdict
        return {"faster": BETTER, "slower": WORSE}.get(verdict, SAME)

    def time_longer(self, choice: Choice) -> bool:
        path, given = _longer(self.folder_of(choice.trial.candidate), choice.point), self._given
        if recalled(path) is not None:
            return False
        with Engine.load(self.bundle_of(choice.trial.candidate), effort=1) as engine:
            seconds, _ = timing.timed(engine, given.images, given.batch, (choice.point.effort,), most=len(given.images))
        remembered(path, lambda: timing.figures(seconds[choice.point.effort], given.batch))
        return True

    def judge_longer(self, candidate: Candidate) -> bool:
        path, more = self.folder_of(candidate) / JUDGED, self._given.more
        if more is None or recalled(path) is not None:
            return False
        remembered(path, lambda: self._judged(candidate, more))
        return True

    # What the chosen one is made of.

    def folder_of(self, candidate: Candidate) -> Path:
        return self._given.folder / f"{candidate.name}-{self._key}"

    def bundle_of(self, candidate: Candidate) -> Path:
        return self.folder_of(candidate) / "bundle"

    def scores(self, choice: Choice) -> NDArray[np.float32]:
        """(N, C) of the validation images, at the choice's effort."""
        stages = Bundle.read(self.bundle_of(choice.trial.candidate)).stages
        return scores_at(self.outputs(choice.trial.candidate), None if stages is None else stages.rule, choice.point.effort)

    def outputs(self, candidate: Candidate) -> Outputs:
        """Of the validation images, of every region by itself where the engine has two stages.

        Raises:
            EdgeError: somebody removed or changed them.
        """
        folder = self.folder_of(candidate)
        kept = read_outputs(folder / OUTPUTS)
        if kept is None:
            raise EdgeError("tune", f"The trial {folder} has no valid {OUTPUTS}", "Remove the folder, and run edge.tune again")
        return kept

    def judged_on(self, candidate: Candidate) -> tuple[Outputs, Dataset]:
        """The outputs that its worth is told by, and of which images they are."""
        more = self._given.more
        kept = None if more is None else read_outputs(self.folder_of(candidate) / MORE_OUTPUTS)
        return (self.outputs(candidate), self._given.images) if more is None or kept is None else (kept, more)

    # Building.

    def _built(self, candidate: Candidate) -> Bundle:
        path = self.bundle_of(candidate)
        if (path / NAME).is_file():
            return Bundle.read(path)
        donor = self._donor(candidate)
        if donor is not None:  # neither exported nor calibrated again; its rule is of the same graph
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
            output=path,
            force=True,
        )
        decide = partial(self._ruled, candidate) if self._given.judged else adaptive.decide
        return build(options, events=self._events, decide=decide)

    def _ruled(self, candidate: Candidate, bundle: Bundle, *_: object) -> Facts:
        """The rule of the second pass, by the images that decide on everything else."""
        if bundle.stages is None:
            return {}
        from calib.effort import fit_effort

        with Engine.load(bundle.path) as engine:
            outputs = self._collected(engine, candidate)
        fitted = fit_effort(outputs, self._labels, bundle.image.size, effort=1.0, fitted_on=fitted_on(bundle, self._given.images))
        return adaptive.keys_of(bundle, bundle.stages, fitted)

    def _donor(self, candidate: Candidate) -> Path | None:
        """A bundle that differs in its backend only."""
        for backend in backends.BACKENDS:
            path = self.bundle_of(replace(candidate, backend=backend))
            if backend != candidate.backend and (path / NAME).is_file():
                same = backends.backend(backend).in_stages == backends.backend(candidate.backend).in_stages
                return path if same else None
        return None

    # Measuring.

    def _measured(self, candidate: Candidate, bundle: Bundle) -> Trial:
        given, images = self._given, self._given.images
        points: tuple[Worth, ...] = (Worth(1.0, None if candidate.regions is None else float(candidate.regions), math.nan, math.nan),)
        with Engine.load(bundle.path, effort=1) as engine:
            if given.judged:
                outputs = read_outputs(self.folder_of(candidate) / OUTPUTS) or self._collected(engine, candidate)
                rule = None if bundle.stages is None else bundle.stages.rule
                points = worth(outputs, self._labels, self._reference, rule, candidate.size)
            seconds, timed = timing.timed(engine, images, given.batch, [point.effort for point in points])
            joules = timing.energies(engine, images, given.batch) if "energy" in given.metrics else {}
        peak = timing.peak_mb(bundle, given.batch) if "peak_rss" in given.metrics else None
        return Trial(
            candidate,
            bundle.bytes / 1e6,
            peak,
            tuple(self._point(each, seconds[each.effort], _between(joules, each.looks, bundle)) for each in points),
            timed,
            0.0,
        )

    def _judged(self, candidate: Candidate, images: Dataset) -> Facts:
        """What it loses on more images, by effort, as a ``Point`` names it; its mAP is counted from
        that of the reference on the fewer, as all others are."""
        labels, reference = _labels(images), self._fp32(self._first, images, "fp32-more.npz")
        with Engine.load(self.bundle_of(candidate), effort=1) as engine:
            outputs, stages = self._run(engine, candidate, images), engine.bundle.stages
        write_outputs(self.folder_of(candidate) / MORE_OUTPUTS, outputs)
        found: Facts = {}
        exact, whole = mean_ap(reference, labels), mean_ap(self._reference, self._labels)
        for each in worth(outputs, labels, reference, None if stages is None else stages.rule, candidate.size):
            drop = exact - each.map
            found[f"{each.effort:g}"] = {"mean_looks": each.looks, "map": whole - drop, "map_drop": drop, "map_error": each.error}
        return found

    def _point(self, each: Worth, seconds: NDArray[np.float64], energy_mj: float | None) -> Point:
        judged = self._given.judged
        return Point(
            each.effort,
            each.looks,
            each.map if judged else None,
            mean_ap(self._reference, self._labels) - each.map if judged else None,
            **timing.figures(seconds, self._given.batch),
            map_error=each.error if judged else None,
            energy_mj=energy_mj,
        )

    def _collected(self, engine: Engine, candidate: Candidate) -> Outputs:
        """Outputs on the validation images, kept."""
        outputs = self._run(engine, candidate, self._given.images)
        write_outputs(self.folder_of(candidate) / OUTPUTS, outputs)
        return outputs

    def _run(self, engine: Engine, candidate: Candidate, images: Dataset) -> Outputs:
        infer = engine.infer if engine.bundle.stages is None else engine.infer_each
        with self._events.progress(candidate.name) as progress:
            return collect(infer, batches(images, engine.bundle.image, self._given.batch), len(images), progress=progress).outputs

    def _duel(self, challenger: Choice, best: Choice, metric: str) -> list[float]:
        given, pair = self._given, [(self.bundle_of(one.trial.candidate), one.point.effort) for one in (challenger, best)]
        return timing.duel(pair[0], pair[1], given.images, given.batch, metric)

    # Worth.

    @property
    def _labels(self) -> NDArray[np.int8]:
        return _labels(self._given.images)

    @cached_property
    def _reference(self) -> NDArray[np.float32]:
        """(N, C) scores of the given weights in FP32."""
        return self._fp32(self._first, self._given.images)

    def _fp32(self, candidate: Candidate, images: Dataset, name: str = "fp32.npz") -> NDArray[np.float32]:
        """(N, C) scores of a candidate's graph in FP32, kept beside its engine."""
        path = self.folder_of(candidate) / name
        kept = read_outputs(path)
        if kept is None:
            bundle = Bundle.read(self.bundle_of(candidate))
            session = Session(bundle.read_file(REFERENCE))
            with self._events.progress("reference") as progress:
                kept = collect(session, batches(images, bundle.image, 1), len(images), progress=progress).outputs
            write_outputs(path, {"scores": kept["scores"]})
        scores: NDArray[np.float32] = kept["scores"]
        return scores

    def _fp32_drop(self, candidate: Candidate) -> dict[str, float]:
        scores, labels = self._fp32(candidate, self._given.images), self._labels
        return {
            "drop": mean_ap(self._reference, labels) - mean_ap(scores, labels),
            "error": standard_error(self._reference, scores, labels),
        }

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


def _longer(folder: Path, point: Point) -> Path:
    """Where the latencies of a trial's effort are kept, once it was timed by itself."""
    return folder / f"longer-{point.effort:g}.json"


def _labels(images: Dataset) -> NDArray[np.int8]:
    assert images.labels is not None
    return images.labels


def _sign(difference: float) -> str:
    return SAME if difference == 0 else BETTER if difference < 0 else WORSE


def _between(joules: Mapping[float, float], looks: float | None, bundle: Bundle) -> float | None:
    """The energy of an effort: what looking takes goes with the number of regions."""
    if 0.0 not in joules or looks is None:
        return joules.get(1.0)
    return joules[0.0] + (joules[1.0] - joules[0.0]) * looks / int(bundle.model.options["regions"])
