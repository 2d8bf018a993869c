"""``python -m benchmarks.gpu.stand_in mcar_edge_build|mcar_edge_bench …``: the flags of the C++ programs, on this machine's CPU.

For rehearsals only: a bundle for TensorRT is rebuilt for OpenVINO, its latency is Python's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from edge import Engine
from edge.command import run
from edge.manifest import read_manifest
from edge.pipeline import BuildOptions, rebuild


def mcar_edge_build(args: argparse.Namespace) -> int:
    batch = read_manifest(args.bundle)["target"]["batches"][-1]
    rebuild(args.bundle, BuildOptions(backend="openvino", batch=batch, output=args.out, force=args.force))
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
    percentiles = {f"p{percent}": float(np.percentile(samples, percent)) for percent in (50, 90, 99)}
    args.json.write_text(json.dumps({"batch": batch, "latency_ms": percentiles, "samples_ms": samples}))
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
    for name in ("--batch", "--iterations", "--warmup"):
        bench.add_argument(name, type=int, default=1)
    bench.add_argument("--images", type=Path)
    bench.add_argument("--outputs", type=Path)
    args = made.parse_args()
    return run(mcar_edge_build if args.program == "mcar_edge_build" else mcar_edge_bench, args)


if __name__ == "__main__":
    sys.exit(main())
