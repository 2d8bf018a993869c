"""The names that we touch, held against the real TensorRT where it is installed (8.6 is on the
index, for Python 3.10)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from edge import backends
from edge.backends.trt.plugin import find_creator

SURFACES = Path(__file__).parent / "surfaces"
trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed: 8.6.0 is on the index for Python 3.10, with cuDNN 8 and cuBLAS 12")


def recorded(version: str) -> dict:
    path = SURFACES / f"{version}.json"
    if not path.is_file():
        pytest.skip(f"nothing is recorded of TensorRT {version}")
    return json.loads(path.read_text())


def test_what_is_recorded_of_a_version_is_what_it_has() -> None:
    location = importlib.util.spec_from_file_location("record", SURFACES / "record.py")
    record = importlib.util.module_from_spec(location)
    location.loader.exec_module(record)
    found = record.surface(trt)
    expected = recorded(found["version"])
    assert {name: found[name] for name in ("classes", "enums")} == {name: expected[name] for name in ("classes", "enums")}


def test_its_registry_is_asked_by_the_name_it_knows() -> None:
    assert find_creator(trt.get_plugin_registry(), "RoiResize") is None


def test_a_machine_without_a_gpu_is_one_line(monkeypatch, tmp_path) -> None:
    (tmp_path / "libedge_plugin.so").write_bytes(b"")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", str(tmp_path / "libedge_plugin.so"))
    support = backends.probe("tensorrt")
    if not support.reason:
        pytest.skip("there is a GPU")
    assert support.version == str(trt.__version__)
    assert "\n" not in support.reason
