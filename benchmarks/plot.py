"""``python -m benchmarks.plot RESULT.json … --output FILE.svg``: the headline of recorded peers runs as one drawing.

For each result the median latency of every row as a bar, on a logarithmic scale because the slowest is twenty times the fastest.
The drawing brings its own colours for light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge import command
from edge.atomic import write_atomically
from edge.measure import machine
from edge.report.charts import box, label
from edge.report.style import DARK, LIGHT

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
WIDTH, LEFT, RIGHT, STEP, HEAD = 900, 210, 150, 19, 34


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("results", nargs="+", type=Path, help="JSON files of benchmarks.peers")
    made.add_argument("--output", type=Path, required=True, metavar="FILE.svg")
    return made


def main(args: argparse.Namespace) -> int:
    write_atomically(args.output, drawing([json.loads(path.read_text(encoding="utf-8")) for path in args.results]))
    return 0


def drawing(results: Sequence[Mapping[str, Any]]) -> str:
    """The SVG: one block of bars per result."""
    blocks, top = [], 14.0
    for result in results:
        block, height = _block(result, top)
        blocks.append(block)
        top += height + 18
    foot = machine.sentence(results[0]["machine"])
    blocks.append(label(0, top + 4, f"Median latency, logarithmic scale. {foot}.", "soft"))
    style = f"svg{{{LIGHT}}}@media (prefers-color-scheme:dark){{svg{{{DARK}}}}}{_STYLE}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 14:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="Median latency of every way to run the model"><style>{style}</style>{"".join(blocks)}</svg>\n'
    )


def _block(result: Mapping[str, Any], top: float) -> tuple[str, float]:
    rows = {row["name"]: row for row in result["rows"] if row.get("p50_ms")}
    names = [name for name in SHOWN if name in rows]
    slowest, fastest = max(rows[name]["p50_ms"] for name in names), min(rows[name]["p50_ms"] for name in names)
    low = fastest / 2
    parts = [label(0, top + 8, f"{result['model']}, {result['size']} px, batch {result['batch']}", "head")]
    for index, name in enumerate(names):
        row, y = rows[name], top + HEAD - 12 + index * STEP
        wide = (WIDTH - LEFT - RIGHT) * math.log(row["p50_ms"] / low) / math.log(slowest / low)
        kind = "ours" if name.startswith("edge-") else "floor" if name.startswith("floor-") else "peer"
        lost = row.get("map_drop")
        told = f"{row['p50_ms']:.1f} ms" + (f", {-lost:+.2f} mAP" if lost is not None and abs(lost) >= 0.005 else "")
        parts.append(label(LEFT - 10, y + 11, name, "label", "end"))
        parts.append(box(LEFT, y, wide, STEP - 5, kind))
        parts.append(label(LEFT + wide + 6, y + 11, told, "soft"))
    return "".join(parts), HEAD + len(names) * STEP - 12


_STYLE = (
    'text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px;fill:var(--ink)}'
    "rect{rx:2px}.head{font-size:14px;font-weight:600}.soft{fill:var(--soft)}.peer{fill:var(--c5);opacity:.65}.ours{fill:var(--c0)}.floor{fill:var(--c2)}"
)

if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
