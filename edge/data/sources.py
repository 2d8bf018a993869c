"""From ``--dataset SPEC`` to a data set."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from edge.data.base import REPORT, Dataset
from edge.errors import EdgeError, one_of

# kind -> module and function(root, split); imported when asked for
FOLDERS = {
    "csv": ("edge.data.csv_folder", "open_csv"),
    "voc2007": ("edge.data.voc", "open_voc2007"),
    "voc2012": ("edge.data.voc", "open_voc2012"),
    "coco2014": ("edge.data.coco", "open_coco2014"),
    "images": ("edge.data.images", "open_images"),
}
SPECS = ("scenes", "csv:DIR", "voc2007:ROOT", "voc2012:ROOT", "coco2014:ROOT", "images:DIR")


def open_dataset(spec: str, split: str, *, seed: int = 0) -> Dataset:
    """Open one split of a data set.

    Args:
        spec: ``scenes``, ``csv:DIR``, ``voc2007:ROOT``, ``voc2012:ROOT``, ``coco2014:ROOT`` or ``images:DIR`` (unlabelled).
        split: ``train``, ``test`` or another the data set has; ``REPORT`` for the one that is only reported.
        seed: of the generated data; files are read in a fixed order.

    Raises:
        EdgeError: unknown kind, missing folder, missing split (those present are named), damaged files.
    """
    kind, colon, root = spec.partition(":")
    if kind == "scenes":
        if colon:
            raise EdgeError("data", f"The generated scenes have no folder, but `dataset` is {spec!r}", "Write scenes")
        return import_module("edge.data.scenes").Scenes("test" if split == REPORT else split, seed)  # type: ignore[no-any-return]
    if kind not in FOLDERS:
        raise EdgeError("data", f"There is no kind of data set {spec!r}", f"Change `dataset` to {one_of(SPECS)}")
    if not root:
        raise EdgeError("data", f"`dataset` {spec!r} names no folder", f"Write {kind}:FOLDER")
    module, function = FOLDERS[kind]
    # getattr: a function by the name in the table.
    return getattr(import_module(module), function)(Path(root), split)  # type: ignore[no-any-return]
