"""Whom the peers table compares: each kind is one function that opens a participant and returns how to run it.

Opened inside a process of its own (``benchmarks.workers``). A runner takes images (B, 3, S, S) float32 and returns arrays by name;
a floor returns nothing that could be scored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Participant:
    """One row of the table.

    Attributes:
        name: as in the table (``edge-int8-openvino``).
        backend: what runs it.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        kind: a key of ``KINDS``.
        options: arguments of that kind, plain types.
        scored: whether it answers with scores.
    """

    name: str
    backend: str
    precision: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scored: bool = True


def open_participant(participant: Participant) -> Runner:
    """Load it in this process, on all cores the process may use."""
    return KINDS[participant.kind](**participant.options)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _eager(source: Mapping[str, Any], bf16: bool = False, compiled: bool = False) -> Runner:
    """The original's loop in torch. Compiled: the backbone only, whose shapes are fixed; crops of every size would compile anew."""
    import torch

    from benchmarks.eager import EagerMCAR
    from edge.models.source import open_source

    torch.set_num_threads(cores())
    model = EagerMCAR(open_source(**source).network).eval()  # type: ignore[arg-type]
    if compiled:
        model.features = torch.compile(model.features, dynamic=False)  # type: ignore[assignment]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(torch.from_numpy(images))
        return {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in outputs.items()}

    return run


def _session(path: str) -> Runner:
    from edge.backends.onnxruntime import Session

    return Session(Path(path).read_bytes())


def _openvino(path: str, batches: tuple[int, ...]) -> Runner:
    from edge.spec import TargetSpec

    return _network(path, TargetSpec("openvino", "fp32", tuple(batches)))


def _network(path: str, target: Any) -> Runner:
    """An ONNX file, or OpenVINO's XML with its weights beside it."""
    from edge.backends.openvino import OpenVINORunner

    weights = Path(path).with_suffix(".bin")
    return OpenVINORunner(Path(path).read_bytes(), target, weights.read_bytes() if path.endswith(".xml") else b"")


def _bundle(path: str) -> Runner:
    from edge import Engine

    return Engine.load(path).infer


def _floor(backend: str, first: str, second: str, target: Mapping[str, Any], regions: int) -> Runner:
    """One bare backbone pass over the images and one over as many crops, nothing between them."""
    from edge.spec import TargetSpec, from_plain

    spec: TargetSpec = from_plain(TargetSpec, target)
    opened: list[Runner] = [_network(path, spec) if backend == "openvino" else _session(path) for path in (first, second)]
    crops: dict[int, np.ndarray] = {}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        count = len(images)
        if count not in crops:
            crops[count] = np.ascontiguousarray(np.repeat(images, regions, axis=0))
        opened[0](images)
        opened[1](crops[count])
        return {}

    return run


KINDS: Mapping[str, Callable[..., Runner]] = {
    "eager": _eager,
    "session": _session,
    "openvino": _openvino,
    "bundle": _bundle,
    "floor": _floor,
}
