"""``python -m edge.build``: its flags, what it prints, and one clear line for everything that
cannot be."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge import build, command
from edge.bundle import Bundle, newest
from edge.pipeline import BuildOptions

SMALL = ("--weights", "random", "--size", "64", "--precision", "fp32", "--batch", "3")


def run(*words: object) -> int:
    return command.run(build.main, build.arguments().parse_args([str(word) for word in words]))


@pytest.fixture(params=["openvino", "onnxruntime"])
def bundle(request, small_bundle):
    return small_bundle(request.param)


def test_the_json_names_the_bundle(bundle, tmp_path, capsys):
    assert run("--from", bundle, "--output", tmp_path / "again", "--json", tmp_path / "again.json") == 0
    made = json.loads((tmp_path / "again.json").read_text())
    assert made == {"bundle": str(tmp_path / "again"), "manifest": dict(Bundle.read(tmp_path / "again").manifest)}
    bundle, following = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"bundle     {tmp_path}/again \([\d.]+ MB engine\)", bundle)
    assert following == f"next       python -m edge.bench {tmp_path}/again"


def test_an_existing_bundle_stays_unless_forced(bundle, capsys):
    before = (bundle / "manifest.json").stat().st_mtime_ns
    assert run(*SMALL, "--output", bundle) == 1
    assert "--force" in capsys.readouterr().err
    assert (bundle / "manifest.json").stat().st_mtime_ns == before


def test_a_bundle_is_rebuilt_where_it_lies(bundle, tmp_path, monkeypatch, capsys):
    """Into an empty folder, through a link that stays, and not under whoever stands in it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").mkdir()
    (tmp_path / "link").symlink_to("disk/real")
    assert run("--from", bundle, "--output", tmp_path / "link") == 0
    first = (tmp_path / "link" / "manifest.json").stat().st_ino
    assert run("--from", tmp_path / "link", "--force") == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "link" / "manifest.json").stat().st_ino != first
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]
    monkeypatch.chdir(tmp_path / "link")
    assert run("--from", ".", "--force") == 1
    assert "current folder. Go to another folder, or choose another --output" in capsys.readouterr().err


def refuse(capsys, output, *words):
    """The command refuses with exit 1 and one line, and leaves nothing behind."""
    assert run(*words, "--output", output) == 1
    error = capsys.readouterr().err.strip()
    lines = [line for line in error.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, error
    assert lines[0].startswith("[")
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
        (("--model", "mcar-resnet50"), "--weights to the path of a checkpoint, or to random"),
        (("--from", "nowhere"), "--precision would have no effect with --from"),
        (("--max-map-drop", "0.5", "--repair", "equalisation"), "--max-map-drop, --repair would have no effect at --precision fp32"),
        (("--weights", "random", "--batch", "5000"), "Use 1 to 4096"),
        (("--weights", "random", "--size", "8192"), "--size to 4096 or less"),
        *((("--precision", "int8", "--max-map-drop", drop), "Use 0 or more") for drop in ("nan", "inf", "-1")),
        (("--precision", "int8", "--weights", "random", "--max-map-drop", "1"), "means nothing for random weights"),
        *((("--effort", effort), "Use auto or 0 to 1") for effort in ("-0.1", "1.5", "nan")),
        *((("--max-effort-drop", drop), "Use 0 or more") for drop in ("nan", "-1")),
        (("--weights", "random", "--effort", "auto"), "needs trained weights with named classes"),
        (("--weights", "random", "--max-effort-drop", "1"), "--max-effort-drop would have no effect"),
    ],
)
def test_bad_input_is_one_clear_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refuse(capsys, tmp_path / "out" / "bundle", "--precision", "fp32", *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "nowhere"), "no bundle at nowhere"),
        (("--from", "nowhere", "--batch", "4", "--backend", "openvino", "--force"), "no bundle at nowhere"),
        *((("--from", "nowhere", flag, value), f"{flag} would have no effect with --from") for flag, value in (
            ("--max-map-drop", "0.5"), ("--weights", "random"), ("--model", "mcar-resnet50"), ("--labels", "l.txt"), ("--size", "64"),
            ("--repair", "equalisation"), ("--seed", "0"), ("--calib-method", "mse"), ("--calib-images", "9"),
        )),
        (("--from", "nowhere", "--dataset", "scenes"), "--dataset would have no effect in a rebuild without --effort"),
        (("--from", "nowhere", "--max-effort-drop", "1"), "--max-effort-drop would have no effect in a rebuild without --effort"),
        (("--effort", "0.5", "--max-effort-drop", "1"), "--max-effort-drop would have no effect at --effort 0.5"),
        (("--calibration", "table.json", "--calib-images", "9"), "--calib-images would have no effect where --calibration"),
    ],
)  # fmt: skip
def test_a_flag_that_nobody_would_read_is_refused(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refuse(capsys, tmp_path / "out" / "bundle", *words)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), BuildOptions()),
        (
            ("--model", "mcar-resnet50", "--weights", "w.pth", "--labels", "l.txt", "--size", "448", "--regions", "2", "--pooling", "gwp",
             "--threshold", "0.4", "--precision", "int8", "--backend", "tensorrt-rtx", "--batch", "4", "--compute-capability", "8.6, 8.9",
             "--dataset", "scenes", "--calib-method", "entropy", "--calib-images", "9", "--repair", "equalisation",
             "--repair", "bias-correction", "--max-map-drop", "0.5", "--effort", "auto", "--max-effort-drop", "0.2",
             "--output", "out", "--force", "--seed", "3"),
            BuildOptions(
                model="mcar-resnet50", weights="w.pth", labels=Path("l.txt"), size=448, regions=2, pooling="gwp", threshold=0.4,
                backend="tensorrt-rtx", batch=4, compute_capability=("8.6", "8.9"), dataset="scenes", calib_method="entropy",
                calib_images=9, repair=("equalisation", "bias-correction"), max_map_drop=0.5, effort="auto", max_effort_drop=0.2,
                output=Path("out"), force=True, seed=3,
            ),
        ),
        (("--calibration", "table.json"), BuildOptions(calibration=Path("table.json"))),
        (("--effort", "0.25"), BuildOptions(effort=0.25)),
        (("--repair", "none"), BuildOptions(repair=())),
    ],
)  # fmt: skip
def test_every_flag_is_a_field_and_defaults_are_those_of_the_options(words, options, monkeypatch, tmp_path):
    seen = []
    made = SimpleNamespace(path=tmp_path, bytes=0, manifest={})
    monkeypatch.setattr(build, "build", lambda options, *, events: seen.append(options) or made)
    assert run(*words) == 0
    assert seen == [options]


def test_a_rebuild_takes_the_flags_that_it_reads(monkeypatch, tmp_path):
    seen = []
    made = SimpleNamespace(path=tmp_path, bytes=0, manifest={})
    monkeypatch.setattr(build, "rebuild", lambda source, options, *, events: seen.append((source, options)) or made)
    assert run("--from", "old", "--backend", "onnxruntime", "--batch", "2", "--output", "new", "--force") == 0
    assert seen == [(Path("old"), BuildOptions(backend="onnxruntime", batch=2, output=Path("new"), force=True))]


def test_an_effort_that_is_neither_auto_nor_a_number_is_an_unknown_choice(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--effort", "all")
    assert "invalid effort value: 'all'" in capsys.readouterr().err


def test_every_flag_but_the_common_ones_and_from_is_a_field():
    flags = {action.dest for action in build.arguments()._actions} - {"help", "version", "json", "source"}
    assert flags == {field.name for field in fields(BuildOptions)}
    assert all(action.default is None for action in build.arguments()._actions if action.dest in flags)


@pytest.mark.parametrize("name", ["export", "calib"])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_a_package_of_a_stranger_under_our_name_is_one_line(name, form, capsys, tmp_path, monkeypatch):
    path = tmp_path / "theirs" / form.format(name)
    path.parent.mkdir(parents=True)
    path.write_text("raise SystemExit('a stranger ran')\n")
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(path.parent if form == "{}.py" else path.parent.parent)
    line = refuse(capsys, tmp_path / "out" / "bundle", *SMALL, "--backend", "openvino")
    assert f"another package named '{name}', {path}, before the one installed with edge" in line


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript", "calib.trials"])
def test_a_host_package_that_is_missing_is_one_line(name, capsys, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, name, None)
    line = refuse(capsys, tmp_path / "out" / "bundle", *SMALL, "--backend", "openvino")
    assert name in line
    assert "mcar-edge[build]" in line


def test_a_stray_manifest_is_no_bundle(tmp_path):
    for index, text in enumerate(("5", "null", "[" * 100_000, '{"target": 1}')):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "manifest.json").write_text(text)
    assert newest(tmp_path) == tmp_path / "3"


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
    assert "Cannot write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_backend_that_is_not_installed_says_how_to_get_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    line = refuse(capsys, tmp_path / "out", *SMALL, "--backend", "openvino")
    assert 'pip install "mcar-edge[openvino]"' in line


def test_onnxruntime_has_no_sixteen_bit_float(capsys, tmp_path):
    line = refuse(capsys, tmp_path / "out", *SMALL, "--backend", "onnxruntime", "--precision", "fp16")
    assert "no 16-bit float" in line


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The random MobileNetV2 as a checkpoint whose classes have names, and 40 photographs of three
    of them."""
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
    """Stands for trials on the engine: of the parts of the network only one costs mAP while it is
    in int8."""

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
    speed = trials.Speed("openvino", 12.3, "bf16", 11.1, 1.1)
    monkeypatch.setattr(trials, "compare_speed", lambda int8, fp32, target: speed)


def test_the_gate_returns_what_costs_and_its_ranking_reaches_the_page(named, costly, tmp_path, capsys, monkeypatch):
    from functools import partial

    from edge import bench
    from edge.measure.latency import Plan

    plan = Plan(samples=10, least_s=0, limit_s=1, warm_calls=5, warm_s=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    folder, words = named
    assert run(*words, "--max-map-drop", "0.2", "--output", tmp_path / "gated") == 0
    said = capsys.readouterr()
    assert "Δ mAP +0.00, limit -0.2," in said.out
    assert "float: local/block3" in said.out
    warned = next(line for line in said.err.splitlines() if "no faster" in line)
    assert "int8 12.3 ms" in warned
    assert "bf16 11.1 ms" in warned

    words = [str(word) for word in (tmp_path / "gated", "--dataset", f"csv:{folder}", "--html", tmp_path / "page.html")]
    words += ["--markdown", str(tmp_path / "page.md"), "--json", str(tmp_path / "bench.json")]
    assert command.run(partial(bench.main, plan=plan), bench.arguments().parse_args(words)) == 0
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
    assert error.startswith("[calib] INT8 loses ")
    assert "limit 0.2. Raise --max-map-drop" in error
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_repairs_are_made_by_default_and_written_down(named, costly, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Costly, "always", True)
    assert run(*named[1], "--output", tmp_path / "repaired") == 0
    assert "channels equalised between convolutions in 41 places" in capsys.readouterr().out
    bundle = Bundle.read(tmp_path / "repaired")
    assert bundle.manifest["calibration"]["repairs"] == ["bias-correction", "equalisation", "rounding"]
    assert "global/block2/expand → global/block2/depthwise" in bundle.manifest["equalisation"]["groups"]
    weights = {each.name for each in bundle.graph().parse().graph.initializer}
    assert "global/block2/expand/corrected_bias" in weights
    import onnx

    reference = onnx.load(bundle.path / "reference.onnx").graph  # what the drop is counted from is not repaired
    assert not any(each.name.endswith("corrected_bias") for each in reference.initializer)

    table = bundle.path / "calibration.json"  # without images: equalised and rounded as the table says
    assert run(*named[1][:-2], "--calibration", table, "--output", tmp_path / "again") == 0
    again = Bundle.read(tmp_path / "again")
    assert again.graph().parse() == bundle.graph().parse()
    for key in ("calibration", "equalisation"):
        assert again.manifest[key] == bundle.manifest[key]

    assert run(*named[1], "--repair", "none", "--output", tmp_path / "plain") == 0
    plain = Bundle.read(tmp_path / "plain")
    assert plain.manifest["calibration"]["repairs"] == []
    assert not any(each.name.endswith("corrected_bias") for each in plain.graph().parse().graph.initializer)
