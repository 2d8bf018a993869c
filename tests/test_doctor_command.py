"""``edge.doctor``: what is there, what is missing and how to get it, whether a bundle will load."""

from __future__ import annotations

import json
import sys

import pytest

from edge import backends, command, doctor


def run(*words: object) -> int:
    return command.run(doctor.main, doctor.arguments().parse_args([str(word) for word in words]))


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_a_backend_that_is_missing_is_named_with_its_cure(without_openvino, tmp_path, capsys):
    assert run("--json", tmp_path / "doctor.json") == 0
    result = json.loads((tmp_path / "doctor.json").read_text())
    assert set(result) == {"version", "python", "machine", "packages", "backends"}
    assert list(result["backends"]) == list(backends.BACKENDS)
    missing = result["backends"]["openvino"]
    assert (missing["works"], missing["builds"], missing["version"]) == (False, False, "")
    assert missing["fix"] == 'pip install "mcar-edge[openvino]"'
    assert result["packages"]["numpy"]
    said = capsys.readouterr().out
    assert missing["reason"] in said
    assert missing["fix"] in said


def test_a_folder_that_is_no_bundle_is_said_and_written(tmp_path, capsys):
    assert run(tmp_path, "--json", tmp_path / "doctor.json") == 1
    found = json.loads((tmp_path / "doctor.json").read_text())["bundle"]
    assert (found["path"], found["loads"]) == (str(tmp_path), False)
    assert "manifest.json" in found["reason"]
    assert found["reason"] in capsys.readouterr().err


def test_a_bundle_that_loads_is_described(small_bundle, tmp_path, capsys):
    bundle = small_bundle("onnxruntime")
    assert run(bundle, "--json", tmp_path / "doctor.json") == 0
    assert json.loads((tmp_path / "doctor.json").read_text())["bundle"] == {"path": str(bundle), "loads": True, "reason": ""}
    assert "onnxruntime, fp32, batches 1 2 3" in capsys.readouterr().out


def test_facts_in_another_form_end_in_words(small_bundle, tmp_path, capsys):
    import shutil

    copied = shutil.copytree(small_bundle("onnxruntime"), tmp_path / "bundle")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["engine"] |= {"layers": 5}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert run(copied) == 0
    assert "another form" in capsys.readouterr().out
