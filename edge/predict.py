"""``python -m edge.predict``: photographs → labels and regions."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge import command
from edge.atomic import write_atomically
from edge.engine import Engine, Prediction
from edge.errors import EdgeError
from edge.image import decode, draw


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "predict",
        "Recognise photographs with a bundle; with --draw, write them with their regions, labels and scores.",
        "example:\n  python -m edge.predict engines/mcar-mobilenetv2-scenes-256-int8-openvino photos/*.jpg --draw out/ --json out.json",
    )
    made.add_argument("bundle", type=Path, help="bundle folder made by edge.build")
    made.add_argument("images", nargs="+", metavar="IMAGE", help="image files, any size and format Pillow reads")
    made.add_argument("--draw", type=Path, metavar="DIR", help="write annotated images into DIR")
    made.add_argument(
        "--score-threshold", type=float, metavar="T", help="labels at or above this score; default: the bundle's own, else 0.5"
    )
    return made


def main(args: argparse.Namespace) -> int:
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise EdgeError(
            "predict", "a score threshold must be a probability", got=args.score_threshold, expected="0 to 1", do="Change --score-threshold"
        )
    results: list[dict[str, Any]] = []
    names = _file_names(args.images)
    with Engine.load(args.bundle) as engine, command.progress("predict") as report:
        step = engine.bundle.target.max_batch
        for start in range(0, len(args.images), step):
            results += _chunk(engine, args.images[start : start + step], names[start : start + step], args)
            report(len(results), len(args.images))
    command.write_json(args.json, results)
    return 1 if any("error" in result for result in results) else 0


def _chunk(engine: Engine, paths: list[str], names: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict at most a batch of images; an unreadable one becomes an entry with its error, the others go on."""
    photos: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for path in paths:
        try:
            photos[path] = decode(path)
        except EdgeError as error:
            errors[path] = str(error)
            print(error, file=sys.stderr)
    predictions = dict(zip(photos, engine.predict(list(photos.values()), score_threshold=args.score_threshold), strict=True))
    results = []
    for path, name in zip(paths, names, strict=True):
        if path in errors:
            results.append({"image": path, "error": errors[path]})
            continue
        prediction = predictions[path]
        results.append({"image": path, **_plain(prediction)})
        command.say(f"{path}: " + (", ".join(f"{name} {score:.2f}" for name, score in prediction.labels) or "nothing above the threshold"))
        if args.draw:
            _draw(photos[path], prediction, args.draw / name)
    return results


def _file_names(paths: Sequence[str]) -> list[str]:
    """A name of its own for the drawing of every image: ``a/1.jpg`` and ``b/1.jpg`` become ``1.png`` and ``1-2.png``."""
    names: list[str] = []
    taken: set[str] = set()
    for stem in (Path(path).stem for path in paths):
        name = next(name for name in (stem, *(f"{stem}-{count}" for count in range(2, len(paths) + 1))) if name not in taken)
        taken.add(name)
        names.append(f"{name}.png")
    return names


def _plain(prediction: Prediction) -> dict[str, Any]:
    return {
        "labels": [{"name": name, "score": score} for name, score in prediction.labels],
        "regions": [{"box": list(region.box), "label": region.label, "score": region.score} for region in prediction.regions],
    }


def _draw(photo: Any, prediction: Prediction, path: Path) -> None:
    png = io.BytesIO()
    draw(photo, prediction).save(png, "PNG")
    write_atomically(path, png.getvalue())


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
