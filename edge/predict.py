"""``python -m edge.predict``: photographs → labels and regions."""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from edge import command
from edge.atomic import check_folder_writable, write_atomically
from edge.draw import draw
from edge.engine import Engine
from edge.errors import EdgeError
from edge.image import decode
from edge.prediction import Prediction

Entry = Mapping[str, str | list[dict[str, str | float | list[float]]]]  # of an image in the result
SOFTWARE = "mcar-edge"  # said in every drawing: only a drawing of ours is drawn over


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "predict",
        "Find labels and regions in photos; with --draw, write copies with regions, labels and scores drawn in.",
        "example:\n  python -m edge.predict engines/mcar-mobilenetv2-ucmerced-256-int8-openvino photos/*.jpg --draw out/ --json out.json",
    )
    made.add_argument("bundle", type=Path, help="bundle folder made by edge.build")
    made.add_argument("images", nargs="+", metavar="IMAGE", help="image files, of any size, in any format that Pillow reads")
    made.add_argument("--draw", type=Path, metavar="DIR", help="write annotated images into DIR")
    made.add_argument(
        "--score-threshold", type=float, metavar="T", help="labels at or above this score (default: the bundle's own, else 0.5)"
    )
    command.add_approximate_pixels(made)
    return made


def main(args: argparse.Namespace) -> int:
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise EdgeError("predict", f"`score_threshold` is {args.score_threshold:g}", "Use a value from 0 to 1")
    photographs = {_identity(path) for path in args.images} - {None}
    if args.json is not None and _identity(args.json) in photographs:
        raise EdgeError("predict", f"{args.json} is one of the input images", "Write the --json result to another file")
    drawings: list[Path] | list[None] = [None] * len(args.images)
    if args.draw is not None:
        check_folder_writable(args.draw)
        drawings = _drawings(args.images, args.draw, photographs)
    results: list[Entry] = []
    complete = True
    with Engine.load(args.bundle) as engine, command.progress("predict") as report:
        step = engine.bundle.target.max_batch
        for start in range(0, len(args.images), step):
            found, drawn = _chunk(engine, args.images[start : start + step], drawings[start : start + step], args)
            results += found
            complete = complete and drawn
            report(len(results), len(args.images))
    command.write_json(args.json, results)
    return 0 if complete and not any("error" in result for result in results) else 1


def _chunk(engine: Engine, paths: Sequence[str], drawings: Sequence[Path | None], args: argparse.Namespace) -> tuple[list[Entry], bool]:
    """Predict at most a batch of images, and whether all of their drawings could be written.

    An unreadable image becomes an entry with its error, the others go on.
    """
    found = _predict(engine, paths, args)
    results: list[Entry] = []
    complete = True
    for path, drawing in zip(paths, drawings, strict=True):
        prediction = found[path]
        if isinstance(prediction, EdgeError):
            results.append({"image": path, "error": str(prediction)})
            continue
        results.append({"image": path, **_plain(prediction)})
        command.say(f"{path}: " + (", ".join(f"{name} {score:.2f}" for name, score in prediction.labels) or "nothing above the threshold"))
        if drawing is not None:
            try:
                _draw(decode(path), prediction, drawing)
            except EdgeError as error:  # costs this drawing, not the results of all
                complete = False
                command.tell(error, args)
    return results, complete


def _predict(engine: Engine, paths: Sequence[str], args: argparse.Namespace) -> dict[str, Prediction | EdgeError]:
    """The images as one batch; where one of them cannot be read, each by itself."""
    try:
        found = engine.predict(paths, score_threshold=args.score_threshold, approximate_pixels=args.approximate_pixels)
    except EdgeError as error:
        if error.stage != "image":
            raise
        if len(paths) > 1:
            return {name: one for path in paths for name, one in _predict(engine, [path], args).items()}
        command.tell(error, args)
        return {paths[0]: error}
    return dict(zip(paths, found, strict=True))


def _drawings(paths: Sequence[str], folder: Path, photographs: Collection[tuple[int, int] | None]) -> list[Path]:
    """A file of its own for the drawing of every image: ``a/1.jpg`` and ``b/1.jpg`` become
    ``1.png`` and ``1-2.png``.

    Names of photographs, and of files that are no drawings of ours, are left out.
    """
    taken: set[Path] = set()
    drawings = []
    for stem in (Path(path).stem for path in paths):
        names = (folder / f"{name}.png" for name in chain([stem], (f"{stem}-{number}" for number in count(2))))
        drawing = next(path for path in names if path not in taken and _identity(path) not in photographs and _is_ours(path))
        taken.add(drawing)
        drawings.append(drawing)
    return drawings


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and number of a file, the same by whatever name or link; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_ours(path: Path) -> bool:
    """Whether a drawing may have this name: nothing is there, or a drawing of ours."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # or what writing will refuse
        return True
    try:
        with open(path if stat.S_ISREG(mode) else os.devnull, "rb") as file:
            return f"Software\0{SOFTWARE}".encode() in file.read(1 << 10)
    except OSError:
        return False


def _plain(prediction: Prediction) -> Entry:
    return {
        "labels": [{"name": name, "score": score} for name, score in prediction.labels],
        "regions": [asdict(region) for region in prediction.regions],
    }


def _draw(photo: NDArray[np.uint8], prediction: Prediction, path: Path) -> None:
    png = io.BytesIO()
    told = PngInfo()
    told.add_text("Software", SOFTWARE)
    draw(photo, prediction).save(png, "PNG", pnginfo=told)
    write_atomically(path, png.getvalue())


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
