"""``voc2007:ROOT`` and ``voc2012:ROOT``: the official devkit tree.

Labels are those of ``ImageSets/Main/<class>_<list>.txt`` (1 present, 0 only difficult ones, -1
absent), as the official MCAR evaluation reads them; where those files are missing they follow from
``Annotations/*.xml`` by the same rule.

Which list a split reads:

- VOC 2007: train is ``trainval`` (5,011 images), as in the official recipe; test is ``test``
  (4,952).
- VOC 2012: train is ``train``, val is ``val``, and trainval both; test labels are not public, so
  val is what is reported.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.data.base import REPORT, Dataset, check_split
from edge.data.files import FileDataset, broken_line, read_text, require_images
from edge.errors import EdgeError, one_of
from edge.labels import VOC_CLASSES

LISTS = {
    "voc2007": {"train": "trainval", "test": "test"},
    "voc2012": {"train": "train", "val": "val", "trainval": "trainval"},
}
Labels = NDArray[np.int8]


def open_voc2007(root: Path, split: str) -> Dataset:
    """Split train or test of VOC 2007; ``root`` is VOC2007, or a folder that holds it or VOCdevkit.

    Raises:
        EdgeError: a folder, list or image is missing, a list or annotation damaged, a class
            unknown, the split absent.
    """
    return _open("voc2007", root, split, "test")


def open_voc2012(root: Path, split: str) -> Dataset:
    """Split train, val or trainval of VOC 2012; as ``open_voc2007``."""
    if split == "test":
        raise EdgeError(
            "data",
            "The labels of the test split of voc2012 are not public",
            f"Use its {one_of(LISTS['voc2012'])}, or images:DIR without labels",
        )
    return _open("voc2012", root, split, "val")


def _open(kind: str, root: Path, split: str, report: str) -> Dataset:
    home = _home(kind, root)
    lists = home / "ImageSets" / "Main"
    splits = tuple(name for name, file in LISTS[kind].items() if (lists / f"{file}.txt").is_file())
    split = report if split == REPORT else split
    check_split(f"{kind} at {home}", split, splits, f"Choose one of them, or restore {lists}")
    chosen = LISTS[kind][split]
    listing = lists / f"{chosen}.txt"
    names = tuple(line.split()[0] for line in read_text(listing, "the list of a split").splitlines() if line.strip())
    files = tuple(f"{name}.jpg" for name in names)
    require_images(home / "JPEGImages", files, listing)
    if any(lists.glob(f"*_{chosen}.txt")):
        labels = np.stack([_column(lists / f"{name}_{chosen}.txt", names) for name in VOC_CLASSES], axis=1)
    else:
        labels = np.stack([_row(home / "Annotations" / f"{name}.xml") for name in names])
    return FileDataset(kind, split, splits, report, VOC_CLASSES, labels, home / "JPEGImages", files)


def _home(kind: str, root: Path) -> Path:
    year = kind.upper()
    for home in (root, root / year, root / "VOCdevkit" / year):
        if os.path.isdir(home / "ImageSets" / "Main"):
            return home
    raise EdgeError(
        "data", f"No ImageSets/Main in {root}, its {year} or VOCdevkit/{year}", f"Change `dataset` to {kind}:FOLDER of the devkit"
    )


def _column(path: Path, names: tuple[str, ...]) -> Labels:
    """One class: lines ``NAME LABEL``, for the images of the list in any order."""
    found: dict[str, int] = {}
    for number, line in enumerate(read_text(path, "the labels of a class").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("-1", "0", "1"):
            raise broken_line(path, number, f"{line[:60]!r} is no image and its label", "Write one such as '000012 -1'; -1, 0 or 1")
        found[fields[0]] = int(fields[1])
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise EdgeError("data", f"{path} has no label for {missing}", "Restore the file")
    return np.array([found[name] for name in names], np.int8)


def _row(path: Path) -> Labels:
    """One image, from its annotation."""
    if not path.is_file():
        raise EdgeError("data", f"There is no file {path}", "Restore Annotations, or ImageSets/Main/<class>_<list>.txt")
    try:
        objects = ElementTree.fromstring(path.read_bytes()).findall("object")
    except ElementTree.ParseError as error:
        raise broken_line(path, error.position[0], f"not XML ({error})", "Restore the file") from error
    except (LookupError, ValueError) as error:  # an encoding that is none
        raise EdgeError("data", f"{path} is not XML: {str(error)[:80]}", "Restore the file") from error
    row = np.full(len(VOC_CLASSES), -1, np.int8)
    for item in objects:
        name = (item.findtext("name") or "").strip()
        if name not in VOC_CLASSES:
            raise EdgeError("data", f"{path} has an object of class {name!r}", f"Correct it to {one_of(VOC_CLASSES)}")
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        column = VOC_CLASSES.index(name)
        row[column] = max(row[column], 0 if difficult else 1)
    return row
