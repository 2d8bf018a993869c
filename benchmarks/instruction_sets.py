"""What an int8 bundle answers when OpenVINO may use fewer of this processor's instructions: mAP and region drift of each set.

    python -m benchmarks.instruction_sets BUNDLE --dataset scenes --images 2000

``ONEDNN_MAX_CPU_ISA`` lets one processor stand for several, as far as oneDNN's kernels go. It is read once a process, so
each set runs in a process of its own. Drift is counted against everything this processor has (``DEFAULT``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge.atomic import write_atomically
from edge.data import Dataset, open_dataset
from edge.data.base import REPORT
from edge.data.loader import batches
from edge.engine import Engine
from edge.measure import machine
from edge.measure.accuracy import evaluate
from edge.measure.outputs import collect, sample
from edge.measure.regions import drift
from edge.plain import to_plain

DEFAULT = "DEFAULT"
SETS = (DEFAULT, "AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2", "SSE41")  # oneDNN's names
BATCH = 8


def main(args: argparse.Namespace) -> None:
    dataset = _dataset(args)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        answers = {name: _answers(name, Path(folder) / f"{name}.npz") for name in args.sets}
    for name, values in answers.items():
        row: dict[str, float | None] = {} if dataset.labels is None else {"map": evaluate(values["scores"], dataset.labels).map}
        moved = drift(values, answers[DEFAULT])
        rows[name] = row | (asdict(moved) if moved else {})
        print(f"{name:18}" + "".join(f"  {key} {value:.4g}" for key, value in rows[name].items() if value is not None), flush=True)
    if args.json:
        result = {
            "bundle": args.bundle.name,
            "dataset": args.dataset,
            "images": len(dataset),
            "sets": rows,
            "machine": to_plain(machine.describe()),
        }
        write_atomically(args.json, json.dumps(result, indent=1) + "\n")


def _answers(name: str, path: Path) -> dict[str, np.ndarray]:
    """Outputs of the bundle under a set of instructions, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.instruction_sets", *sys.argv[1:], "--answers", str(path)]
    subprocess.run(command, env={**os.environ, "ONEDNN_MAX_CPU_ISA": name}, check=True)
    with np.load(path) as stored:
        return dict(stored)


def _collect(args: argparse.Namespace) -> None:
    dataset = _dataset(args)
    with Engine.load(args.bundle) as engine:
        size = min(BATCH, engine.bundle.target.max_batch)
        found = collect(engine.infer, batches(dataset, engine.bundle.image, size), len(dataset))
        np.savez(args.answers, **found.outputs)  # type: ignore[arg-type]


def _dataset(args: argparse.Namespace) -> Dataset:
    whole = open_dataset(args.dataset, REPORT)
    return whole.subset(sample(len(whole), args.images))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dataset", default="scenes", metavar="SPEC")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    given = arguments().parse_args()
    (_collect if given.answers else main)(given)
