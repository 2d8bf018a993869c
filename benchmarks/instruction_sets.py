"""What an int8 bundle answers when OpenVINO may use fewer of this processor's instructions: mAP and
region drift of each set.

    python -m benchmarks.instruction_sets BUNDLE --dataset scenes --images 2000

``ONEDNN_MAX_CPU_ISA`` lets one processor stand for several, as far as oneDNN's kernels go. It is
read once a process, so each set runs in a process of its own. Drift is counted against everything
this processor has (``DEFAULT``).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.workers import Apart
from edge import command
from edge.data import Dataset, open_dataset
from edge.data.base import REPORT
from edge.data.loader import batches
from edge.engine import Engine
from edge.graph import Outputs
from edge.measure import machine
from edge.measure.accuracy import evaluate
from edge.measure.outputs import collect, sample
from edge.measure.regions import drift
from edge.plain import to_plain

DEFAULT = "DEFAULT"
SETS = (DEFAULT, "AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2", "SSE41")  # oneDNN's names
BATCH = 8
LIMIT_S = 3600.0  # for one set


def main(args: argparse.Namespace) -> None:
    dataset, rows = _dataset(args), {}
    reference = answers(args, DEFAULT)
    for name in args.sets:
        outputs = reference if name == DEFAULT else answers(args, name)
        row: dict[str, float | None] = {} if dataset.labels is None else {"map": evaluate(outputs["scores"], dataset.labels).map}
        moved = drift(outputs, reference)
        rows[name] = row | (asdict(moved) if moved else {})
        print(f"{name:18}" + "".join(f"  {key} {value:.4g}" for key, value in rows[name].items() if value is not None), flush=True)
    result = {"bundle": args.bundle.name, "dataset": args.dataset, "images": len(dataset), "sets": rows}
    command.write_json(args.json, {**result, "machine": to_plain(machine.describe())})


def answers(args: argparse.Namespace, name: str) -> Outputs:
    """Outputs of the bundle under a set of instructions, from a process of its own."""
    with Apart() as process:
        return process.call(partial(_collect, args, name), LIMIT_S)


def _collect(args: argparse.Namespace, name: str) -> Outputs:
    os.environ["ONEDNN_MAX_CPU_ISA"] = name
    dataset = _dataset(args)
    with Engine.load(args.bundle) as engine:
        size = min(BATCH, engine.bundle.target.max_batch)
        return collect(engine.infer, batches(dataset, engine.bundle.image, size), len(dataset)).outputs


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
    return parser


if __name__ == "__main__":
    main(arguments().parse_args())
