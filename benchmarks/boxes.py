"""``python -m benchmarks.boxes WEIGHTS --dataset SPEC``: how int8 moves boxes.

Boxes of the classes that float32 finds strongest, cut from its class maps and from those of the
default int8 graph on ONNX Runtime, on every second image of the held-out part of the train split.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from benchmarks.int8 import BATCH, calibrated, fitted
from calib.placement import quantize
from edge import command, lower
from edge.backends.onnxruntime import Session
from edge.data import Dataset, batches, match_labels, open_dataset, validation_split
from edge.graph import Graph
from edge.measure.regions import box_iou
from edge.models.localisation import boxes_of
from edge.models.source import open_source
from export.exporter import export_graph

MOVED = 1 / 8  # of the image's side, by an edge of a box
NOISES = (0.003, 0.01, 0.03)  # of the spread of logits
FAINT, SATURATED = 0.1, 0.999  # largest score within a map


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.boxes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("weights", help="shipped name or checkpoint")
    made.add_argument("--dataset", required=True, metavar="SPEC", help="what it was trained on")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    source = open_source(args.weights)
    graph = export_graph(source.network, source.model, source.image)
    kept, held_out = validation_split(match_labels(open_dataset(args.dataset, "train"), source.model.labels))
    images = held_out.subset(range(0, len(held_out), 2))
    start, table = calibrated(graph, kept)
    rounded = lower.lower(quantize(start, table, fitted=fitted(start, table, kept)).parse(), backend="onnxruntime", precision="int8")
    exact, scores = class_maps(lower.reference(graph.parse()), graph, images)
    noisy, _ = class_maps(rounded, graph, images)
    options = source.model.options
    strongest = torch.from_numpy(np.argsort(-scores, 1)[:, : int(options["regions"])].copy())  # type: ignore[call-overload]
    right, wrong = (each.gather(1, strongest[:, :, None, None].expand(-1, -1, *each.shape[2:])) for each in (exact, noisy))
    found = compare(right, wrong, source.image.size, float(options["threshold"]))  # type: ignore[arg-type]
    command.say(*(f"{name:40} {value:.3f}" for name, value in found.items()))
    command.write_json(args.json, found)
    return 0


def class_maps(model: onnx.ModelProto, graph: Graph, images: Dataset) -> tuple[Tensor, np.ndarray]:
    """Logits of the class maps (N, C, h, w) that boxes are cut from, and global scores (N, C)."""
    source = {name: node for node in graph.parse().graph.node for name in node.output}
    value = next(node for node in source.values() if node.op_type == "RegionBoxes").input[0]
    while source[value].op_type != "Sigmoid":
        value = source[value].input[0]
    name = source[value].input[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = Session(model.SerializeToString())
    parts = [session(batch) for _, batch in batches(images, graph.image, BATCH)]
    maps, scores = (np.concatenate([part[each] for part in parts]) for each in (name, "global_scores"))
    side = round((maps[0, 0].size) ** 0.5)
    return torch.from_numpy(maps.reshape(*maps.shape[:2], side, side)), scores


def compare(exact: Tensor, noisy: Tensor, size: int, threshold: float) -> dict[str, float]:
    """How far boxes cut from the maps of ``noisy`` lie from those of ``exact``, both (N, K, h, w)
    logits."""

    def boxes(maps: Tensor) -> np.ndarray:
        return np.asarray(boxes_of(maps, size, threshold))

    def spread(one: Tensor, other: Tensor) -> float:
        return float((one - other).square().mean().sqrt() / one.std())

    right, wrong = boxes(exact.sigmoid()), boxes(noisy.sigmoid())
    iou, peak = box_iou(wrong, right), exact.sigmoid().amax((2, 3)).numpy()
    moved = (np.abs(wrong - right) > MOVED * size).any(-1)
    found = {
        "error of logits, of their spread": spread(exact, noisy),
        "error of scores, of their spread": spread(exact.sigmoid(), noisy.sigmoid()),
        "IoU": float(iou.mean()),
        "IoU, cut from logits": float(box_iou(boxes(noisy), boxes(exact)).mean()),
        f"maps that reach {SATURATED:g}": float((peak > SATURATED).mean()),
        f"boxes moved by more than {MOVED * size:g} px": float(moved.mean()),
        "their part of what IoU lacks": float((1 - iou)[moved].sum() / max((1 - iou).sum(), 1e-9)),
        f"IoU of maps that reach less than {FAINT:g}": float(iou[peak < FAINT].mean()) if (peak < FAINT).any() else float("nan"),
    }
    found |= {f"IoU of class {rank + 1}": float(iou[:, rank].mean()) for rank in range(iou.shape[1])}
    for noise in NOISES:
        drawn = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
        found[f"IoU, white noise of {noise:.1%}"] = float(box_iou(boxes((exact + noise * exact.std() * drawn).sigmoid()), right).mean())
    return found


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
