"""``python -m benchmarks.gate WEIGHTS --dataset SPEC``: does what the gate promises hold on images
it did not decide on?

Images that no weight and no range was fitted to (the held-out part of train, and the split that is
reported) are split at random: as many as the held-out part has decide, the rest are what the
promise is held against. An engine is run once over all of them, whatever the number of splits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from calib.calibration import Calibration, Fitted
from calib.equalise import equalise
from calib.fit import fit, images_for
from calib.peaks import IMAGES, peaks
from calib.placement import DEFAULT_METHOD, quantize
from calib.ranges import PIXELS, calibrate
from calib.sensitivity import hold_gate, judge, units
from calib.trials import Trials, engine_of, scratch
from edge import backends, command
from edge.data import REPORT, Dataset, batches, calibration_subset, match_labels, open_dataset, validation_split
from edge.errors import GateError
from edge.graph import Graph, Outputs
from edge.measure.latency import interleave, timed
from edge.models.source import open_source
from edge.plain import Json
from edge.spec import TargetSpec
from export.exporter import export_graph


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
    start, table, fitted = prepared(graph, kept)
    found = backends.probe(args.backend)
    target = TargetSpec(args.backend, "int8", (1,), found.int8_float16, found.reduced_range)
    labels = np.concatenate([held_out.labels, test.labels])
    known: dict[str, Outputs] = {}

    def quantised(nodes: Collection[str] = ()) -> Graph:
        return quantize(start, table, float_nodes=nodes, fitted=fitted)

    with Trials(held_out, target) as one, Trials(test, target) as other:

        def outputs(graph: Graph) -> Outputs:
            if graph.digest not in known:
                known[graph.digest] = joined([trials.run(graph) for trials in (one, other)])
            return known[graph.digest]

        reference = joined([trials.reference(graph) for trials in (one, other)])
        rows: list[dict[str, Json]] = []
        for split in range(args.splits):
            order = np.random.default_rng(split).permutation(len(labels))
            decide, rest = order[: len(held_out)], order[len(held_out) :]

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
    command.write_json(args.json, {"weights": source.title, "max_map_drop": args.max_map_drop, "splits": rows})
    return 0


def prepared(graph: Graph, images: Dataset) -> tuple[Graph, Calibration, Fitted]:
    """The graph equalised, its ranges and its fitted rounding, as a build makes them."""

    def some(count: int) -> Dataset:
        return images.subset(calibration_subset(images, count, 0))

    batch = max(1, PIXELS // graph.image.size**2)
    start = equalise(graph, peaks(graph, (each for _, each in batches(some(IMAGES), graph.image, batch)))).graph
    table = calibrate(start, images)
    chosen = (each for _, each in batches(some(images_for(graph.image.size)), graph.image, batch))
    return start, table, fit(start, table, chosen, method=DEFAULT_METHOD)


def slower(gated: Graph, plain: Graph, target: TargetSpec) -> float:
    """How much longer the gated engine takes at batch 1: the median of paired ratios, turn by
    turn."""
    image = np.zeros((1, 3, plain.image.size, plain.image.size), np.float32)
    with scratch() as folder, engine_of(gated, target, folder) as one, engine_of(plain, target, folder) as other:
        rounds = interleave({"gated": timed(lambda: one.infer(image)), "plain": timed(lambda: other.infer(image))})
    return float(median(rounds.compare("gated", "plain").ratios))


def joined(parts: Sequence[Outputs]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def of(outputs: Outputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[chosen] for name, value in outputs.items()}


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
