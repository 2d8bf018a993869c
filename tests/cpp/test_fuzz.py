"""What comes from outside ends in a value or an error: mutated manifests, images and graphs, in C++ under sanitizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
SLOWEST = 20.0  # seconds a single case may take on a busy machine, under sanitizers


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, str(FUZZ), "corpus", str(folder)], check=True, cwd=repository, env=environment(repository))
    return folder


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository)}


@pytest.mark.parametrize(("target", "cases"), [("manifest", 1500), ("image", 1500), ("onnx", 60)])
def test_mutations_in_python_end_in_an_error(corpus: Path, repository: Path, target: str, cases: int) -> None:
    words = [sys.executable, str(FUZZ), target, str(corpus), str(cases)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=repository, env=environment(repository), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["cases"] > cases
    assert found["slowest_s"] < SLOWEST
    if target == "manifest":
        assert found["refused"] == found["cases"], "the corpus lists files that are not there"


def test_a_case_that_is_no_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a target that raises something else ends the run and keeps the case."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("fuzz_under_test", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    fuzz = module_from_spec(spec)
    spec.loader.exec_module(fuzz)

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
    """The fuzz targets under address and undefined-behaviour sanitizers, with the plain driver; no vendor library."""
    definitions = ["MCAR_EDGE_FUZZ=ON", "MCAR_EDGE_SANITIZE=address,undefined", "MCAR_EDGE_BACKENDS=", "CMAKE_CXX_FLAGS_RELEASE=-O1"]
    return cmake(repository / "edge" / "cpp", builds / "fuzz", *definitions, target="fuzzers") / "fuzz"


@pytest.mark.parametrize(("target", "cases"), [("manifest", 20000), ("image", 4000)])
def test_mutations_in_cpp_under_sanitizers_end_in_an_error(fuzzers: Path, corpus: Path, target: str, cases: int) -> None:
    words = [str(fuzzers / f"mcar_edge_fuzz_{target}"), str(corpus / target), f"-runs={cases}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["cases"] > cases
    assert found["slowest_s"] < SLOWEST
