"""``python -m benchmarks.gpu.stand_in mcar_edge_build|mcar_edge_bench …``: the flags of the C++
programs, on this machine's CPU.

For rehearsals only: the graphs of a bundle for TensorRT are compiled by OpenVINO in float32, its
latency is Python's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge import Engine, backends
from edge.bundle import LABELS, Bundle
from edge.command import run
from edge.manifest import write_manifest
from edge.spec import to_plain


def mcar_edge_build(args: argparse.Namespace) -> int:
    """The graphs that TensorRT would parse, our two operations replaced."""
    import onnx

    from edge.lower.opset_17 import opset_17
    from edge.lower.replace_ops import replace_ops

    given = Bundle.read(args.bundle)
    given.verify()
    graphs = {stage: opset_17(replace_ops(onnx.load_from_string(graph), crop="matmul")) for stage, graph in given.lowered().items()}
    lowered = {stage: graph.SerializeToString() for stage, graph in graphs.items()}
    target = replace(given.target, backend="openvino", precision="fp32", float16=None, batches=(args.batch,))
    stages = given.stages and replace(given.stages, sizes=(args.batch * given.model.options["regions"],))
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    (args.out / LABELS).write_bytes(given.read_file(LABELS))
    engine = backends.backend("openvino").build(lowered, target, stages, args.out)
    kept = {name: given.manifest[name] for name in ("model", "image", "parents") if name in given.manifest}
    told = {"target": to_plain(target), "stages": stages and to_plain(stages), "engine": engine}
    write_manifest(args.out, kept | told)
    return 0


def mcar_edge_bench(args: argparse.Namespace) -> int:
    with Engine.load(args.bundle) as engine:
        size, batch = engine.bundle.image.size, args.batch
        given = np.fromfile(args.images, np.float32) if args.images else np.zeros(batch * 3 * size * size, np.float32)
        images = given.reshape(-1, 3, size, size)
        for _ in range(min(args.warmup, 1)):
            engine.infer(images[:batch])
        samples = []
        for _ in range(args.iterations):
            begun = time.perf_counter()
            engine.infer(images[:batch])
            samples.append((time.perf_counter() - begun) * 1e3)
        if args.outputs:
            answers = [engine.infer(images[start : start + batch]) for start in range(0, len(images), batch)]
            args.outputs.mkdir(parents=True, exist_ok=True)
            for name in answers[0]:
                np.concatenate([answer[name] for answer in answers]).tofile(args.outputs / f"{name}.bin")
    latency = {"mean": float(np.mean(samples)), **{f"p{percent}": float(np.percentile(samples, percent)) for percent in (50, 90, 99)}}
    args.json.write_text(json.dumps({"batch": batch, "latency_ms": latency, "samples_ms": samples}))
    return 0


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__)
    programs = made.add_subparsers(dest="program", required=True)
    build, bench = programs.add_parser("mcar_edge_build"), programs.add_parser("mcar_edge_bench")
    for program in (build, bench):
        program.add_argument("bundle", type=Path)
        program.add_argument("--json", type=Path)
    build.add_argument("out", type=Path)
    build.add_argument("--level")
    build.add_argument("--cache")
    build.add_argument("--force", action="store_true")
    build.add_argument("--only", action="store_true")
    build.add_argument("--batch", type=int, default=1)
    for name in ("--batch", "--iterations", "--warmup"):
        bench.add_argument(name, type=int, default=1)
    bench.add_argument("--images", type=Path)
    bench.add_argument("--outputs", type=Path)
    args = made.parse_args()
    return run(mcar_edge_build if args.program == "mcar_edge_build" else mcar_edge_bench, args)


if __name__ == "__main__":
    sys.exit(main())
