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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import participants
from benchmarks.gpu.report import EngineRow, Engines
from benchmarks.participants import Participant, Runner
from benchmarks.workers import Apart, Failed, Worker
from edge import backends
from edge.atomic import write_atomically
from edge.bundle import REFERENCE, Bundle
from edge.engine import Engine, check_fit
from edge.graph import Outputs
from edge.measure import latency, machine
from edge.measure.regions import drift
from edge.pipeline import BuildOptions, build
from edge.plain import to_plain
from edge.spec import PRECISIONS
from edge.stages import Stages

if TYPE_CHECKING:
    import torch

    from edge.models.source import Source

BATCHES = (1, 8)


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


def network(source: Callable[[], Source], way: str, half: bool, device: str, batch: int) -> Runner:
    """The network in torch. Half: the backbone's weights and activations in fp16, heads, boxes and crops in fp32, as in our engines."""
    import torch

    from benchmarks.eager import EagerMCAR

    class InHalf(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner.half().to(memory_format=torch.channels_last)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(images.half().contiguous(memory_format=torch.channels_last))
            return found.float()

    opened = source()
    model = opened.network.to(device).eval()
    if half:
        model.features = InHalf(model.features)  # type: ignore[assignment]
    example = torch.zeros(batch, 3, opened.image.size, opened.image.size, device=device)
    run: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] = model
    if way == "published":
        run = EagerMCAR(model).eval()  # type: ignore[arg-type]
    elif way == "compile":
        run = torch.compile(model, dynamic=False)
    elif way == "inductor":
        with torch.no_grad():
            exported = torch.export.export(model, (example,))
        with tempfile.TemporaryDirectory() as folder:
            package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
            run = torch._inductor.aoti_load_package(package)

    def call(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            outputs = run(torch.from_numpy(images).to(device))
            return {name: value.cpu().numpy() for name, value in outputs.items()}

    return call


# ----------------------------------------------------------------------------
# steps


def build_all(args: argparse.Namespace, work: Path, result: Engines) -> dict[str, Path]:
    """Bundles by name; what failed is listed with its words."""
    built: dict[str, Path] = {}
    given = BuildOptions(
        model=args.model, weights="random", size=args.size, batch=max(args.batches), calib_images=args.calib_images, force=True
    )
    for backend in args.backends.split(","):
        support = backends.probe(backend)
        if support.reason and not support.builds:
            result["answers"][backend] = f"{support.reason}. {support.fix}"
            continue
        for suffix, route, precisions in routes(backend, support, args.precisions.split(",")):
            for precision in precisions:
                name = f"{backend}{suffix}-{precision}"
                options = replace(given, precision=precision, backend=backend, output=work / name)
                started = time.monotonic()
                try:
                    with Apart() as process:
                        process.call(partial(build_by, route, options), args.build_s)
                except Failed as error:
                    result["answers"][name] = str(error)
                    continue
                built[name] = work / name
                made = Bundle.read(built[name])
                result["bundles"][name] = {
                    "seconds": round(time.monotonic() - started, 1),
                    "mb": round(made.bytes / 1e6, 1),
                    "made_of": backends.describe_engine(backend, made.manifest["engine"]),
                }
    return built


def build_by(route: str | None, options: BuildOptions) -> None:
    """Build in a process of its own, our operations got into the engine on that route."""
    if route is not None:
        os.environ["EDGE_TENSORRT_PLUGIN"] = route
    build(options)


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
    from edge.models.source import open_source

    source = partial(open_source, "random", model=args.model, size=args.size)
    found: list[Participant] = []
    for name, path in built.items():
        target = Bundle.read(path).target
        found.append(Participant(name, target.backend, target.precision, partial(bundle, path, graphs=True)))
        if backends.backend(target.backend).on_gpu:
            found.append(Participant(f"{name}, no graph", target.backend, target.precision, partial(bundle, path, graphs=False)))
    for way, half in [("eager", False), ("eager", True), ("published", True), ("compile", True), ("inductor", True)]:
        precision = "fp16" if half else "fp32"
        opened = partial(network, source, way, half, args.device, batch)
        found.append(Participant(f"torch {way} {precision}", "torch", precision, opened))
    return found


def measure(args: argparse.Namespace, built: Mapping[str, Path], batch: int, result: Engines, save: Callable[[], None]) -> None:
    """Outputs against the reference and interleaved latencies of one batch size."""
    images = np.random.default_rng(0).standard_normal((batch, 3, args.size, args.size)).astype(np.float32)
    reference = participants.session(next(iter(built.values())) / REFERENCE)(images) if built else None
    workers: dict[str, Worker] = {}
    rows = result["batches"].setdefault(str(batch), {})
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
                found, row = rounds.compare(name, base), rows.setdefault(name, {})
                row["p50_ms"] = round(rounds.latency(name).percentile_ms(50), 4)
                row["ratio"], row["to"] = round(found.ratio, 4), base
                row["interval"] = [round(edge, 4) for edge in found.interval]
        result["warnings"] += machine.between(before, machine.state())[0]
    finally:
        for worker in workers.values():
            worker.close()
    save()


def against(reference: Outputs, mine: Outputs) -> EngineRow:
    """How outputs stand to the reference's: largest error of a score, and region drift."""
    found: EngineRow = {"score_error": float(np.abs(np.asarray(mine["scores"], np.float64) - reference["scores"]).max())}
    moved = drift(mine, reference)
    if moved:
        found["class_agreement"], found["mean_iou"] = moved.class_agreement, moved.mean_iou
        found["iou_above"], found["images_changed"] = moved.iou_above, moved.images_changed
    return found


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
    result: Engines = {
        "model": args.model, "size": args.size, "rounds": args.rounds, "machine": to_plain(machine.describe()),
        "bundles": {}, "answers": {}, "batches": {}, "warnings": [], "lowered": {},
    }  # fmt: skip
    save = partial(_save, args.json, result)
    with tempfile.TemporaryDirectory() as folder:
        built = build_all(args, args.work or Path(folder), result)
        save()
        for batch in args.batches:
            measure(args, built, batch, result, save)
        if args.work:
            result["lowered"] = {name: sorted(map(str, path.glob("lowered*.onnx"))) for name, path in built.items()}
    save()
    return 0


def _save(path: Path, result: Engines) -> None:
    write_atomically(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(arguments().parse_args()))
