"""``coco2014:ROOT``: ``annotations/instances_{train,val}2014.json`` and the folders ``train2014``
and ``val2014``.

Classes are in alphabetical order, as in the official MCAR checkpoints, not in the order of COCO's
ids. Images without annotations are left out (82,081 and 40,137 stay); a crowd counts as its class.
Test labels are not public: val is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edge.data.base import REPORT, Dataset, check_split
from edge.data.files import FileDataset, broken_line, read_text, require_folder, require_images
from edge.errors import EdgeError

SPLITS = ("train", "val")
Entry = Mapping[str, object]  # checked where it is read
_KEPT = frozenset({"images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "name"})


def open_coco2014(root: Path, split: str) -> Dataset:
    """Split train or val; test means val. Images may also lie under ``ROOT/images``. In the order
    of their ids.

    Raises:
        EdgeError: a folder, the JSON or an image is missing or damaged, a category unknown, the
            split absent.
    """
    require_folder(root, "coco2014:ROOT", "ROOT/annotations, ROOT/train2014 and ROOT/val2014")
    present = tuple(name for name in SPLITS if _annotations(root, name).is_file())
    split = "val" if split in (REPORT, "test") else split
    check_split(f"coco2014 at {root}", split, present, f"Choose one of them, or restore {root / 'annotations'}")
    path = _annotations(root, split)
    content = _read(path)
    names = _index(path, content, "categories", "name")
    if len(set(names.values())) != len(names):
        raise _damaged(path, "two categories have one name")
    files = _index(path, content, "images", "file_name")
    classes = tuple(sorted(names.values()))
    column = {number: classes.index(name) for number, name in names.items()}
    present_in: dict[int, set[int]] = {}
    for annotation in _entries(path, content, "annotations"):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(category, int) or category not in column:
            raise _damaged(path, f"annotation {annotation.get('id')} is of category {category!r}, which is not there")
        if not isinstance(image, int) or image not in files:
            raise _damaged(path, f"annotation {annotation.get('id')} is of image {image!r}, which is not there")
        present_in.setdefault(image, set()).add(column[category])
    labels = np.full((len(present_in), len(classes)), -1, np.int8)
    for row, image in enumerate(sorted(present_in)):
        labels[row, list(present_in[image])] = 1
    folder = next((place for place in (root / f"{split}2014", root / "images" / f"{split}2014") if place.is_dir()), root / f"{split}2014")
    chosen = tuple(files[image] for image in sorted(present_in))
    require_images(folder, chosen, path)
    return FileDataset("coco2014", split, present, "val", classes, labels, folder, chosen)


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2014.json"


def _read(path: Path) -> Entry:
    try:
        # Outlines are most of the file: dropping them while parsing keeps memory low.
        content = json.loads(read_text(path, "the annotations"), object_hook=_slim)
    except json.JSONDecodeError as error:
        raise broken_line(path, error.lineno, f"not JSON ({error.msg})", "Restore the file") from error
    except RecursionError as error:
        raise _damaged(path, "it is nested too deep") from error
    except ValueError as error:  # a number of thousands of digits
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__} where an object belongs")
    return content


def _slim(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key in _KEPT}


def _entries(path: Path, content: Entry, part: str) -> Iterable[Entry]:
    entries = content.get(part)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(path, f"it has no list of {part}")
    return entries


def _index(path: Path, content: Entry, part: str, value: str) -> dict[int, str]:
    """id -> name of every entry of a part."""
    found: dict[int, str] = {}
    for entry in _entries(path, content, part):
        number, text = entry.get("id"), entry.get(value)
        if not isinstance(number, int) or not isinstance(text, str):
            raise _damaged(path, f"an entry of {part} lacks id or {value}: {str(dict(entry))[:60]}")
        found[number] = text
    return found


def _damaged(path: Path, problem: str) -> EdgeError:
    return EdgeError("data", f"{path} is not a COCO annotation file: {problem}", "Restore it")
