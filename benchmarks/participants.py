"""Whom the peers table compares, and the functions that open them.

Opened inside a process of its own (``benchmarks.workers``). A runner takes images (B, 3, S, S)
float32 and returns arrays by name; a floor returns nothing that could be scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.graph import Outputs
from edge.spec import TargetSpec

if TYPE_CHECKING:
    from edge.backends import Runner as Stage
    from edge.models.source import Source

Runner = Callable[[np.ndarray], Outputs]


@dataclass(frozen=True)
class Participant:
    """One row of the table.

    Attributes:
        name: as in the table (``edge-int8-openvino``).
        backend: what runs it.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        open: loads it, on all cores that the process may use; it goes to another process, so a
            function of a module with its arguments.
        scored: whether it answers with scores.
        adaptive: whether its time depends on the image: a timed call is then the mean over many
            images.
    """

    name: str
    backend: str
    precision: str
    open: Callable[[], Runner]
    scored: bool = True
    adaptive: bool = False


def eager(source: Callable[[], Source], bf16: bool = False, compiled: bool = False) -> Runner:
    """The original's loop in torch. Compiled: the backbone only, whose shapes are fixed; crops of
    every size would compile anew."""
    import torch

    from benchmarks.eager import EagerMCAR
    from edge.cpu import cores

    torch.set_num_threads(cores())
    model = EagerMCAR(source().network).eval()  # type: ignore[arg-type]
    if compiled:
        model.features = torch.compile(model.features, dynamic=False)  # type: ignore[assignment]

    def run(images: np.ndarray) -> Outputs:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(torch.from_numpy(images))
        return {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in outputs.items()}

    return run


def session(path: Path) -> Runner:
    from edge.backends.onnxruntime import Session

    return _of_one_input(Session(path.read_bytes()))


def openvino(path: Path, target: TargetSpec) -> Runner:
    """An ONNX file, or OpenVINO's XML with its weights beside it."""
    from edge.backends.openvino import OpenVINORunner

    weights = path.with_suffix(".bin").read_bytes() if path.suffix == ".xml" else b""
    return _of_one_input(OpenVINORunner.read(path.read_bytes(), target, weights))


def _of_one_input(stage: Stage) -> Runner:
    """A model of somebody else, whatever its input is called."""
    name = next(iter(stage.forms()))
    return lambda images: stage.run({name: images})


def bundle(path: Path, effort: float | None = 1) -> Runner:
    """At effort 1 every region is looked at, as by the other rows; None: as the bundle says."""
    from edge import Engine

    return Engine.load(path, effort=effort).infer


def floor(first: Callable[[], Runner], second: Callable[[], Runner], regions: int) -> Runner:
    """One bare backbone pass over the images and one over as many crops, nothing between them."""
    whole, local = first(), second()
    crops: dict[int, np.ndarray] = {}

    def run(images: np.ndarray) -> Outputs:
        count = len(images)
        if count not in crops:
            crops[count] = np.ascontiguousarray(np.repeat(images, regions, axis=0))
        whole(images)
        local(crops[count])
        return {}

    return run
