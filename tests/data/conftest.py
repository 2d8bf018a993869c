"""Small data sets in the true layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.labels import VOC_CLASSES


def photograph(path: Path, number: int) -> None:
    """A flat image whose colour tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8 + number % 3, 3), 10 * number % 250, np.uint8)).save(path)


@pytest.fixture
def csv_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write a csv folder of the given lines; images named in them are made."""

    def make(*lines: str, header: str = "image,split,labels", classes: str | None = None) -> Path:
        root = tmp_path / "things"
        root.mkdir(exist_ok=True)
        for number, line in enumerate(lines):
            photograph(root / "images" / next(csv.reader([line]))[0], number)
        (root / "labels.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        if classes is not None:
            (root / "classes.txt").write_text(classes, encoding="utf-8")
        return root

    return make


@pytest.fixture
def voc_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write a devkit: list name -> image -> class -> label 1 or 0; classes not named are -1."""

    def make(year: str, lists: Mapping[str, Mapping[str, Mapping[str, int]]], *, class_files: bool = True) -> Path:
        home = tmp_path / "VOCdevkit" / f"VOC{year}"
        main = home / "ImageSets" / "Main"
        main.mkdir(parents=True)
        (home / "Annotations").mkdir()
        for chosen, images in lists.items():
            (main / f"{chosen}.txt").write_text("".join(f"{name}\n" for name in images))
            for number, (name, present) in enumerate(images.items()):
                photograph(home / "JPEGImages" / f"{name}.jpg", number)
                (home / "Annotations" / f"{name}.xml").write_text(annotation(present))
            if class_files:
                for kind in VOC_CLASSES:
                    lines = [f"{name} {present.get(kind, -1):2d}\n" for name, present in images.items()]
                    (main / f"{kind}_{chosen}.txt").write_text("".join(lines))
        return home

    return make


def annotation(present: Mapping[str, int]) -> str:
    """An annotation in VOC's form; a class present without difficulty also has a difficult
    object."""
    objects = []
    for name, label in present.items():
        for difficult in ["1"] if label == 0 else ["1", "0"]:
            objects.append(f"<object><name>{name}</name><difficult>{difficult}</difficult></object>")
    return f"<annotation><folder>VOC</folder>{''.join(objects)}</annotation>\n"


@pytest.fixture
def coco_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write a COCO tree: split -> (id of image, ids of its categories); categories 3 zebra, 1
    person, 90 apple."""

    def make(splits: Mapping[str, Sequence[tuple[int, Sequence[int]]]]) -> Path:
        root = tmp_path / "coco"
        for split, images in splits.items():
            content: dict[str, list[dict[str, object]]] = {
                "info": [],
                "images": [{"id": number, "file_name": f"COCO_{split}2014_{number:012d}.jpg", "license": 1} for number, _ in images],
                "annotations": [
                    {"id": 100 * number + place, "image_id": number, "category_id": kind, "segmentation": [[1, 2, 3]], "iscrowd": 0}
                    for number, kinds in images
                    for place, kind in enumerate(kinds)
                ],
                "categories": [{"id": 3, "name": "zebra"}, {"id": 1, "name": "person"}, {"id": 90, "name": "apple"}],
            }
            for number, _ in images:
                photograph(root / f"{split}2014" / f"COCO_{split}2014_{number:012d}.jpg", number)
            path = root / "annotations" / f"instances_{split}2014.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=1))
        return root

    return make
