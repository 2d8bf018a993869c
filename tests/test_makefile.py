"""The two commands of a fresh machine, without installing anything: what they refuse and what they
pass on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def run_make(repository: Path, tmp_path: Path, python: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(repository / "Makefile"), f"PYTHON={python}", "demo"]
    (tmp_path / "setup.py").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_a_python_too_old_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    old = script(tmp_path / "python3", 'test "$1" = --version && echo "Python 3.8.10"; exit 1')
    done = run_make(repository, tmp_path, old)
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        f"mcar-edge needs Python 3.10 or newer; {old} is Python 3.8.10. Name another: make PYTHON=/path/to/python3"
    ]
    assert not (tmp_path / ".venv").exists()


def test_a_python_without_venv_is_told_apart_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    bare = script(tmp_path / "python3", 'test "$2" = venv && mkdir -p .venv/bin && exit 1; exit 0')
    done = run_make(repository, tmp_path, bare)
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("code", [0, 2])
def test_continuous_integration_runs_make_test_and_passes_its_exit_code_on(repository: Path, tmp_path: Path, code: int) -> None:
    script(tmp_path / "make", f'echo "$@"; pwd; cat; exit {code}')
    script(tmp_path / "apt-get", "cat; exit 0")
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([repository / ".ci" / "run"], cwd=tmp_path, env=environment, input="unread", capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines() == ["test", str(repository)]
