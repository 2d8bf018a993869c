"""Bundle + images → everything that is measured of one engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge import backends
from edge.bundle import REFERENCE, Bundle
from edge.data import Dataset, batches
from edge.engine import Engine
from edge.events import Events
from edge.graph import Outputs
from edge.image import preprocess
from edge.measure import energy, latency, load, machine, memory, quality, stages
from edge.measure.causes import Causes, causes
from edge.measure.effort import Effort, efforts_of, judge_effort, time_efforts
from edge.measure.outputs import cached, collect, sample
from edge.measure.quality import Gain, Sensitivity
from edge.measure.regions import Drift, drift
from edge.report.options import BenchOptions
from edge.report.page import Photo, photos
from edge.report.result import Memory, Result, Run
from edge.spec import ImageSpec, to_plain
from edge.stages import Timing

STAGE_IMAGES = 16
REFERENCE_BATCH = 1  # so that a bench takes no more memory for the reference than one image needs


@dataclass(frozen=True)
class Judge:
    """The images an engine is judged on, their columns in the bundle's order, and what the user
    should know about them.

    Attributes:
        dataset: None for latency and memory only.
    """

    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()

    def labelled(self, bundle: Bundle) -> bool:
        """Whether there are labels of the bundle's classes."""
        dataset = self.dataset
        return dataset is not None and dataset.labels is not None and tuple(dataset.classes) == tuple(bundle.model.labels)


@dataclass(frozen=True)
class Judged:
    """What the images showed, and the engine's own peak of memory when it had seen them."""

    peak_rss: float | None
    accuracy: quality.Quality | None = None
    regions: Drift | None = None
    effort: Effort | None = None
    photos: tuple[Photo, ...] = ()
    notes: tuple[str, ...] = ()


def bench_engine(
    bundle: Bundle, sizes: Sequence[int], judge: Judge, options: BenchOptions, events: Events
) -> tuple[Result, tuple[Photo, ...]]:
    """Everything about one bundle, and photographs for the page.

    Args:
        sizes: batches to measure, rising.
    """
    memory.reset_peak()
    before_mb, started = memory.resident_mb(), time.perf_counter()
    with Engine.load(bundle.path, effort=1) as engine:
        load_ms = (time.perf_counter() - started) * 1e3
        images = noise(bundle.image, max(sizes))
        started = time.perf_counter()
        engine.infer(images)
        first_ms = (time.perf_counter() - started) * 1e3
        sweep = tuple(_latency(engine, images[:batch], options.plan) for batch in sizes)
        largest, layers, described = sweep[-1], engine.layers() or None, machine.describe()
        engine_mb = memory.resident_mb()
        streams = load.streams(lambda: engine.infer(images), options.streams, images=len(images)) if options.streams else None
        soak = _soak(engine, images, options.duration, events) if options.duration else None
        joules = _energy(engine, images)
        stages_ms = _stages(engine, images, largest.latency_ms.p50, judge.dataset)
        judged = _judged(engine, judge, largest.batch, options, events) if judge.dataset is not None else Judged(memory.peak_mb())
    reasons = (*largest.reasons, *(f"soak: {reason}" for reason in (soak.reasons if soak else ())))
    result = Result(
        **{**vars(largest), "valid": largest.valid and not reasons, "reasons": reasons},
        bundle=str(bundle.path),
        model=bundle.model.name,
        weights=bundle.manifest.get("weights"),
        size=bundle.image.size,
        backend=bundle.target.backend,
        precision=bundle.target.precision,
        float16=bundle.target.float16,
        load_ms=load_ms,
        first_ms=first_ms,
        layers=layers,
        sweep=sweep if len(sweep) > 1 else (),
        machine=described,
        energy=joules,
        stages_ms=stages_ms,
        memory_mb=Memory(
            peak_rss=judged.peak_rss,
            engine=engine_mb - before_mb if engine_mb is not None and before_mb is not None else None,
            bundle=bundle.bytes / 2**20,
        ),
        accuracy=judged.accuracy,
        regions=judged.regions,
        effort=judged.effort,
        sensitivity=gate_of_build(bundle.manifest.get("sensitivity")),
        warnings=(*reasons, *judge.notes, *judged.notes),
        streams=streams,
        soak=soak,
    )
    return result, judged.photos


def noise(spec: ImageSpec, batch: int) -> np.ndarray:
    """Seeded noise of the statistics of photographs, in the form the engine takes: the same pixels
    in either."""
    made = np.random.default_rng(0).standard_normal((batch, 3, spec.size, spec.size), np.float32)
    if spec.input != "uint8":
        return made
    mean, std = (np.asarray(value, np.float32)[:, None, None] for value in (spec.mean, spec.std))
    return np.ascontiguousarray(np.clip(np.rint((made * std + mean) * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def gate_of_build(found: Any) -> Sensitivity | None:
    """What the gate of the build wrote, where it had one; a manifest comes from outside, so
    anything of another form is left out."""
    try:
        gains = ("map_points", "score_error", "class_agreement", "mean_iou")
        return Sensitivity(
            map_drop=float(found["map_drop"]),
            map_drop_all_int8=float(found["map_drop_all_int8"]),
            returned_to_float=tuple(str(unit) for unit in found["returned_to_float"]),
            ranking=tuple(Gain(str(one["unit"]), *(float(one[name]) for name in gains)) for one in found["ranking"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _latency(engine: Engine, images: np.ndarray, plan: latency.Plan) -> Run:
    before = machine.state()
    measured = latency.measure(lambda: engine.infer(images), images=len(images), plan=plan)
    disturbed, disturbance = machine.between(before, machine.state())
    # What happened to the machine comes first: it is the cause of the rest.
    reasons = (*disturbed, *latency.judge(measured, plan))
    return Run(
        batch=len(images),
        latency_ms=measured.percentiles,
        throughput_images_per_s=measured.throughput,
        median_interval_ms=measured.median_interval_ms,
        variation=measured.variation,
        samples_ms=tuple(round(value * 1e3, 4) for value in measured.seconds.tolist()),
        warm_up=measured.warm_up,
        valid=not reasons,
        reasons=reasons,
        disturbance=disturbance,
    )


def _soak(engine: Engine, images: np.ndarray, seconds: float, events: Events) -> load.Soak:
    with events.progress("soak", "window") as progress:
        return load.soak(lambda: engine.infer(images), seconds, progress=progress)


def _stages(engine: Engine, images: np.ndarray, p50_ms: float, dataset: Dataset | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if dataset is not None:
        some = sample(len(dataset), STAGE_IMAGES)
        spec = engine.bundle.image
        found = stages.of_images(lambda index: dataset[index].image, lambda image: preprocess(image, spec), some, len(images))
    return found | stages.of_engine(lambda: _seconds(engine, images), p50_ms)


def _seconds(engine: Engine, images: np.ndarray) -> dict[str, float]:
    timing = Timing()
    engine.infer(images, timing=timing)
    return timing.seconds


def _energy(engine: Engine, images: np.ndarray) -> energy.Energy | energy.NoEnergy:
    source, reason = energy.find(gpu=backends.backend(engine.bundle.target.backend).on_gpu)
    if source is None:
        return energy.NoEnergy(f"not available here: {reason}")
    return energy.per_image(lambda: engine.infer(images), len(images), source)


def _judged(engine: Engine, judge: Judge, batch: int, options: BenchOptions, events: Events) -> Judged:
    """Accuracy and drift against the FP32 graph, image by image; photographs for the page."""
    bundle, dataset, notes = engine.bundle, judge.dataset, []
    assert dataset is not None
    with events.progress("accuracy") as progress:
        infer = engine.infer if bundle.stages is None else engine.infer_each
        done = collect(infer, batches(dataset, bundle.image, batch), len(dataset), progress=progress)
    peak_rss = memory.peak_mb()  # the engine's own: what the reference takes on top is not its cost
    mine = done.outputs
    effort = _effort(engine, judge, mine, batch, options, events)
    if done.waiting_s > done.inferring_s:
        notes.append(
            f"the accuracy pass was bound by decode: {done.waiting_s:.1f} s waiting for images, {done.inferring_s:.1f} s in the engine"
        )
    support = backends.probe("onnxruntime")
    reference = None
    if support.reason:
        notes.append(f"no Δ mAP and no drift: the FP32 reference needs onnxruntime, and {support.reason}. {support.fix}")
    else:
        key = {
            "graph": bundle.manifest["files"][REFERENCE]["sha256"],
            "images": dataset.digest,
            "input": to_plain(bundle.reference_image),
            "onnxruntime": support.version,
        }
        reference = cached(key, lambda: _reference(bundle, dataset, events))
    accuracy = quality.accuracy(mine, reference, dataset, options.score_threshold) if judge.labelled(bundle) else None
    if accuracy and reference and not bundle.reference_is_own:
        notes.append(f"Δ mAP is against the given weights in FP32 at {bundle.reference_image.size} px")
    elif accuracy and reference:
        try:
            accuracy = replace(accuracy, causes=_causes(bundle, mine, reference, dataset, events))
        except ImportError as error:
            notes.append(f"Δ mAP is not split into its causes here: {error}. pip install onnx")
    seen = _in_pixels_of(bundle, reference) if reference else None
    moved = drift(mine, seen) if seen else None
    return Judged(
        peak_rss,
        accuracy,
        moved,
        effort,
        tuple(photos(dataset, mine, seen, bundle)) if options.photos and seen and moved else (),
        tuple(notes),
    )


def _effort(engine: Engine, judge: Judge, outputs: Outputs, batch: int, options: BenchOptions, events: Events) -> Effort | None:
    """The engine at its effort, and the curve; None for one of one stage."""
    bundle, dataset = engine.bundle, judge.dataset
    if bundle.stages is None or dataset is None:
        return None
    chosen = bundle.stages.effort if options.effort is None else float(options.effort)
    starts = range(0, len(dataset) - batch + 1, batch) or range(1)
    with events.progress("effort", "batch") as progress:

        def decoded() -> Iterator[np.ndarray]:
            for done, start in enumerate(starts):
                progress(done, len(starts))
                some = range(start, min(start + batch, len(dataset)))
                yield np.stack([preprocess(dataset[index].image, bundle.image) for index in some])

        seconds, images = time_efforts(
            lambda given, effort: engine.infer(given, effort=effort), decoded(), efforts_of(chosen), limit_s=options.plan.effort_s
        )
    labels = dataset.labels if judge.labelled(bundle) else None
    return judge_effort(chosen, bundle.stages.rule, outputs, labels, seconds, images=images, batch=min(batch, len(dataset)))


def _reference(bundle: Bundle, dataset: Dataset, events: Events) -> Outputs:
    from edge.backends.onnxruntime import Session

    session = Session(bundle.read_file(REFERENCE))
    with events.progress("reference") as progress:
        return collect(session, batches(dataset, bundle.reference_image, REFERENCE_BATCH), len(dataset), progress=progress).outputs


def _in_pixels_of(bundle: Bundle, reference: Outputs) -> Outputs:
    """The reference's outputs with its boxes in pixels of the bundle's input."""
    if "regions" not in reference or bundle.reference_image.size == bundle.image.size:
        return reference
    scale = np.float32(bundle.image.size / bundle.reference_image.size)
    return {**reference, "regions": reference["regions"] * scale}


def _causes(bundle: Bundle, mine: Outputs, reference: Outputs, dataset: Dataset, events: Events) -> Causes | None:
    """The drop in mAP by what caused it; None for a model without a local stream."""
    assert dataset.labels is not None
    with events.progress("causes") as progress:
        return causes(
            bundle.read_file(REFERENCE),
            lambda indices: batches(dataset.subset(indices), bundle.image.normalised, REFERENCE_BATCH),
            mine,
            reference,
            dataset.labels,
            progress=progress,
        )
