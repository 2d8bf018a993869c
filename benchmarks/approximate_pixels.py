"""``python -m benchmarks.approximate_pixels BUNDLE --dataset SPEC``: cost and gain of
``predict(approximate_pixels=True)``.

Accuracy: images of the data set, enlarged to ``--side`` (Lanczos) and saved as JPEG, so that both
ways start from the same files. Times: of what is outside the network, for a 1080p frame in memory
and a 12-megapixel JPEG, interleaved with Pillow's own resize; in processor time of the one thread
that does the work, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge import Engine, __version__, command
from edge.data import open_dataset
from edge.data.base import REPORT, Dataset
from edge.image import decode, decode_resized, normalise
from edge.measure import latency, machine
from edge.measure.accuracy import evaluate, map_drop_interval
from edge.plain import to_plain

QUALITY = 90
FRAME, PHOTO = (1920, 1080), (4000, 3000)


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.approximate_pixels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("bundle", type=Path, help="bundle folder")
    made.add_argument("--dataset", metavar="SPEC", help="labelled data set; without one only times are taken")
    made.add_argument("--images", type=int, default=1000)
    made.add_argument("--side", type=int, default=1024, help="pixels of the files (default 1024)")
    made.add_argument("--rounds", type=int, default=11, help="of the times; 0 takes none (default 11)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    with Engine.load(args.bundle) as engine:
        times = measure_times(engine, args.rounds) if args.rounds else None
        accuracy = measure_accuracy(engine, open_dataset(args.dataset, REPORT), args.images, args.side) if args.dataset else None
    command.write_json(
        args.json, {"version": __version__, "machine": to_plain(machine.describe()), "times_ms": times, "accuracy": accuracy}
    )
    return 0


def measure_accuracy(engine: Engine, dataset: Dataset, images: int, side: int) -> Mapping[str, Any]:
    """Both ways on the same files, a batch at a time."""
    assert dataset.labels is not None
    labels, step = dataset.labels[:images], engine.bundle.target.max_batch
    scores: dict[bool, list[NDArray[np.float32]]] = {False: [], True: []}
    with command.progress("images") as progress:
        for start in range(0, len(labels), step):
            some = range(start, min(start + step, len(labels)))
            files = [_jpeg(Image.fromarray(dataset[index].image), (side, side)) for index in some]
            for approximate, found in scores.items():
                found += [one.scores for one in engine.predict(files, approximate_pixels=approximate)]
            progress(some.stop, len(labels))
    exact, approximated = np.stack(scores[False]), np.stack(scores[True])
    low, high = map_drop_interval(exact, approximated, labels)
    before, after = evaluate(exact, labels).map, evaluate(approximated, labels).map
    command.say(f"mAP {before:.2f}, approximate {after:.2f}: drop {before - after:.2f} [{low:.2f}, {high:.2f}]")
    return {
        "dataset": dataset.name,
        "images": len(labels),
        "side": side,
        "map": before,
        "map_approximate": after,
        "map_drop_interval": [low, high],
        "mean_score_difference": float(np.abs(exact - approximated).mean()),
    }


def measure_times(engine: Engine, rounds: int) -> Mapping[str, float]:
    spec = engine.bundle.image
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (135, 240, 3), np.uint8))
    frame, photo = np.asarray(coarse.resize(FRAME)), _jpeg(coarse, PHOTO)
    row = np.empty(spec.shape, spec.input)

    def prepared(source: Any, approximate: bool) -> None:
        normalise(decode_resized(source, spec.size, approximate=approximate)[0], spec, out=row)

    turns = {
        "Pillow's resize of the frame": lambda: Image.fromarray(frame).resize((spec.size, spec.size), Image.Resampling.BILINEAR),
        "frame, exact": lambda: prepared(frame, False),
        "frame, approximate": lambda: prepared(frame, True),
        "decoding the photograph": lambda: decode(photo),
        "photograph, exact": lambda: prepared(photo, False),
        "photograph, approximate": lambda: prepared(photo, True),
    }
    with command.progress("times", "turn") as progress:
        found = latency.interleave(
            {name: latency.timed(turn, time.thread_time) for name, turn in turns.items()}, rounds=rounds, progress=progress
        )
    first = next(iter(turns))
    medians = {}
    for name in turns:
        compared = "" if name == first else f"  {found.compare(name, first)}"
        medians[name] = found.latency(name).percentiles.p50
        command.say(f"{name:30} {medians[name]:7.2f} ms{compared}")
    return medians


def _jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
