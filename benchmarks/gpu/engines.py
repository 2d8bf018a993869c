"""Whole networks in TensorRT-RTX where it is installed, interleaved with torch.

Bundles of every precision are built here; each is compared with ONNX Runtime on the graph in FP32,
and timed with and without CUDA graphs at batch 1 and 8. What cannot be built or loaded is listed
with what it answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import participants
from benchmarks.gpu.networks import WAYS, network
from benchmarks.gpu.place import Found, Missing, Place, Save
from benchmarks.gpu.plans import against
from benchmarks.participants import Participant, Runner
from benchmarks.workers import Apart, Failed, Worker
from edge import backends
from edge.bundle import REFERENCE, Bundle
from edge.engine import Engine
from edge.fit import check_fit
from edge.measure import latency, machine
from edge.pipeline import BuildOptions, build
from edge.spec import PRECISIONS
from edge.stages import Stages

BUILD_S = 100.0


def run(place: Place, found: Found, save: Save) -> None:
    """MobileNetV2 at 256; in a rehearsal small, and in ONNX Runtime."""
    backend = "onnxruntime" if place.rehearse else "tensorrt-rtx"
    support = backends.probe(backend)
    if support.reason:
        raise Missing(f"{backend}: {support.reason}")
    size = 64 if place.rehearse else 256
    given = BuildOptions(model="mcar-mobilenetv2", weights="random", size=size, backend=backend, calib_images=32, force=True)
    built = build_all(given, ("fp32",) if place.rehearse else PRECISIONS, place.work / "rtx", found)
    save()
    for batch in (1, 8):
        measure(
            contenders(given, built, batch, "cpu" if place.rehearse else "cuda"),
            built,
            size,
            batch,
            found,
            save,
            rounds=2 if place.rehearse else 7,
        )


# ----------------------------------------------------------------------------
# participants


def bundle(path: Path, graphs: bool) -> Runner:
    """An engine, with CUDA graphs or without."""
    if graphs:
        engine = Engine.load(path)
        engine.infer(np.zeros((1, 3, engine.bundle.image.size, engine.bundle.image.size), np.float32))
        reasons = [runner.graphless for runner in engine.runners.values() if runner.graphless]
        if reasons:
            raise RuntimeError(f"no CUDA graph: {reasons[0]}")
        return engine.infer
    opened, payload = Bundle.load(path)
    check_fit(opened)
    runners = backends.backend(opened.target.backend).open(payload, opened.target, opened.manifest["engine"], graphs=False)
    return Stages(runners, opened.target, opened.stages).run


# ----------------------------------------------------------------------------
# steps


def build_all(given: BuildOptions, precisions: Iterable[str], work: Path, found: Found) -> dict[str, Path]:
    """Bundles by name; what failed is listed with its words."""
    built: dict[str, Path] = {}
    for precision in precisions:
        name = f"{given.backend}-{precision}"
        options = replace(given, precision=precision, output=work / name)
        started = time.monotonic()
        try:
            with Apart() as process:
                process.call(partial(_build, options), BUILD_S)
        except Failed as error:
            found.setdefault("answers", {})[name] = str(error)
            continue
        built[name] = work / name
        made = Bundle.read(built[name])
        found.setdefault("bundles", {})[name] = {
            "seconds": round(time.monotonic() - started, 1),
            "mb": round(made.bytes / 1e6, 1),
            "made_of": backends.describe_engine(given.backend, made.manifest["engine"]),
        }
    return built


def _build(options: BuildOptions) -> None:
    build(options)  # a bundle does not go from one process to another


def contenders(given: BuildOptions, built: Mapping[str, Path], batch: int, device: str) -> list[Participant]:
    """Who takes turns at this batch."""
    from edge.models.source import open_source

    found: list[Participant] = []
    for name, path in built.items():
        target = Bundle.read(path).target
        found.append(Participant(name, target.backend, target.precision, partial(bundle, path, graphs=True)))
        if backends.backend(target.backend).on_gpu:
            found.append(Participant(f"{name}, no graph", target.backend, target.precision, partial(bundle, path, graphs=False)))
    source = partial(open_source, "random", model=given.model, size=given.size)
    for way in WAYS:
        found.append(Participant(f"torch {way}", "torch", "fp16", partial(network, source, way, device != "cpu", device, batch)))
    return found


def measure(
    who: Iterable[Participant],
    built: Mapping[str, Path],
    size: int,
    batch: int,
    found: Found,
    save: Save,
    *,
    rounds: int = 7,
    turn_s: float = 0.3,
) -> None:
    """Outputs against the reference and interleaved latencies of one batch size."""
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    reference = participants.session(next(iter(built.values())) / REFERENCE)(images) if built else None
    workers: dict[str, Worker] = {}
    rows = found.setdefault("batches", {}).setdefault(str(batch), {})
    try:
        for participant in who:
            try:
                workers[participant.name] = Worker(participant, images)
                if reference is not None:
                    rows[participant.name] = against(workers[participant.name].infer(images), reference, None)
            except Failed as error:
                found.setdefault("answers", {})[f"{participant.name}, batch {batch}"] = str(error)
            save()
        before = machine.state()
        turns = {name: worker.turn for name, worker in workers.items()}
        if turns:
            timed = latency.interleave(turns, rounds=rounds, turn_s=turn_s)
            base = "torch eager" if "torch eager" in turns else next(iter(turns))
            for name in turns:
                compared, row = timed.compare(name, base), rows.setdefault(name, {})
                row |= {"p50_ms": round(timed.latency(name).percentile_ms(50), 4), "ratio": round(compared.ratio, 4), "to": base}
                row["interval"] = [round(edge, 4) for edge in compared.interval]
        found.setdefault("warnings", []).extend(machine.between(before, machine.state())[0])
    finally:
        for worker in workers.values():
            worker.close()
    save()
