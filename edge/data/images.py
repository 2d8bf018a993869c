"""``images:DIR``: photographs without labels, for calibration and region drift."""

from __future__ import annotations

import os
from pathlib import Path

from edge.data.base import Dataset
from edge.data.files import FileDataset, require_folder
from edge.errors import EdgeError, one_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2", ".avif")


def open_images(root: Path, split: str) -> Dataset:
    """Every image under a folder and its subfolders, sorted by path; hidden ones are left out.
    Every split is the same.

    Raises:
        EdgeError: no such folder, or no image in it.
    """
    require_folder(root, "images:DIR", "a folder of images")
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        parent = Path(folder).relative_to(root)
        files += [(parent / name).as_posix() for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not files:
        raise EdgeError("data", f"No image in {root}", f"Change `dataset` to a folder with files that end in {one_of(SUFFIXES)}")
    return FileDataset(root.resolve().name, split, (split,), split, (), None, root, tuple(sorted(files)))
