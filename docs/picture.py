"""Draws the picture of the README: photos of the `aerial` test images with what an engine finds in
them.

python docs/picture.py BUNDLE --output docs/images/prediction.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from edge import Engine
from edge.data import open_dataset
from edge.draw import PAPER, draw

PHOTOS = ("airplane69.jpg", "harbor60.jpg", "storagetanks27.jpg")
HEIGHT, GAP, QUALITY = 560, 12, 88  # pixels, pixels, of a JPEG


def main(bundle: Path, names: tuple[str, ...], output: Path) -> None:
    photos = open_dataset("aerial", "test")
    chosen = [photos[index].image for index in range(len(photos)) if photos[index].name in names]
    with Engine.load(bundle, effort=1) as engine:
        drawn = [draw(photo, prediction) for photo, prediction in zip(chosen, engine.predict(chosen), strict=True)]
    tallest = max(image.height for image in drawn)
    scale = HEIGHT / tallest
    strip = [image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS) for image in drawn]
    whole = Image.new("RGB", (sum(image.width for image in strip) + GAP * (len(strip) - 1), HEIGHT), PAPER)
    x = 0
    for image in strip:
        whole.paste(image, (x, 0))
        x += image.width + GAP
    output.parent.mkdir(parents=True, exist_ok=True)
    whole.save(output, quality=QUALITY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="of the default weights: python -m edge.build")
    parser.add_argument("--photos", nargs="+", default=PHOTOS, metavar="NAME", help="file names among the test images of aerial")
    parser.add_argument("--output", type=Path, default=Path("docs/images/prediction.jpg"), metavar="FILE")
    arguments = parser.parse_args()
    main(arguments.bundle, tuple(arguments.photos), arguments.output)
