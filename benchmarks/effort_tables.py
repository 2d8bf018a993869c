"""``python -m benchmarks.effort_tables NAME --dataset SPEC``: the rule, effort and thresholds that
shipped weights bring.

Builds the weights in int8 and fp32 on OpenVINO with ``effort`` auto and writes what the engines'
own outputs decided to ``edge/assets/NAME.effort.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from edge import command
from edge.adaptive import ASSETS
from edge.atomic import write_atomically
from edge.backends.base import Facts
from edge.bundle import Bundle
from edge.pipeline import BuildOptions, build

PRECISIONS = {"int8": "int8", "float": "fp32"}


def arguments() -> argparse.ArgumentParser:
    made = command.parser("effort_tables", "Fit the rule of the second pass for shipped weights.")
    made.prog = "python -m benchmarks.effort_tables"
    made.add_argument("name", help="of the shipped weights")
    made.add_argument("--dataset", metavar="SPEC", default="scenes", help="labelled images that they were not trained on")
    return made


def main(args: argparse.Namespace) -> int:
    made: dict[str, Bundle] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, precision in PRECISIONS.items():
            options = BuildOptions(
                weights=args.name,
                precision=precision,
                backend="openvino",
                dataset=args.dataset,
                effort="auto",
                output=Path(folder) / part,
                calibration=ASSETS / f"{args.name}.calibration.json" if precision == "int8" else None,
            )
            made[part] = build(options, events=command.Terminal(args))
    first = made["int8"]
    content = {
        "command": f"python -m benchmarks.effort_tables {args.name} --dataset {args.dataset.split(':')[0]}"
        + (f":{Path(args.dataset.split(':')[1]).name}" if ":" in args.dataset else ""),
        "version": first.manifest["version"],
        "weights": first.manifest["parents"]["weights"],
        "size": first.image.size,
        "options": dict(first.model.options),
        **{part: _part(bundle) for part, bundle in made.items()},
    }
    write_atomically(ASSETS / f"{args.name}.effort.json", json.dumps(content, indent=1) + "\n")
    return 0


def _part(bundle: Bundle) -> Facts:
    stages, facts = bundle.manifest["stages"], bundle.manifest["effort"]
    return {
        "rule": stages["rule"],
        "effort": stages["effort"],
        "thresholds": [round(value, 6) for value in stages["thresholds"]],
        "full_thresholds": [round(value, 6) for value in bundle.model.thresholds],
        "judged": {name: facts[name] for name in ("drop", "interval", "looks", "images")},
    }


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
