"""Kills and refused system calls while a result is written: a few of a rebuild, with
EDGE_ALL_FAULTS (hours) every one of every command."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
FEW = 14  # faults of the short form


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, small_bundle: Callable[[str], Path]) -> Path:
    """Outcomes of the rebuild at some calls, in a process of its own: forks of this one would have
    its threads' locks."""
    if not shutil.which("strace"):
        pytest.skip("no strace: apt install strace")
    every = "EDGE_ALL_FAULTS" in os.environ
    path = tmp_path_factory.mktemp("faults") / "record.jsonl"
    words = [sys.executable, str(Path(__file__).parent / "harness.py"), "--record", str(path)]
    words += [] if every else ["--only", "rebuild", "--few", str(FEW), "--bundle", str(small_bundle("onnxruntime"))]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "XDG_CACHE_HOME": str(path.parent / "cache")}
    done = subprocess.run(words, env=given, capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert not done.returncode, done.stderr[-2000:]
    return path


@pytest.fixture(scope="module")
def harness() -> Iterator[ModuleType]:
    location = importlib.util.spec_from_file_location("faults_harness", Path(__file__).parent / "harness.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules[location.name] = module  # where dataclasses look for their types
    location.loader.exec_module(module)
    yield module
    del sys.modules[location.name]


def test_after_every_fault_there_is_the_old_or_the_new_and_nothing_else(record: Path, harness: ModuleType) -> None:
    outcomes = harness.read(record)
    assert len(outcomes) >= FEW
    assert [one for one in outcomes if one.wrong] == []
    assert any(one.code < 0 for one in outcomes)
    assert any(one.code == 1 for one in outcomes)


def test_calls_are_listed_by_their_file(harness: ModuleType, tmp_path: Path) -> None:
    lines = [
        '7 openat(AT_FDCWD</x>, "/elsewhere", O_WRONLY|O_CREAT) = 3</elsewhere>',
        '7 openat(AT_FDCWD</x>, "/w/.a.partial-0", O_RDWR|O_CREAT <unfinished ...>',
        '8 openat(AT_FDCWD</x>, "/w/a", O_RDONLY) = 4</w/a>',
        "7 <... openat resumed>) = 5</w/.a.partial-0>",
        '7 write(5</w/.a.partial-0>, ""..., 9) = 9',
        '8 write(6</w/.a.partial-0>, ""..., 9) = -1 ENOSPC (INJECTED)',
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    found = [("openat", 2, ".a.partial-N", 0), ("write", 1, ".a.partial-N", 0), ("write", 1, ".a.partial-N", 1)]
    assert harness.listed(tmp_path / "log", Path("/w")) == found


def test_the_judge_sees_what_is_half_and_what_is_left(harness: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("")
    folder = tmp_path / "work"
    folder.mkdir()
    one = harness.Command(lambda words: 0, lambda folder: ([], []), harness._whole_files, frozenset({"a.json"}))
    (folder / "a.json").write_text('{"a": 1}')
    assert harness.judge(one, folder, tmp_path, "KILL", -9) == ""
    (folder / ".a.json.partial-0").touch()
    assert "left" in harness.judge(one, folder, tmp_path, "KILL", -9)
    (folder / "a.json").write_text('{"a":')
    assert "neither old nor new" in harness.judge(one, folder, tmp_path, "KILL", -9)
    (tmp_path / "said").write_text("Traceback (most recent call last):\nOSError: no")
    assert "traceback" in harness.judge(one, folder, tmp_path, "EIO", 1)
    (tmp_path / "said").write_text("It did not work")
    assert "no line" in harness.judge(one, folder, tmp_path, "EIO", 1)
    assert "exit code 3" in harness.judge(one, folder, tmp_path, "EIO", 3)
