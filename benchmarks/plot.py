"""``python -m benchmarks.plot RESULT.json … --output FILE.svg``: the headline of recorded peers
runs as one drawing.

For each result the median latency of every row as a bar, on a logarithmic scale because the slowest
is twenty times the fastest. The drawing brings its own colours for light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import Peers
from edge import command
from edge.atomic import write_atomically
from edge.charts import Bar, bars
from edge.charts.sheet import sheet
from edge.measure import machine
from edge.plain import from_plain

SHOWN = (
    "eager-fp32",
    "eager-bf16",
    "compile-fp32",
    "onnxruntime-fp32",
    "onnxruntime-int8-default",
    "nncf-int8-default",
    "edge-fp32-openvino",
    "edge-fp16-openvino",
    "edge-int8-onnxruntime",
    "edge-int8-openvino",
    "floor-int8",
)
OURS, FLOOR, OTHERS = 0, 2, 5  # numbers of their colours


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("results", nargs="+", type=Path, help="JSON files of benchmarks.peers")
    made.add_argument("--output", type=Path, required=True, metavar="FILE.svg")
    return made


def main(args: argparse.Namespace) -> int:
    write_atomically(args.output, drawing([from_plain(Peers, json.loads(path.read_text(encoding="utf-8"))) for path in args.results]))
    return 0


def drawing(results: Sequence[Peers]) -> str:
    """The SVG: one block of bars per result."""
    blocks = {f"{one.model}, {one.size} px, batch {one.batch}": bars(_bars(one), unit="ms", logarithmic=True) for one in results}
    foot = f"Median latency, logarithmic scale. {machine.sentence(results[0].machine)}."
    return sheet(blocks, title="Median latency of every way to run the model", foot=foot)


def _bars(result: Peers) -> list[Bar]:
    rows = {row.name: row for row in result.rows}
    found = []
    for name in SHOWN:
        row = rows.get(name)
        if row is not None and row.p50_ms:
            colour = OURS if name.startswith("edge-") else FLOOR if name.startswith("floor-") else OTHERS
            lost = row.map_drop if row.map_drop is not None and abs(row.map_drop) >= 0.005 else None
            found.append(Bar(name, row.p50_ms, colour, f"{row.p50_ms:.1f} ms" + (f", {-lost:+.2f} mAP" if lost else "")))
    return found


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
