"""Which form of the crop is fastest on which backend.

    python -m benchmarks.ops --model mcar-mobilenetv2 --size 256 --batch 1

Random weights: time does not depend on them. One engine per backend and form, all interleaved in
one run. Findings stand in docs/lowering.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from edge import backends
from edge import lower as lowering
from edge.engine import Engine
from edge.measure.latency import interleave, timed
from edge.ops import roi_resize
from edge.spec import ImageSpec, ModelSpec, TargetSpec

BACKENDS = {name: backends.backend(name) for name in ("openvino", "onnxruntime")}


def engines(model: str, size: int, batch: int, folder: Path) -> dict[str, Engine]:
    """``backend form`` → an engine; the backend's 16-bit float where it has one."""
    import torch

    from edge.models import create
    from export.exporter import export_graph

    torch.manual_seed(0)
    network = create(model, num_classes=20)
    spec = ModelSpec(model, tuple(f"class_{index:02}" for index in range(20)), network.spec_options())
    graph = export_graph(network, spec, ImageSpec(size))
    opened = {}
    for name, backend in BACKENDS.items():
        float16 = backend.probe().float16
        target = TargetSpec(name, "fp16" if float16 else "fp32", (batch,), float16)
        for form in roi_resize.FORMS:
            place = folder / f"{name}-{form}"
            place.mkdir()
            with mock.patch.dict(lowering.CROPS, {name: form}):
                lowered = lowering.lower_stages(graph.parse(), target, row=name, in_stages=True)
            opened[f"{name} {form}"] = Engine.from_lowered(lowered, graph, target, place)
    return opened


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mcar-mobilenetv2")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)

    images = np.random.default_rng(0).normal(size=(options.batch, 3, options.size, options.size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        made = engines(options.model, options.size, options.batch, Path(folder))
        turns = {name: timed(partial(engine.infer, images)) for name, engine in made.items()}
        rounds = interleave(turns, rounds=options.rounds, turn_s=0.3)
        print(f"{options.model} {options.size}, batch {options.batch}; ratios of round medians to the form the tables choose")
        for name in made:
            backend, _ = name.split()
            base = f"{backend} {lowering.CROPS[backend]}"
            print(f"{name:32}{1e3 * np.median(rounds.latency(name).seconds):9.2f} ms  × {rounds.compare(name, base)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
