"""``aerial``: the 210 test tiles of UC Merced Land Use that come with the project
(``edge/assets/aerial/README.md``)."""

from __future__ import annotations

from pathlib import Path

from edge.data.base import REPORT, Dataset, check_split
from edge.data.csv_folder import open_csv

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "aerial"
SPLITS = ("test",)


def open_aerial(split: str) -> Dataset:
    """The one split there is, ``test``: images to be judged on, and none to train, calibrate or
    decide on.

    Raises:
        EdgeError: another split.
    """
    if split != REPORT:
        check_split("aerial", split, SPLITS, "For training and decisions, set `dataset` to labelled images of your own, such as csv:DIR")
    return open_csv(FOLDER, SPLITS[0])
