"""``python -m benchmarks.streams WEIGHTS --dataset SPEC``: what each stream of a network is worth
in float32, and the second look.

The tables of a model card: mAP of the streams with its 95 % interval, F1 at 0.6 as in the official
code and at 0.5 as in the literature, AP of each class, and the difference between the fused scores
and the global ones with its paired interval.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from numpy.typing import NDArray

from edge import command
from edge.backends.base import Facts
from edge.data import REPORT, Dataset, batches, match_labels, open_dataset
from edge.errors import EdgeError
from edge.measure.accuracy import evaluate, map_drop_interval, map_interval
from edge.measure.outputs import sample
from edge.models.source import Source, open_source

BATCH = 8
F1_AT = (0.6, 0.5)


def arguments() -> argparse.ArgumentParser:
    made = command.parser("streams", __doc__ or "")
    made.prog = "python -m benchmarks.streams"
    made.add_argument("weights", metavar="SHIPPED|PATH")
    made.add_argument("--dataset", metavar="SPEC", default="aerial", help="labelled images (default aerial)")
    made.add_argument("--images", type=int, help="at most so many (default: all)")
    return made


def main(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.dataset, REPORT)
    found = judge(open_source(args.weights), dataset.subset(sample(len(dataset), args.images or len(dataset))))
    tell(found)
    command.write_json(args.json, found)
    return 0


def judge(source: Source, dataset: Dataset) -> Facts:
    """mAP of every stream in points, with intervals; of several streams also the last one's gain
    over the first.

    Raises:
        EdgeError: images without labels.
    """
    dataset = match_labels(dataset, source.model.labels)
    if dataset.labels is None:
        raise EdgeError("streams", f"{dataset.name} has no labels", "Choose a labelled data set: `dataset`")
    scores = _scores(source, dataset)
    streams: dict[str, Facts] = {}
    for name, values in scores.items():
        points = evaluate(values, dataset.labels)
        f1 = {str(at): evaluate(values, dataset.labels, threshold=at).overall for at in F1_AT}
        streams[name] = {
            "map": points.map,
            "interval": map_interval(values, dataset.labels),
            "f1": {at: {"cf1": each.cf1, "of1": each.of1} for at, each in f1.items()},
            "per_class": dict(zip(dataset.classes, points.per_class, strict=True)),
        }
    first, *_, last = (*scores, *scores)
    gain = {
        "of": f"{last} over {first}",
        "map": streams[last]["map"] - streams[first]["map"],
        "interval": map_drop_interval(scores[last], scores[first], dataset.labels),
    }
    about = {"weights": source.title, "digest": source.digest, "data": f"{dataset.name} {dataset.split}", "images": len(dataset)}
    return {**about, "streams": streams, "gain": gain if first != last else None}


def tell(found: Facts) -> None:
    """The tables as Markdown."""
    command.say(f"{found['weights']}, {found['images']} images of {found['data']}", "")
    command.say("| stream | mAP | " + " | ".join(f"CF1 / OF1 at {at}" for at in F1_AT) + " |", "|---|---|" + "---|" * len(F1_AT))
    for name, each in found["streams"].items():
        low, high = each["interval"]
        rates = " | ".join(f"{each['f1'][str(at)]['cf1']:.1f} / {each['f1'][str(at)]['of1']:.1f}" for at in F1_AT)
        command.say(f"| {name} | {each['map']:.2f} [{low:.1f}, {high:.1f}] | {rates} |")
    if found["gain"] is not None:
        low, high = found["gain"]["interval"]
        command.say("", f"{found['gain']['of']}: {found['gain']['map']:+.2f} [{low:+.2f}, {high:+.2f}]")
    *_, last = found["streams"].values()
    ranked = sorted(last["per_class"].items(), key=lambda pair: -pair[1])
    command.say("", "AP by class: " + ", ".join(f"{name} {points:.0f}" for name, points in ranked))


@torch.no_grad()
def _scores(source: Source, dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    parts: dict[str, list[NDArray[np.float32]]] = {}
    with command.progress("streams") as progress:
        done = 0
        for names, images in batches(dataset, source.image, BATCH):
            for name, values in source.network.stream_scores(torch.from_numpy(images)).items():
                parts.setdefault(name, []).append(values.numpy())
            done += len(names)
            progress(done, len(dataset))
    return {name: np.concatenate(each) for name, each in parts.items()}


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
