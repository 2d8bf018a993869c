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


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The random MobileNetV2 as a checkpoint whose classes have names, and 40 photographs of three of them."""
    import torch
    from PIL import Image

    from edge.models.source import open_source

    folder = tmp_path_factory.mktemp("named")
    (folder / "images").mkdir()
    random, names = np.random.default_rng(0), [f"class_{index:02d}" for index in range(20)]
    rows = ["image,split,labels"]
    for index in range(40):
        Image.fromarray(random.integers(0, 255, (40, 64, 3), np.uint8)).save(folder / "images" / f"{index}.png")
        rows.append(f"{index}.png,{'test' if index % 4 == 3 else 'train'},{names[index % 3]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    for file in ("classes.txt", "labels.txt"):
        (folder / file).write_text("\n".join(names) + "\n")
    torch.save({"state_dict": open_source("random", size=64).network.state_dict()}, folder / "weights.pth")
    words = ("--weights", folder / "weights.pth", "--labels", folder / "labels.txt", "--dataset", f"csv:{folder}", "--size", "64")
    return folder, (*words, "--batch", "1", "--backend", "openvino", "--calib-images", "4")


class Costly:
    """Stands for trials on the engine: of the parts of the network only one costs mAP while it is in int8."""

    stand_in = False
    cost, always = "local/block3/expand", False

    def __init__(self, dataset, target):
        self.dataset = dataset

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def reference(self, graph):
        return {"scores": np.where(self.dataset.labels > 0, 0.9, 0.1).astype(np.float32)}

    def run(self, graph):
        right = self.reference(graph)["scores"]
        costly = next(node for node in graph.parse().graph.node if node.name == self.cost)
        return {"scores": 1 - right if self.always or not costly.input[1].endswith(".weight") else right}


@pytest.fixture(scope="module")
def exported():
    """What the exporter made the first time: three builds of the same weights trace them once."""
    return []


@pytest.fixture
def costly(monkeypatch, exported):
    pytest.importorskip("openvino")
    import export
    from calib import sensitivity, trials

    trace = export.export_graph
    monkeypatch.setattr(export, "export_graph", lambda *given: exported[0] if exported else exported.append(trace(*given)) or exported[0])
    parts = ("global/block2", "local/block2", "local/block3")
    whole = sensitivity.units
    monkeypatch.setattr(sensitivity, "units", lambda graph: {name: nodes for name, nodes in whole(graph).items() if name in parts})
    monkeypatch.setattr(trials, "Trials", Costly)
    speed = {"backend": "openvino", "int8_ms": 12.3, "float": "bf16", "float_ms": 11.1, "ratio": 1.1}
    monkeypatch.setattr(trials, "compare_speed", lambda int8, fp32, target: speed)


def test_the_gate_returns_what_costs_and_its_ranking_reaches_the_page(named, costly, tmp_path, capsys, monkeypatch):
    from edge import bench
    from edge.measure.latency import Plan

    monkeypatch.setattr(bench, "PLAN", Plan(samples=10, least_s=0, limit_s=1, warm_calls=5, warm_s=1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    folder, words = named
    assert run(*words, "--max-map-drop", "0.2", "--output", tmp_path / "gated") == 0
    said = capsys.readouterr()
    assert "mAP drop 0.00 of 0.2 points" in said.out
    assert "float: local/block3" in said.out
    warned = next(line for line in said.err.splitlines() if "no faster" in line)
    assert "int8 12.3 ms" in warned
    assert "bf16 11.1 ms" in warned

    words = [str(word) for word in (tmp_path / "gated", "--dataset", f"csv:{folder}", "--html", tmp_path / "page.html")]
    words += ["--markdown", str(tmp_path / "page.md"), "--json", str(tmp_path / "bench.json")]
    assert command.run(bench.main, bench.arguments().parse_args(words)) == 0
    found = json.loads((tmp_path / "bench.json").read_text())["sensitivity"]
    assert found == Bundle.read(tmp_path / "gated").manifest["sensitivity"]
    assert found["returned_to_float"] == ["local/block3"]
    assert found["ranking"][0]["unit"] == "local/block3"
    assert found["map_drop"] <= 0.2 < found["map_drop_all_int8"]
    text = (tmp_path / "page.html").read_text()
    assert "<h2>Sensitivity</h2>" in text
    assert "In float here: local/block3." in text
    for text in (capsys.readouterr().out, (tmp_path / "page.md").read_text()):
        assert "local/block3 +" in text
        assert "in float: local/block3" in " ".join(text.split())


def test_a_gate_that_cannot_be_met_leaves_no_bundle(named, costly, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Costly, "always", True)
    out = tmp_path / "engines" / "gated"
    assert run(*named[1], "--max-map-drop", "0.2", "--output", out) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("[calib] the mAP drop must be at most 0.2 points, got ")
    assert "at best" in error
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_repairs_are_asked_for_and_written_down(named, costly, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Costly, "always", True)
    repairs = ("--repair", "equalisation", "--repair", "bias-correction")
    assert run(*named[1], *repairs, "--output", tmp_path / "repaired") == 0
    assert "36 pairs of convolutions equalised" in capsys.readouterr().out
    bundle = Bundle.read(tmp_path / "repaired")
    assert bundle.manifest["calibration"]["repairs"] == ["bias-correction", "equalisation"]
    assert "global/block2/expand → global/block2/depthwise" in bundle.manifest["equalisation"]["pairs"]
    weights = {each.name for each in bundle.graph().parse().graph.initializer}
    assert "global/block2/expand/corrected_bias" in weights
    assert "global/block2/expand/clip/bounds" in weights
    import onnx

    reference = onnx.load(bundle.path / "reference.onnx").graph  # what the drop is counted from is not repaired
    assert not any(node.name.endswith("clip/min") for node in reference.node)
