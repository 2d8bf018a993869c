"""Where a build starts: what a checkpoint says of itself is what the build goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.calibration import Calibration
from edge.errors import EdgeError
from edge.models import create
from edge.models.checkpoint import save_checkpoint
from edge.models.source import ASSETS, open_source, shipped, weights_file
from edge.pipeline import BuildOptions


def saved(folder: Path, **extra: object) -> str:
    network = create("plain-mobilenetv2", num_classes=2)
    path = folder / "best.pth"
    save_checkpoint(path, network, name="plain-mobilenetv2", classes=("a", "b"), size=64, epoch=1, best_score=0.0, extra=extra)
    return str(path)


def test_a_shipped_name_is_its_file_and_any_other_a_path(tmp_path: Path) -> None:
    for name in shipped():
        assert weights_file(name) == ASSETS / f"{name}.pth"
    assert weights_file(str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"


@pytest.mark.parametrize(("data", "default"), [("scenes", "scenes"), ("csv:photos", None), (None, None)])
def test_weights_trained_on_what_needs_no_files_are_judged_on_it(data: str | None, default: str | None, tmp_path: Path) -> None:
    assert open_source(saved(tmp_path, data=data)).default_dataset == default


def test_shipped_weights_say_what_they_were_trained_on() -> None:
    found = {name: open_source(name) for name in shipped()}
    assert {name: source.default_dataset for name, source in found.items()} == {
        "mcar-mobilenetv2-scenes": "scenes",
        "mcar-mobilenetv2-ucmerced": "aerial",
    }
    assert all(source.calibration_table is not None for source in found.values())


def test_without_a_name_the_weights_are_those_of_photographs() -> None:
    found = open_source(None)
    assert (found.title, found.default_dataset) == ("mcar-mobilenetv2-ucmerced", "aerial")
    assert open_source(None, model="mcar-mobilenetv2").digest == found.digest


@pytest.mark.parametrize("name", shipped())
def test_shipped_tables_bring_what_images_would_give(name: str) -> None:
    table = Calibration.load(ASSETS / f"{name}.calibration.json")
    assert table.peaks
    assert table.fitted is not None
    assert table.fitted.method == BuildOptions().calib_method


@pytest.mark.parametrize(("weights", "size"), [("random", 0), ("shipped", 0), ("sized", None)])
def test_a_size_of_zero_is_refused_rather_than_replaced(weights: str, size: int | None, tmp_path: Path) -> None:
    names = {"random": "random", "shipped": shipped()[0], "sized": saved(tmp_path, size=0) if weights == "sized" else ""}
    with pytest.raises(EdgeError, match=r"\b0\b"):
        open_source(names[weights], size=size)


def test_a_given_size_comes_before_the_checkpoints(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert (open_source(path).image.size, open_source(path, size=96).image.size) == (64, 96)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_labels_may_begin_with_a_byte_order_mark(mark: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(f"{mark}cat\n\n dog \n", encoding="utf-8")
    assert open_source(saved(tmp_path), labels=tmp_path / "labels.txt").model.labels == ("cat", "dog")


def test_labels_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    for name, reason in (("labels.txt", "not UTF-8 text"), ("absent.txt", "No such file")):
        with pytest.raises(EdgeError, match=f"{name}: {reason}"):
            open_source("random", labels=tmp_path / name)


def test_a_data_set_that_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"data = '7', .*not a data set"):
        open_source(saved(tmp_path, data=7))
