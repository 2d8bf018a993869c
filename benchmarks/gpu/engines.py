"""``python -m benchmarks.gpu.engines --json FILE``: whole networks on one GPU, turn by turn, beside torch.

Bundles of every precision are built for TensorRT-RTX and, where it is installed, TensorRT; each is compared with ONNX Runtime on
the graph in FP32, and timed with and without CUDA graphs at batch 1 and 8 beside torch: eager (ours, and the published loop),
``torch.compile`` and AOTInductor, their backbones in fp16. Images start and outputs end on the host for all. What cannot be built
or loaded is listed with what it answered. The file is written anew after every step, so a run cut short keeps what it found.
``--device cpu --backends onnxruntime`` rehearses all of it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import participants
from benchmarks.participants import Participant, Runner
from benchmarks.workers import Failed, Worker
from edge import backends
from edge.atomic import write_atomically
from edge.bundle import LOWERED, REFERENCE, Bundle
from edge.measure import latency, machine, quality
from edge.measure.outputs import KEPT, Outputs
from edge.spec import PRECISIONS

BATCHES = (1, 8)
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class OnGPU(Participant):
    """A participant of this file: where a process reads one, this module is imported, and its kinds are known."""


# ----------------------------------------------------------------------------
# participants


def _bundle(path: str, graphs: bool) -> Runner:
    """An engine, with CUDA graphs or without."""
    from edge import Engine
    from edge.engine import check_fit

    if graphs:
        engine = Engine.load(path)
        engine.infer(np.zeros((1, 3, engine.bundle.image.size, engine.bundle.image.size), np.float32))
        if engine._runner is not None and engine._runner.graphless:
            raise RuntimeError(f"no CUDA graph: {engine._runner.graphless}")
        return engine.infer
    bundle, payload = Bundle.load(path)
    check_fit(bundle)
    return backends.backend(bundle.target.backend).open(payload, bundle.target, bundle.manifest["engine"], graphs=False)


def _torch(source: Mapping[str, Any], way: str, half: bool, device: str, batch: int) -> Runner:
    """The network in torch. Half: the backbone's weights and activations in fp16, heads, boxes and crops in fp32, as in our engines."""
    import torch

    from benchmarks.eager import EagerMCAR
    from edge.models.source import open_source

    class InHalf(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner.half().to(memory_format=torch.channels_last)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(images.half().contiguous(memory_format=torch.channels_last))
            return found.float()

    opened = open_source(**source)
    model: Any = opened.network.to(device).eval()
    if half:
        model.features = InHalf(model.features)
    example = torch.zeros(batch, 3, opened.image.size, opened.image.size, device=device)
    run: Callable[[torch.Tensor], Any] = model
    if way == "published":
        run = EagerMCAR(model).eval()
    elif way == "compile":
        run = torch.compile(model, dynamic=False)
    elif way == "inductor":
        with torch.no_grad():
            exported = torch.export.export(model, (example,))
        with tempfile.TemporaryDirectory() as folder:
            package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
            run = torch._inductor.aoti_load_package(package)

    def call(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = run(torch.from_numpy(images).to(device))
            return {name: value.cpu().numpy() for name, value in outputs.items()}

    return call


participants.KINDS = {**participants.KINDS, "gpu-bundle": _bundle, "gpu-torch": _torch}


# ----------------------------------------------------------------------------
# steps


def build(args: argparse.Namespace, work: Path, result: dict[str, Any]) -> dict[str, Path]:
    """Bundles by name; what failed is listed with its last line."""
    built: dict[str, Path] = {}
    for backend in args.backends.split(","):
        support = backends.probe(backend)
        if support.reason and not support.builds:
            result["answers"][backend] = f"{support.reason}. {support.fix}"
            continue
        for suffix, route, precisions in routes(backend, support, args.precisions.split(",")):
            for precision in precisions:
                name = f"{backend}{suffix}-{precision}"
                words = ["--model", args.model, "--weights", "random", "--size", str(args.size), "--precision", precision]
                words += ["--backend", backend, "--batch", str(max(args.batches)), "--calib-images", str(args.calib_images)]
                command = [sys.executable, "-m", "edge.build", *words, "--output", str(work / name), "--force"]
                environment = {**os.environ, **({} if route is None else {"EDGE_TENSORRT_PLUGIN": route})}
                started = time.monotonic()
                try:
                    done = subprocess.run(
                        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=args.build_s, env=environment, check=False
                    )
                except subprocess.TimeoutExpired:
                    result["answers"][name] = f"not built within {args.build_s} s"
                    continue
                if done.returncode:
                    result["answers"][name] = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
                    continue
                built[name] = work / name
                bundle = Bundle.read(built[name])
                about = {"seconds": round(time.monotonic() - started, 1), "mb": round(bundle.bytes / 1e6, 1)}
                result["bundles"][name] = {**about, "made_of": backends.describe_engine(backend, bundle.manifest["engine"])}
    return built


def routes(backend: str, support: backends.Support, precisions: Sequence[str]) -> Iterator[tuple[str, str | None, Sequence[str]]]:
    """How our two operations get into an engine: suffix of its name, value of EDGE_TENSORRT_PLUGIN (None: as it is), precisions."""
    if backend != "tensorrt":
        yield "", None, precisions
        return
    yield "-standard", "", precisions
    if support.facts.get("plugin"):
        yield "-library", None, precisions
    yield "-aot", "aot", [each for each in precisions if each == "fp16"]


def contenders(args: argparse.Namespace, built: Mapping[str, Path], batch: int) -> list[Participant]:
    """Who takes turns at this batch."""
    source = {"weights": "random", "model": args.model, "size": args.size, "seed": 0}
    found: list[Participant] = []
    for name, path in built.items():
        backend, precision = Bundle.read(path).target.backend, Bundle.read(path).target.precision
        found.append(OnGPU(name, backend, precision, "gpu-bundle", {"path": str(path), "graphs": True}))
        if backends.backend(backend).on_gpu:
            found.append(OnGPU(f"{name}, no graph", backend, precision, "gpu-bundle", {"path": str(path), "graphs": False}))
    ways = [("eager", False), ("eager", True), ("published", True), ("compile", True), ("inductor", True)]
    for way, half in ways:
        name = f"torch {way} {'fp16' if half else 'fp32'}"
        options = {"source": source, "way": way, "half": half, "device": args.device, "batch": batch}
        found.append(OnGPU(name, "torch", "fp16" if half else "fp32", "gpu-torch", options))
    return found


def measure(args: argparse.Namespace, built: Mapping[str, Path], batch: int, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Outputs against the reference and interleaved latencies of one batch size."""
    from edge.backends.onnxruntime import Session

    shape = (batch, 3, args.size, args.size)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    reference = Session(Bundle.read(next(iter(built.values()))).read_file(REFERENCE))(images) if built else None
    workers: dict[str, Worker] = {}
    rows: dict[str, Any] = result["batches"].setdefault(str(batch), {})
    try:
        for participant in contenders(args, built, batch):
            try:
                workers[participant.name] = Worker(participant, images)
                if reference is not None:
                    rows[participant.name] = against(reference, workers[participant.name].infer(images))
            except Failed as error:
                result["answers"][f"{participant.name}, batch {batch}"] = str(error)
            save()
        before = machine.state()
        turns = {name: worker.turn for name, worker in workers.items()}
        if turns:
            rounds = latency.interleave(turns, rounds=args.rounds, turn_s=args.turn)
            base = "torch eager fp16" if "torch eager fp16" in turns else next(iter(turns))
            for name in turns:
                found = rounds.compare(name, base)
                rows.setdefault(name, {})["p50_ms"] = round(rounds.latency(name).percentile_ms(50), 4)
                rows[name] |= {"ratio": round(found.ratio, 4), "interval": [round(edge, 4) for edge in found.interval], "to": base}
        result["warnings"] += machine.between(before, machine.state()).reasons
    finally:
        for worker in workers.values():
            worker.close()
    save()


def against(reference: Mapping[str, np.ndarray], mine: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How outputs stand to the reference's: largest error of a score, regions of the same class, overlap of their boxes."""

    def outputs(found: Mapping[str, np.ndarray]) -> Outputs:
        return Outputs({name: np.asarray(found[name]) for name in KEPT if name in found})

    drift = quality.drifted(outputs(mine), outputs(reference))
    error = float(np.abs(np.asarray(mine["scores"], np.float64) - reference["scores"]).max())
    return {"score_error": error, **({} if drift is None else drift.plain())}


# ----------------------------------------------------------------------------
# command


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu.engines", description=__doc__)
    made.add_argument("--json", type=Path, required=True, metavar="FILE")
    made.add_argument("--model", default="mcar-resnet50")
    made.add_argument("--size", type=int, default=448)
    made.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), default=BATCHES, metavar="N,N")
    made.add_argument("--precisions", default=",".join(PRECISIONS))
    made.add_argument("--backends", default="tensorrt-rtx,tensorrt")
    made.add_argument("--device", default="cuda", help="of torch")
    made.add_argument("--calib-images", type=int, default=32)
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--turn", type=float, default=0.5, metavar="S")
    made.add_argument("--build-s", type=float, default=180, metavar="S", help="time limit of one build")
    made.add_argument("--work", type=Path, metavar="DIR", help="keep the bundles here")
    return made


def main(args: argparse.Namespace) -> int:
    result: dict[str, Any] = {
        "model": args.model, "size": args.size, "rounds": args.rounds, "machine": machine.describe(),
        "bundles": {}, "answers": {}, "batches": {}, "warnings": [],
    }  # fmt: skip
    save = partial(_save, args.json, result)
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        built = build(args, work, result)
        save()
        for batch in args.batches:
            measure(args, built, batch, result, save)
        result["lowered"] = {name: str(path / LOWERED) for name, path in built.items()} if args.work else {}
    save()
    return 0


def _save(path: Path, result: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(arguments().parse_args()))
