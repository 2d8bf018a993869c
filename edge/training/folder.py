"""The folder of a run: the names in it, and the state by which it is known as a run and can go
on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from edge.atomic import check_folder_writable, clear_folder, is_partial, write_atomically
from edge.errors import EdgeError
from edge.models.checkpoint import to_bytes

STATE, BEST, LOG, CURVE, PIXELS = "state.pt", "best.pth", "log.csv", "curve.png", ".pixels"
_MODULES = ("model", "mean", "optimiser")
_ANOTHER = "Start again in another `output`"

Row = dict[str, float | str]  # an epoch's line of the log
Modules = Mapping[str, dict[str, Any]]  # state dicts, as torch gives them


@dataclass
class State:
    """How far a run is: what is saved beside its weights.

    Attributes:
        epoch, step: the next of both.
        updates: steps of the optimiser so far.
        loss: sum over the steps of this epoch; seconds: of training in all.
        rows: the log.
        best: whether evaluated as shipped, mAP in points, epoch.
        autocast: whether it computes in bfloat16, which another machine then does too.
    """

    autocast: bool
    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    best: tuple[int, float, int] = (-1, -1.0, 0)


def write_state(folder: Path, identity: str, state: State, modules: Modules) -> None:
    """Write the whole state of a run; ``modules`` by the names of ``_MODULES``."""
    write_atomically(folder / STATE, to_bytes({"identity": identity, **modules, **asdict(state)}))


def read_state(path: Path) -> tuple[str, State, Modules]:
    """Identity, state and torch's state dicts of whichever run; an error where the file is damaged
    or something else."""
    names = [each.name for each in fields(State)]
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        missing = [name for name in ("identity", *_MODULES, *names) if name not in saved]
    except Exception as error:  # torch, zipfile and pickle each raise their own
        why = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise EdgeError("train", f"{path} is damaged, or is not the state of a training run: {why}", _ANOTHER) from error
    if missing:
        raise EdgeError("train", f"{path} is not the state of a training run: it lacks {missing[0]!r}", _ANOTHER)
    as_shipped, points, epoch = saved["best"]
    state = State(**{**{name: saved[name] for name in names}, "best": (as_shipped, points, epoch)})
    return saved["identity"], state, {name: saved[name] for name in _MODULES}


def write_log(folder: Path, rows: list[Row]) -> None:
    """Write the log of a run, a line for each epoch so far."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / LOG, text.getvalue())


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder to train in that cannot be written, or holds anything but a run that shall go
    on."""
    check_folder_writable(folder)
    for place in (folder, folder / PIXELS):
        clear_folder(place)
    found = sorted(os.listdir(folder)) if folder.is_dir() else []
    if STATE in found:
        if not resume:
            raise EdgeError("train", f"{folder} already contains a training run", "Add `resume` to continue it, or choose another `output`")
        read_state(folder / STATE)
        return
    foreign = [name for name in found if name != PIXELS and not is_partial(name)]
    if foreign:
        raise EdgeError(
            "train", f"{folder} contains {foreign[0]}, so it is not the folder of a training run", "Set `output` to a new or empty folder"
        )
