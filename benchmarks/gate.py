"""``python -m benchmarks.gate WEIGHTS --dataset SPEC``: does what the gate promises hold on images
it did not decide on?

Images that no weight and no range was fitted to (the held-out part of train, and the split that is
reported) are split at random: as many as the held-out part has decide, the rest are what the
promise is held against. An engine is run once over all of them, whatever the number of splits.
First, without returning anything: of many splits, how many meet the limit at once, and keep it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from benchmarks.int8 import calibrated, fitted, slower, target_of
from calib.placement import quantize
from calib.sensitivity import hold_gate, judge, units
from calib.trials import Trials
from edge import command
from edge.data import REPORT, match_labels, open_dataset, validation_split
from edge.errors import GateError
from edge.graph import Graph, Outputs
from edge.measure.accuracy import evaluate
from edge.models.source import open_source
from edge.plain import Json
from export.exporter import export_graph

DRAWS = 200


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("weights", help="shipped name or checkpoint")
    made.add_argument("--dataset", required=True, metavar="SPEC", help="what it was trained on")
    made.add_argument("--backend", default="openvino")
    made.add_argument("--max-map-drop", type=float, default=0.2, metavar="PTS")
    made.add_argument("--splits", type=int, default=10)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    source = open_source(args.weights)
    graph = export_graph(source.network, source.model, source.image)
    train, test = (match_labels(open_dataset(args.dataset, split), source.model.labels) for split in ("train", REPORT))
    kept, held_out = validation_split(train)
    assert held_out.labels is not None
    assert test.labels is not None
    start, table = calibrated(graph, kept)
    rounding = fitted(start, table, kept)
    target = target_of(args.backend)
    labels = np.concatenate([held_out.labels, test.labels])
    known: dict[str, Outputs] = {}

    def quantised(nodes: Collection[str] = ()) -> Graph:
        return quantize(start, table, float_nodes=nodes, fitted=rounding)

    with Trials(held_out, target) as one, Trials(test, target) as other:

        def outputs(graph: Graph) -> Outputs:
            if graph.digest not in known:
                known[graph.digest] = joined([trials.run(graph) for trials in (one, other)])
            return known[graph.digest]

        reference = joined([trials.reference(graph) for trials in (one, other)])
        met, kept_of_them = ungated(outputs(quantised()), reference, labels, len(held_out), args.max_map_drop)
        command.say(f"{met} of {DRAWS} splits meet {args.max_map_drop:g} at once, and {kept_of_them} of these on the other images")
        rows: list[dict[str, Json]] = []
        for split in range(args.splits):
            decide, rest = divided(split, len(labels), len(held_out))

            def run(graph: Graph, decide: np.ndarray = decide) -> Outputs:
                return of(outputs(graph), decide)

            try:
                gated = hold_gate(quantised, units(graph), run, of(reference, decide), labels[decide], max_map_drop=args.max_map_drop)
            except GateError as error:
                command.say(f"split {split}: {error}")
                rows.append({"split": split, "held": None})
                continue
            drop = judge(of(outputs(gated.graph), rest), of(reference, rest), labels[rest]).map_drop
            plain = judge(of(outputs(quantised()), rest), of(reference, rest), labels[rest]).map_drop
            ratio = slower(gated.graph, quantised(), target) if gated.returned else 1.0
            rows.append({
                "split": split, "promised": gated.judgement.map_drop, "found": drop, "without": plain,
                "held": drop <= args.max_map_drop, "returned": list(gated.returned), "time": ratio,
            })  # fmt: skip
            command.say(
                f"split {split}: promised {gated.judgement.map_drop:.2f}, found {drop:.2f} (ungated {plain:.2f}), "
                f"{len(gated.returned)} units in float, time × {ratio:.2f}"
            )
    command.say(f"the promise of {args.max_map_drop:g} held in {sum(bool(row['held']) for row in rows)} of {len(rows)} splits")
    command.write_json(args.json, {
        "weights": source.title, "max_map_drop": args.max_map_drop, "draws": DRAWS, "met": met, "kept": kept_of_them, "splits": rows,
    })  # fmt: skip
    return 0


def divided(split: int, count: int, deciding: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that decide, and of the rest."""
    order = np.random.default_rng(split).permutation(count)
    return order[:deciding], order[deciding:]


def ungated(found: Outputs, reference: Outputs, labels: np.ndarray, deciding: int, limit: float) -> tuple[int, int]:
    """Of ``DRAWS`` splits, in how many the images that decide lose no more than the limit, and in
    how many of these the rest do not either."""

    def drop(chosen: np.ndarray) -> float:
        before, after = (evaluate(each["scores"][chosen], labels[chosen]).map for each in (reference, found))
        return before - after

    held = [
        drop(rest) <= limit for decide, rest in (divided(split, len(labels), deciding) for split in range(DRAWS)) if drop(decide) <= limit
    ]
    return len(held), sum(held)


def joined(parts: Sequence[Outputs]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def of(outputs: Outputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[chosen] for name, value in outputs.items()}


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
