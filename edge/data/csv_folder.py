"""``csv:DIR``: images of one's own. ``DIR/labels.csv`` with the columns image, split, labels
(joined by ``;``), and ``DIR/images/``."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edge.data.base import REPORT, Dataset, check_split
from edge.data.files import FileDataset, broken_line, first_missing, is_inside, read_text, require_folder
from edge.errors import EdgeError

COLUMNS = ("image", "split", "labels")


@dataclass(frozen=True)
class Row:
    """One line of ``labels.csv``; ``line`` counts from 1."""

    image: str
    split: str
    labels: tuple[str, ...]
    line: int


def open_csv(root: Path, split: str) -> Dataset:
    """A split of a csv folder. Classes are the lines of ``classes.txt``, else the sorted names over
    all splits.

    Raises:
        EdgeError: a file is missing or damaged (with its line), a class unknown, an image in two
            splits, the split absent.
    """
    require_folder(root, "csv:DIR", "DIR/labels.csv and DIR/images/")
    table = root / "labels.csv"
    rows = _rows(table)
    splits = tuple(dict.fromkeys(row.split for row in rows))
    report = next((name for name in ("test", "val", "validation") if name in splits), "test")
    split = report if split == REPORT else split
    check_split(str(table), split, splits, "Change the split column")
    classes = _classes(root, rows)
    chosen = [row for row in rows if row.split == split]
    missing = first_missing(root / "images", (row.image for row in chosen))
    if missing is not None:
        row = chosen[missing]
        raise broken_line(table, row.line, f"there is no file {root / 'images' / row.image}", "Restore it, or remove that line")
    labels = np.full((len(chosen), len(classes)), -1, np.int8)
    column = {name: index for index, name in enumerate(classes)}
    for index, row in enumerate(chosen):
        labels[index, [column[name] for name in row.labels]] = 1
    return FileDataset(root.resolve().name, split, splits, report, classes, labels, root / "images", tuple(row.image for row in chosen))


def _rows(table: Path) -> list[Row]:
    reader = csv.reader(io.StringIO(read_text(table, "the labels of csv:DIR"), newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if any(header.count(name) != 1 for name in COLUMNS):
            raise broken_line(table, 1, f"the header is {','.join(header) or 'empty'}", f"Name the columns {','.join(COLUMNS)}")
        seen: dict[str, Row] = {}
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise broken_line(table, reader.line_num, f"{len(fields)} fields, where the header has {len(header)}")
            row = _row(dict(zip(header, fields, strict=True)), table, reader.line_num)
            if row.image in seen:
                raise broken_line(table, row.line, f"{row.image} again, after line {seen[row.image].line}", "Remove one of the two")
            seen[row.image] = row
            rows.append(row)
    except csv.Error as error:
        raise broken_line(table, reader.line_num, f"not CSV ({error})") from error
    if not rows:
        raise EdgeError("data", f"{table} lists no image", "Add a line for each image")
    return rows


def _row(fields: dict[str, str], table: Path, line: int) -> Row:
    image, split = fields["image"].strip(), fields["split"].strip()
    if not is_inside(image):
        raise broken_line(table, line, f"{image!r} is no path within images/", "Write one such as beach01.jpg")
    if not split or split == REPORT:
        raise broken_line(table, line, f"{split!r} is no name of a split", "Write train or test")
    return Row(
        str(PurePosixPath(image)), split, tuple(dict.fromkeys(filter(None, (name.strip() for name in fields["labels"].split(";"))))), line
    )


def _classes(root: Path, rows: list[Row]) -> tuple[str, ...]:
    path = root / "classes.txt"
    if not os.path.lexists(path):
        found = tuple(sorted({name for row in rows for name in row.labels}))
        if not found:
            raise EdgeError("data", f"{root / 'labels.csv'} lists no class", "Fill the labels column, or use images:DIR")
        return found
    names = [line.strip() for line in read_text(path, "the class names").splitlines()]
    classes = tuple(filter(None, names))
    for number, name in enumerate(names, 1):
        if name and names.index(name) != number - 1:
            raise broken_line(path, number, f"the class {name!r} again", "Name each class once")
    for row in rows:
        for name in row.labels:
            if name not in classes:
                raise broken_line(root / "labels.csv", row.line, f"{name!r} is not in {path}", "Correct it, or add it there")
    return classes
