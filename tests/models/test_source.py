"""Where a build starts: what a checkpoint says of itself is what the build goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import EdgeError
from edge.models import create
from edge.models.checkpoint import save_checkpoint
from edge.models.source import open_source, shipped


def saved(folder: Path, **extra: object) -> str:
    network = create("plain-mobilenetv2", num_classes=2)
    path = folder / "best.pth"
    save_checkpoint(path, network, name="plain-mobilenetv2", classes=("a", "b"), size=64, epoch=1, best_score=0.0, extra=extra)
    return str(path)


@pytest.mark.parametrize(("data", "default"), [("scenes", "scenes"), ("csv:photos", None), (None, None)])
def test_weights_trained_on_what_needs_no_files_are_judged_on_it(data: str | None, default: str | None, tmp_path: Path) -> None:
    assert open_source(saved(tmp_path, data=data)).default_dataset == default


def test_shipped_weights_say_what_they_were_trained_on() -> None:
    found = {name: open_source(name) for name in shipped()}
    assert {name: source.default_dataset for name, source in found.items()} == {
        "mcar-mobilenetv2-scenes": "scenes",
        "mcar-mobilenetv2-ucmerced": None,
    }
    assert all(source.calibration_table is not None for source in found.values())


def test_a_data_set_that_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"data = '7'.*Expected a data set"):
        open_source(saved(tmp_path, data=7))
