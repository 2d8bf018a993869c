"""What comes from outside ends in a value or an error: mutated manifests, images and graphs, in C++
under sanitizers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
SLOWEST = 20.0  # seconds a single case may take on a busy machine, under sanitizers


def check(printed: str, cases: int) -> dict[str, float]:
    found = json.loads(printed)
    assert found["cases"] > cases
    assert found["slowest_s"] < SLOWEST
    return found


@pytest.mark.parametrize(("target", "cases"), [("manifest", 1500), ("image", 1500), ("onnx", 60)])
def test_mutations_in_python_end_in_an_error(run, corpus: Path, target: str, cases: int) -> None:
    found = check(run(sys.executable, FUZZ, target, corpus, cases), cases)
    if target == "manifest":
        assert found["refused"] == found["cases"], "the corpus lists files that are not there"


def test_a_case_that_is_no_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a target that raises something else ends the run and keeps the case."""
    monkeypatch.syspath_prepend(FUZZ.parent)
    fuzz = import_module("fuzz")

    def broken(data: bytes, folder: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(fuzz.TARGETS, "manifest", (fuzz.manifests, broken))
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "whole").write_bytes(b"{}")
    with pytest.raises(ZeroDivisionError):
        fuzz.fuzz("manifest", tmp_path, 1, 0)
    assert (tmp_path / "manifest" / "crash-0-0").read_bytes() == b"{}"


@pytest.fixture(scope="module")
def fuzzers(cmake: Callable[..., Path], repository: Path, builds: Path) -> Path:
    """The fuzz targets under address and undefined-behaviour sanitizers, with the plain driver; no
    vendor library."""
    definitions = ["MCAR_EDGE_FUZZ=ON", "MCAR_EDGE_SANITIZE=address,undefined", "MCAR_EDGE_BACKENDS=", "CMAKE_CXX_FLAGS_RELEASE=-O1"]
    return cmake(repository / "edge" / "cpp", builds / "fuzz", *definitions, target="fuzzers") / "fuzz"


@pytest.mark.parametrize(("target", "cases"), [("manifest", 20000), ("image", 4000)])
def test_mutations_in_cpp_under_sanitizers_end_in_an_error(run, fuzzers: Path, corpus: Path, target: str, cases: int) -> None:
    with subprocess.Popen([sys.executable, FUZZ, "write", target, corpus, str(cases)], stdout=subprocess.PIPE) as source:
        check(run(fuzzers / f"mcar_edge_fuzz_{target}", stdin=source.stdout), cases)
    assert source.returncode == 0
