"""From ``--dataset SPEC`` to a data set."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from edge.data.base import REPORT, Dataset
from edge.data.mosaic import GRIDS, Mosaic
from edge.errors import EdgeError, one_of

# kind -> module and function(root, split); imported when asked for
FOLDERS = {
    "csv": ("edge.data.csv_folder", "open_csv"),
    "voc2007": ("edge.data.voc", "open_voc2007"),
    "voc2012": ("edge.data.voc", "open_voc2012"),
    "coco2014": ("edge.data.coco", "open_coco2014"),
    "images": ("edge.data.images", "open_images"),
}
LABELLED = ("scenes", "aerial", "csv:DIR", "voc2007:ROOT", "voc2012:ROOT", "coco2014:ROOT", "mosaic:SPEC", "mosaic3:SPEC")
TRAINABLE = tuple(spec for spec in LABELLED if spec != "aerial")  # with a train split
SPECS = (*LABELLED, "images:DIR")


def open_dataset(spec: str, split: str, *, seed: int = 0) -> Dataset:
    """Open one split of a data set.

    Args:
        spec: one of ``SPECS``: a name alone, a kind with its folder (``images:DIR`` is unlabelled),
            or a mosaic of another.
        split: ``train``, ``test`` or another the data set has; ``REPORT`` for the one that is only
            reported.
        seed: of the generated data; files are read in a fixed order.

    Raises:
        EdgeError: unknown kind, missing folder, missing split (those present are named), damaged
            files.
    """
    kind, colon, root = spec.partition(":")
    if kind in ("scenes", "aerial"):
        if colon:
            raise EdgeError("data", f"{kind} takes no folder, but `dataset` is {spec!r}", f"Write {kind}")
        if kind == "aerial":
            return import_module("edge.data.aerial").open_aerial(split)  # type: ignore[no-any-return]
        return import_module("edge.data.scenes").Scenes("test" if split == REPORT else split, seed)  # type: ignore[no-any-return]
    if kind in GRIDS and root:
        return Mosaic(open_dataset(root, split, seed=seed), GRIDS[kind])
    if kind not in (*FOLDERS, *GRIDS):
        raise EdgeError("data", f"There is no data set {spec!r}", f"Change `dataset` to {one_of(SPECS)}")
    if not root:
        what, wanted = ("data set", "SPEC") if kind in GRIDS else ("folder", "FOLDER")
        raise EdgeError("data", f"`dataset` {spec!r} lacks its {what}", f"Write {kind}:{wanted}")
    module, function = FOLDERS[kind]
    # getattr: a function by the name in the table.
    return getattr(import_module(module), function)(Path(root), split)  # type: ignore[no-any-return]
