"""``edge.build``: from weights to a bundle that loads, and one clear line for everything that cannot be."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from edge import build, command
from edge.bundle import Bundle
from edge.engine import Engine

SMALL = ("--weights", "random", "--size", "64", "--precision", "fp32", "--batch", "3")


def run(*words: object) -> int:
    return command.run(build.main, build.arguments().parse_args([str(word) for word in words]))


@pytest.fixture(params=["openvino", "onnxruntime"])
def bundle(request, small_bundle):
    return small_bundle(request.param)


def test_a_bundle_holds_what_the_design_lists(bundle):
    names = {path.name for path in bundle.iterdir()}
    assert {"manifest.json", "graph.onnx", "reference.onnx", "lowered.onnx", "labels.txt"} <= names
    assert any(name.startswith("engine.") for name in names)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert manifest["graph"] == manifest["files"]["graph.onnx"]["sha256"]
    assert manifest["parents"]["weights"]
    assert manifest["parity"]["score_error"] < 1e-4


def test_the_json_names_the_bundle(bundle):
    assert json.loads(bundle.with_suffix(".json").read_text())["bundle"] == str(bundle)


def test_any_batch_gives_the_scores_of_one_by_one(bundle):
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    with Engine.load(bundle) as engine:
        single = [engine.infer(images[index : index + 1]) for index in range(3)]
        for count in (1, 2, 3):
            together = engine.infer(images[:count])
            for index in range(count):
                for name in ("scores", "global_scores", "local_scores"):
                    np.testing.assert_allclose(together[name][index], single[index][name][0], atol=1e-5)
                np.testing.assert_array_equal(together["regions"][index], single[index]["regions"][0])


def test_outputs_have_the_pinned_names_shapes_and_types(bundle):
    with Engine.load(bundle) as engine:
        out = engine.infer(np.zeros((2, 3, 64, 64), np.float32))
        count = len(engine.labels)
    assert {name: (value.shape, value.dtype.name) for name, value in out.items()} == {
        "scores": ((2, count), "float32"),
        "global_scores": ((2, count), "float32"),
        "local_scores": ((2, count), "float32"),
        "regions": ((2, 4, 4), "float32"),
        "region_classes": ((2, 4), "int64"),
    }
    np.testing.assert_array_equal(out["scores"], np.maximum(out["global_scores"], out["local_scores"]))


def test_a_bundle_rebuilds_from_itself(bundle, tmp_path):
    assert run("--from", bundle, "--batch", "3", "--output", tmp_path / "again") == 0
    first, again = Bundle.read(bundle), Bundle.read(tmp_path / "again")
    assert first.manifest["graph"] == again.manifest["graph"]
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with Engine.load(bundle) as one, Engine.load(tmp_path / "again") as other:
        np.testing.assert_array_equal(one.infer(images)["scores"], other.infer(images)["scores"])


def test_an_existing_bundle_stays_unless_forced(bundle, capsys):
    before = (bundle / "manifest.json").stat().st_mtime_ns
    assert run(*SMALL, "--output", bundle) == 1
    assert "--force" in capsys.readouterr().err
    assert (bundle / "manifest.json").stat().st_mtime_ns == before


def refuse(capsys, output, *words):
    """The command refuses with exit 1 and one line of four parts, and leaves nothing behind."""
    assert run(*words, "--output", output) == 1
    error = capsys.readouterr().err.strip()
    lines = [line for line in error.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, error
    assert lines[0].startswith("[")
    assert ", got " in lines[0]
    assert " Expected " in lines[0]
    assert not output.exists()
    assert not list(output.parent.glob(".*")), "something was left behind"
    return lines[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--weights", "missing.pth"), "missing.pth"),
        (("--weights", "random", "--size", "100"), "multiple of 32"),
        (("--weights", "random", "--threshold", "1"), "(0, 1)"),
        (("--weights", "random", "--threshold", "0"), "(0, 1)"),
        (("--weights", "random", "--regions", "21"), "21"),
        (("--weights", "random", "--regions", "0"), "0"),
        (("--weights", "random", "--batch", "0"), "batch"),
        (("--weights", "random", "--model", "mcar-vgg16"), "mcar-mobilenetv2"),
        (("--model", "mcar-resnet50"), "--weights random"),
        (("--from", "nowhere"), "manifest"),
    ],
)
def test_bad_input_is_one_clear_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refuse(capsys, tmp_path / "out" / "bundle", "--precision", "fp32", *words)


def test_a_zip_that_is_no_checkpoint_is_named(capsys, tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    assert "photos.zip" in refuse(capsys, tmp_path / "out", "--weights", path, "--precision", "fp32")


def test_a_truncated_checkpoint_is_named(capsys, tmp_path):
    import torch

    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {"convclass.weight": torch.zeros(20, 1280, 1, 1)}}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "mine.pth" in refuse(capsys, tmp_path / "out", "--weights", path, "--precision", "fp32")


def test_labels_must_match_the_classes_of_the_weights(capsys, tmp_path):
    import torch

    from edge.models import create

    torch.save({"state_dict": create("mcar-mobilenetv2", num_classes=5).state_dict()}, tmp_path / "five.pth")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    words = ("--weights", tmp_path / "five.pth", "--labels", tmp_path / "labels.txt", "--precision", "fp32")
    assert "2 labels" in refuse(capsys, tmp_path / "out", *words)


def test_an_unwritable_output_is_one_clear_line(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert run(*SMALL, "--output", tmp_path / "file" / "bundle") == 1
    assert "writable" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_backend_that_is_not_installed_says_how_to_get_it(capsys, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    line = refuse(capsys, tmp_path / "out", *SMALL, "--backend", "openvino")
    assert 'pip install "mcar-edge[openvino]"' in line


def test_onnxruntime_has_no_sixteen_bit_float(capsys, tmp_path):
    line = refuse(capsys, tmp_path / "out", *SMALL, "--backend", "onnxruntime", "--precision", "fp16")
    assert "16-bit" in line
