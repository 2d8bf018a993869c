"""Where what can be made again is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import cache
from edge.atomic import write_atomically
from edge.errors import EdgeError


def test_the_variable_comes_before_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder("outputs") == tmp_path / ".cache" / "mcar-edge" / "outputs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache.folder("outputs") == tmp_path / "other" / "mcar-edge" / "outputs"


def test_without_a_home_nothing_is_kept_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    path = cache.folder("outputs") / "a.npz"
    assert not path.is_file()
    with pytest.raises(EdgeError):  # which whoever keeps things passes over
        write_atomically(path, b"x")
