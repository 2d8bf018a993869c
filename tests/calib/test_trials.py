"""What a gate leaves behind: nothing."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from calib import trials
from edge.errors import EdgeError
from edge.spec import TargetSpec


class Tried:
    """An engine that fills its folder with its payload."""

    def __init__(self, folder: Path) -> None:
        (folder / "engine.onnx").write_bytes(bytes(100))

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"scores": images.mean((2, 3))}

    def __enter__(self) -> Tried:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_an_engine_goes_when_its_trial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "engine_of", lambda graph, target, folder: Tried(folder))
    monkeypatch.setattr(trials.Trials, "_batches", lambda *_: iter([(0, np.ones((2, 3, 4, 4), np.float32))]))
    dataset: Any = [0, 1]
    with trials.Trials(dataset, TargetSpec("onnxruntime", "int8")) as tried:
        folder = tried._folder
        for _ in range(3):
            assert tried.run(None)["scores"].shape == (2, 3)  # type: ignore[arg-type]
            assert list(folder.rglob("*")) == []
    assert not folder.exists()


def test_a_full_or_missing_temporary_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(EdgeError, match="does not fit on the disk"), trials.scratch():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    dataset: Any = [0, 1]
    with pytest.raises(EdgeError, match="Set TMPDIR"), trials.Trials(dataset, TargetSpec("onnxruntime", "int8")):
        pass
