"""On the host: what the emulated device gave, against the host's own engines and, for recorded
networks, the official code.

    python tests/arm/compare.py CASES FOUND REPORT

FOUND holds a folder for each case of CASES with ``<bundle>.npz`` (Python) and
``<bundle>-cpp.npz`` (the C++ runtime). REPORT is written as JSON. The exit code is
1 where an fp32 engine is not the host's: another class, a box off by more than a pixel in more than
a hundredth of the coordinates, or a score off by more than 1e-4.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle
from edge.graph import Outputs
from edge.measure.accuracy import evaluate, map_drop_interval
from edge.measure.regions import drift

CLOSE = 1e-4  # of scores, for another order of the same sums


def outputs(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def first(values: Outputs, count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in values.items()}


def differences(found: Outputs, expected: Outputs) -> dict[str, Any]:
    """Largest difference of any kind of score, drift of the regions."""
    scores = [name for name in ("scores", "global_scores", "local_scores") if name in found and name in expected]
    regions = drift(found, expected)
    return {
        "images": len(found["regions"]),
        "score_error": float(max(np.abs(found[name] - expected[name]).max() for name in scores)),
        "coordinates_within_one": float((np.abs(found["regions"] - expected["regions"]) <= 1).mean()),
        **(asdict(regions) if regions else {}),
    }


def judge_case(case: Path, found: Path) -> list[dict[str, Any]]:
    """A row for every engine that gave outputs."""
    rows = []
    for path in sorted(found.glob("*.npz")):
        bundle = path.stem.removesuffix("-cpp")
        host, here = outputs(case / f"host-{bundle}.npz"), outputs(path)
        count = len(here["regions"])
        row = {"case": case.name, "engine": bundle, "language": "c++" if path.stem.endswith("-cpp") else "python"}
        row["precision"] = Bundle.read(case / bundle).target.precision
        row["against_host"] = differences(here, first(host, count))
        if (case / "expected.npz").is_file():
            row["against_official"] = differences(here, first(outputs(case / "expected.npz"), count))
        if (case / "labels.npz").is_file():
            reference, labels = outputs(case / f"host-{bundle}-fp32.npz")["scores"][:count], outputs(case / "labels.npz")["labels"][:count]
            each = {"emulated": here["scores"], "host": host["scores"][:count], "host_fp32": reference}
            row["map"] = {name: evaluate(scores, labels).map for name, scores in each.items()}
            row["map_drop_interval"] = map_drop_interval(reference, here["scores"], labels)
        rows.append(row)
    return rows


def holds(row: dict[str, Any]) -> bool:
    """fp32 must be the host's; what int8 may differ by is for a person to judge."""
    each = [row[name] for name in ("against_host", "against_official") if name in row]
    if row["precision"] != "fp32":
        return True
    return all(one["score_error"] <= CLOSE and one["class_agreement"] == 1 and one["coordinates_within_one"] >= 0.99 for one in each)


def main(cases: Path, found: Path, report: Path) -> int:
    rows = [row for case in sorted(cases.iterdir()) if (found / case.name).is_dir() for row in judge_case(case, found / case.name)]
    report.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row["case"], row["engine"], row["language"], "holds" if holds(row) else "DIFFERS", json.dumps(row["against_host"]))
        print("   ", json.dumps({name: row[name] for name in ("against_official", "map", "map_drop_interval") if name in row}))
    return 0 if rows and all(map(holds, rows)) else 1


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
