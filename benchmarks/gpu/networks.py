"""The same network in PyTorch, eager and compiled, interleaved with plans of TensorRT; all from
images on the host to outputs there.

The backbone is in fp16 and channels-last, the rest in fp32, as in our engines; images go through
page-locked memory. ``compile`` is ``torch.compile`` with CUDA graphs; ``compile, inlined`` also
lets it see into our two operations, which it else calls as they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate  # its own before Python 3.11
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu.place import SLOWER, Found, Missing, Place, Save
from benchmarks.gpu.plans import bench
from benchmarks.participants import Participant, Runner
from benchmarks.workers import Failed, Worker
from edge.graph import Outputs
from edge.measure import machine
from edge.measure.latency import Comparison

if TYPE_CHECKING:
    import torch

    from edge.models.source import Source


WAYS = ("eager", "compile", "compile, inlined")
ROUNDS, CALLS = 5, 100
OPEN_S = 65.0
GOAL = 2.0  # times faster than torch.compile, int8 at batch 1


def run(place: Place, found: Found, save: Save, *, model: tuple[str, int], batch: int, plans: Sequence[str]) -> None:
    """Medians of interleaved rounds: of torch in processes of its own, of each plan by
    ``mcar_edge_bench``."""
    from edge.models.source import open_source

    name, size = (model[0], 96) if place.rehearse else model
    device = "cpu" if place.rehearse else "cuda"
    rounds, calls = (2, 2) if place.rehearse else (ROUNDS, CALLS)
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    source = partial(open_source, "random", model=name, size=size)
    half = not place.rehearse
    participants = {way: Participant(way, "torch", "fp16", partial(network, source, way, half, device, batch)) for way in WAYS}
    workers: dict[str, Worker] = {}
    found["answers"] = {}
    try:
        # At once, since compiling is work for the CPU; one that takes too long is left behind with
        # its thread.
        pool, ends = ThreadPoolExecutor(len(WAYS)), time.monotonic() + OPEN_S * (SLOWER if place.rehearse else 1)
        for way, opening in {way: pool.submit(Worker, each, images) for way, each in participants.items()}.items():
            try:
                workers[way] = opening.result(max(0.0, ends - time.monotonic()))
            except Failed as error:
                found["answers"][way] = str(error)
            except TooLate:
                found["answers"][way] = f"not ready within {OPEN_S:.0f} s"
        save()
        turns: dict[str, Callable[[], list[float]]] = {f"torch {way}": partial(of_torch, worker, calls) for way, worker in workers.items()}
        for stage in plans:
            if (place.plan(stage) / "manifest.json").is_file():
                turns[stage] = partial(of_plan, place, stage, batch, calls)
            else:
                found["answers"][stage] = "no plan"
        if not turns:
            raise Missing(f"anything to time: {found['answers']}")
        take_turns(turns, rounds, found, save)
    finally:
        for worker in workers.values():
            worker.close()


def take_turns(turns: Mapping[str, Callable[[], list[float]]], rounds: int, found: Found, save: Save) -> None:
    """A B C C B A …: medians in milliseconds by round, and each one's ratio to the quickest of
    torch."""
    before = machine.state()
    medians: dict[str, list[float]] = {name: [] for name in turns}
    for index in range(rounds):
        for name in list(turns) if index % 2 == 0 else reversed(list(turns)):
            medians[name].append(statistics.median(turns[name]()))
        found["rounds_ms"] = medians
        found["rows"] = rows({name: values for name, values in medians.items() if len(values) == index + 1})
        found["warnings"] = list(machine.between(before, machine.state())[0])
        save()


def rows(medians: Mapping[str, Sequence[float]]) -> Found:
    """By name: median of the rounds' medians; how many times faster than the quickest of torch, and
    the interval of that."""
    torches = [name for name in medians if name.startswith("torch")]
    base = min(torches, key=lambda name: statistics.median(medians[name]), default=None)
    found: Found = {}
    for name, values in medians.items():
        found[name] = {"p50_ms": round(statistics.median(values), 4)}
        if base is not None:
            ratio = Comparison(tuple(theirs / mine for mine, theirs in zip(values, medians[base], strict=True)))
            found[name] |= {"times_faster": round(ratio.ratio, 3), "than": base, "interval": [round(edge, 3) for edge in ratio.interval]}
            if not name.startswith("torch"):
                found[name]["goal_met"] = ratio.ratio >= GOAL
    return found


def of_torch(worker: Worker, calls: int) -> list[float]:
    worker.turn(max(1, calls // 10))
    return [seconds * 1e3 for seconds in worker.turn(calls)]


def of_plan(place: Place, stage: str, batch: int, calls: int) -> list[float]:
    told = bench(place, stage, batch, "--iterations", str(calls), "--warmup", str(max(1, calls // 2)))
    return list(told.get("samples_ms") or [told["latency_ms"]["p50"]])


def network(source: Callable[[], Source], way: str, half: bool, device: str, batch: int) -> Runner:
    """The network in torch. Half: the backbone's weights and activations in fp16, heads, boxes and
    crops in fp32."""
    import torch

    from edge.models import localisation
    from edge.models.mcar import MCAR

    class InHalf(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner.half().to(memory_format=torch.channels_last)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(images.half().contiguous(memory_format=torch.channels_last))
            return found.float()

    class Inlined(MCAR):
        """With the operations as plain code."""

        def _boxes(self, maps: torch.Tensor, classes: torch.Tensor, size: int) -> torch.Tensor:
            return localisation.boxes_of(self._class_maps(maps, classes), size, self.threshold)

        def _crops(self, image: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
            crops: torch.Tensor = localisation.sampled(image, boxes, size)
            return crops

    opened = source()
    model = opened.network.fused_for_export().to(device).eval()
    if half:
        model.features = InHalf(model.features)  # type: ignore[assignment]
    if way.endswith("inlined"):
        model.__class__ = Inlined
    run: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] = model
    if way.startswith("compile"):
        run = torch.compile(model, dynamic=False, mode="reduce-overhead")
    on_gpu = device != "cpu"
    staged = torch.empty(batch, 3, opened.image.size, opened.image.size, pin_memory=on_gpu)

    def call(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            staged.copy_(torch.from_numpy(images))
            outputs = run(staged.to(device, non_blocking=True))
            found = {name: value.to("cpu", non_blocking=True) for name, value in outputs.items()}
            if on_gpu:
                torch.cuda.synchronize()
            return {name: value.numpy() for name, value in found.items()}

    return call


def run_training(place: Place, found: Found, save: Save) -> None:
    """Two epochs of the recipe on the GPU: that it trains there, and how long an epoch takes."""
    import json
    import sys

    folder = place.work / "trained"
    words = "--device", "cpu" if place.rehearse else "cuda", "--epochs", "2", "--size", "256", "--output", folder
    answer = place.call([sys.executable, "-m", "edge.train", *words, "--json", folder.with_suffix(".json")], 280)
    if answer.code:
        raise RuntimeError(f"training ended with {answer.code}: {' / '.join(answer.tail[-3:])}")
    found["training"] = json.loads(folder.with_suffix(".json").read_text())
