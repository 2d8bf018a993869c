"""``edge.bench``: the pinned JSON, the gates, and one clear line for everything it refuses."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from edge import backends, bench, command
from edge.manifest import write_manifest
from edge.measure import energy
from edge.measure.latency import Plan
from edge.report import bench as report
from edge.report import engine as single
from edge.report.options import BenchOptions

KEYS = {
    *("bundle", "backend", "precision", "batch", "latency_ms", "throughput_images_per_s", "stages_ms", "memory_mb"),
    *("accuracy", "regions", "effort", "machine", "valid", "warnings"),
}

QUICK = Plan(samples=10, least_s=0, limit_s=1, warm_calls=5, warm_s=1, rounds=2, turn_s=0.01)


@pytest.fixture(autouse=True)
def cached(monkeypatch, tmp_path):
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*words: object) -> int:
    try:
        return command.run(partial(bench.main, plan=QUICK), bench.arguments().parse_args([str(word) for word in words]))
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.fixture
def measured(tmp_path):
    """The JSON of a run, which must end with that exit code."""

    def run_with(*words: object, code: int = 0) -> dict:
        assert run(*words, "--json", tmp_path / "out.json") == code
        return json.loads((tmp_path / "out.json").read_text())

    return run_with


@pytest.fixture
def without_onnxruntime(monkeypatch):
    probe = backends.probe
    missing = backends.Support(reason="it does not import", fix="Install it")
    monkeypatch.setattr(backends, "probe", lambda name: missing if name == "onnxruntime" else probe(name))


@pytest.fixture
def bundle(small_bundle):
    return small_bundle("openvino")


@pytest.fixture(scope="module")
def photos(noise_photos):
    """A csv folder with the class names of the random model."""
    return noise_photos(["test"] * 8 + ["train"], (48, 80))


def test_json_holds_the_pinned_keys(bundle, photos, measured):
    result = measured(bundle, "--dataset", f"csv:{photos}", "--batch", "2")
    assert set(result) >= KEYS
    assert set(result["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean", "min", "max"}
    assert set(result["memory_mb"]) >= {"peak_rss", "bundle"}
    assert set(result["accuracy"]) >= {"images", "map", "map_reference", "map_drop", "cf1", "of1", "per_class"}
    assert set(result["regions"]) >= {"class_agreement", "mean_iou"}
    assert (result["batch"], result["backend"], result["precision"]) == (2, "openvino", "fp32")
    assert result["accuracy"]["images"] == 8
    assert len(result["accuracy"]["per_class"]) == 20
    assert result["accuracy"]["map_drop"] == pytest.approx(result["accuracy"]["map_reference"] - result["accuracy"]["map"])
    assert set(result["accuracy"]["causes"]) == {"scores", "classes", "boxes", "local"}
    assert sum(result["accuracy"]["causes"].values()) == pytest.approx(result["accuracy"]["map_drop"])
    assert result["regions"]["class_agreement"] == 1
    assert {"decode", "preprocess", "look", "closer"} <= set(result["stages_ms"])
    order = [result["latency_ms"][key] for key in ("min", "p50", "p90", "p95", "p99", "max")]
    assert order == sorted(order)
    assert 0 < result["throughput_images_per_s"] < 2e3 / result["latency_ms"]["min"]


def test_the_latency_of_every_effort_is_measured_over_the_images(bundle, photos, tmp_path, measured):
    words = ["--dataset", f"csv:{photos}", "--batch", "2", "--effort", "0.5"]
    found = measured(bundle, *words)["effort"]
    assert (found["chosen"], found["mean_looks"], found["regions"], found["images"], found["batch"]) == (0.5, 2, 4, 8, 2)
    efforts = [point["effort"] for point in found["curve"]]
    assert efforts == sorted(efforts)
    assert {0, 0.5, 1} <= set(efforts)
    assert len(efforts) <= 9
    looks = [point["mean_looks"] for point in found["curve"]]
    assert looks == [round(effort * 4) for effort in efforts]
    assert set(found["curve"][0]) >= {"effort", "mean_looks", "map", "mean_ms", "p50_ms", "p99_ms"}
    assert found["curve"][-1]["map"] - found["map"] == pytest.approx(found["map_drop"])
    assert found["curve"][0]["p50_ms"] < found["curve"][-1]["p50_ms"]
    # The bundle itself looks at everything; the rest of a report is at effort 1 whatever the
    # bundle's effort is.
    copied = shutil.copytree(bundle, tmp_path / "half")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["stages"]["effort"] = 0.25
    write_manifest(copied, manifest)
    half = measured(copied, "--dataset", f"csv:{photos}", "--batch", "2", "--fail-on", "mean_looks>0.5", code=3)
    assert (half["effort"]["chosen"], half["effort"]["mean_looks"]) == (0.25, 1)
    assert half["regions"]["class_agreement"] == 1
    assert half["accuracy"]["map"] == pytest.approx(half["effort"]["curve"][-1]["map"])
    assert abs(half["accuracy"]["map_drop"]) < 1e-3
    assert measured(bundle, "--no-accuracy")["effort"] is None


@pytest.fixture
def tuned(bundle, tmp_path):
    """The same bundle with a reference of another input size: classifiers of the mean colour, at 96
    pixels."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 96, 96])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 20])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    folder = shutil.copytree(bundle, tmp_path / "tuned")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "reference.onnx").write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString())
    write_manifest(folder, {**manifest, "reference": {"image": {**manifest["image"], "size": 96}, "regions": 6}})
    return folder, weights


def test_the_drop_of_a_tuned_bundle_counts_from_the_graph_it_was_tuned_against(tuned, photos, measured):
    from edge.data import open_dataset
    from edge.image import preprocess
    from edge.measure.accuracy import average_precision
    from edge.spec import ImageSpec

    folder, weights = tuned
    result = measured(folder, "--dataset", f"csv:{photos}", "--batch", "2")
    test = open_dataset(f"csv:{photos}", "test")
    colours = np.stack([preprocess(test[index].image, ImageSpec(96)).mean((1, 2)) for index in range(len(test))])
    expected = 100 * average_precision(colours @ weights, test.labels).mean()
    assert result["accuracy"]["map_reference"] == pytest.approx(expected)
    assert result["accuracy"]["map_drop"] == pytest.approx(expected - result["accuracy"]["map"])
    assert result["accuracy"]["causes"] is None  # another graph's scores are not split by this one's layers
    assert any("in FP32 at 96 px" in warning for warning in result["warnings"])


def test_regions_of_a_reference_of_another_size_are_compared_in_the_engines_pixels(bundle):
    from edge.bundle import Bundle
    from edge.measure.regions import drift

    own = Bundle.read(bundle)
    reference = replace(own, manifest={**own.manifest, "reference": {"image": {"size": 2 * own.image.size}, "regions": 4}})
    boxes = np.array([[[0, 0, 32, 32], [16, 8, 64, 40]]], np.float32)
    classes = np.array([[3, 5]])
    seen = single._in_pixels_of(reference, {"regions": 2 * boxes, "region_classes": classes})
    assert drift({"regions": boxes, "region_classes": classes}, seen).mean_iou == pytest.approx(1)


@pytest.mark.parametrize(
    "reference", [[], {}, {"image": None}, {"image": {"size": 2**20}}, {"image": {"size": 40}}, {"image": {"size": 64, "x": 1}}]
)
def test_a_reference_that_no_graph_takes_is_refused(bundle, tmp_path, reference, capsys):
    folder = shutil.copytree(bundle, tmp_path / "damaged")
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "reference": reference})
    assert run(folder) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_batch_of_a_sweep_is_measured_and_the_largest_stands_on_top(bundle, measured):
    result = measured(bundle, "--no-accuracy", "--batch", "3,1")
    assert [one["batch"] for one in result["sweep"]] == [1, 3]
    assert result["batch"] == 3
    assert result["latency_ms"] == result["sweep"][1]["latency_ms"]
    assert result["accuracy"] is None


def test_default_batch_is_the_bundles_largest_where_that_is_less_than_eight(bundle, measured):
    assert measured(bundle, "--no-accuracy")["batch"] == 3


def test_reports_streams_and_soak_are_written(bundle, photos, tmp_path, capsys, measured):
    words = ["--dataset", f"csv:{photos}", "--batch", "1", "--streams", "2", "--duration", "1s"]
    result = measured(bundle, *words, "--html", tmp_path / "r.html", "--markdown", tmp_path / "r.md")
    assert result["streams"]["streams"] == 2
    assert result["soak"]["seconds"] >= 1
    assert (tmp_path / "r.html").read_text().count("<figure>") == 6
    assert "data:image/jpeg;base64," in (tmp_path / "r.html").read_text()
    assert "| engine |" in (tmp_path / "r.md").read_text()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_several_bundles_are_compared_turn_by_turn(bundle, small_bundle, measured):
    result = measured(bundle, small_bundle("onnxruntime"), "--no-accuracy", "--batch", "1")
    assert [one["backend"] for one in result["engines"]] == ["openvino", "onnxruntime"]
    assert result["backend"] == "openvino"
    assert result["comparison"][0]["ratio"] == 1
    assert result["comparison"][1]["ratio"] > 0


@pytest.fixture
def narrow(bundle, tmp_path):
    """The same bundle with a smaller largest batch."""
    folder = tmp_path / "narrow"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = {name: value for name, value in manifest.items() if name not in ("schema", "files")}
    write_manifest(folder, {**content, "target": {**content["target"], "batches": [1, 2]}})
    return folder


def test_several_bundles_are_measured_at_a_batch_that_fits_all(bundle, narrow, measured, capsys, monkeypatch):
    result = measured(bundle, narrow, "--no-accuracy")
    assert [one["batch"] for one in result["engines"]] == [2, 2]
    assert len(result["comparison"]) == 2
    monkeypatch.setattr(report, "bench_engine", lambda *_: pytest.fail("measured before it was refused"))
    assert run(bundle, narrow, "--no-accuracy", "--batch", "3") == 1
    assert f"{narrow} takes at most 2" in capsys.readouterr().err


def test_a_gate_holds_for_every_bundle_by_name(bundle, small_bundle, capsys, measured):
    words = [bundle, small_bundle("onnxruntime"), "--no-accuracy", "--batch", "1", "--fail-on", "peak_rss>1"]
    result = measured(*words, code=3)
    shown = capsys.readouterr()
    for name in ("mcar-mobilenetv2 64 fp32 openvino", "mcar-mobilenetv2 64 fp32 onnxruntime"):
        assert f"{name}: peak_rss" in shown.err
        assert f"FAIL {name}: peak_rss>1" in shown.out
    assert [one["engine"].split()[-1] for one in result["gates"]] == ["openvino", "onnxruntime"]


def test_a_bundle_that_cannot_be_loaded_is_refused_before_another_is_measured(bundle, narrow, capsys, monkeypatch):
    (narrow / "labels.txt").write_text("changed\n")
    monkeypatch.setattr(report, "bench_engine", lambda *_: pytest.fail("measured before it was refused"))
    assert run(bundle, narrow, "--no-accuracy") == 1
    assert "labels.txt" in capsys.readouterr().err


def test_without_onnxruntime_there_is_no_drop_and_its_gate_fails_after_everything_is_written(
    bundle, photos, measured, without_onnxruntime, tmp_path, capsys
):
    page, table = tmp_path / "r.html", tmp_path / "r.md"
    words = [bundle, "--dataset", f"csv:{photos}", "--batch", "1", "--fail-on", "map_drop>1", "--html", page, "--markdown", table]
    result = measured(*words, code=1)
    assert result["accuracy"]["map"] > 0
    assert result["accuracy"]["map_drop"] is result["accuracy"]["map_reference"] is result["regions"] is None
    assert any("it does not import" in warning for warning in result["warnings"])
    assert result["gates"][0]["measured"] is None
    shown = capsys.readouterr()
    assert "map_drop (map_drop>1)" in shown.err
    assert "not judged map_drop>1" in shown.out
    assert page.is_file()
    assert table.is_file()


def test_a_baseline_that_cannot_judge_is_refused_before_measuring(bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "base.json").write_text(json.dumps({"latency_ms": {"p99": 1.0}, "batch": 2}))
    monkeypatch.setattr(report, "bench_engine", lambda *_: pytest.fail("measured before it was refused"))
    assert run(bundle, "--no-accuracy", "--batch", "1", "--baseline", tmp_path / "base.json", "--fail-on", "p99>+5%") == 1
    assert "at batch 2, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("manifest", "spec", "note"),
    [
        ({"weights": "anything", "trained": True, "default_dataset": "scenes"}, "scenes", None),
        ({"weights": "ends-random", "trained": True, "default_dataset": None}, None, "no default data set"),
        ({"weights": "mcar-mobilenetv2-scenes", "trained": True, "default_dataset": None}, None, "no default data set"),
        ({"weights": "anything", "trained": False, "default_dataset": "scenes"}, "scenes", "weights are random"),
        ({"weights": "mcar-mobilenetv2-scenes"}, "scenes", None),
        ({"weights": "mcar-resnet50-random"}, "scenes", "weights are random"),
        ({"weights": "mine"}, None, "no default data set"),
    ],
)
def test_what_the_bundle_says_of_its_weights_decides_on_the_images(manifest, spec, note):
    """Bundles that say nothing are judged by the name of their weights."""
    labelled = SimpleNamespace(labels=np.ones((1, 1), np.int8), classes=("a",))
    asked = []
    bundle = SimpleNamespace(manifest=manifest, model=SimpleNamespace(labels=("a",)))
    judge = report.judge_of(BenchOptions(), bundle, lambda given: asked.append(given) or labelled)
    assert asked == ([spec] if spec else [])
    assert judge.dataset is (labelled if spec else None)
    assert [note in one for one in judge.notes] == ([True] if note else [])


@pytest.mark.parametrize(("backend", "gpu"), [("openvino", False), ("onnxruntime", False), ("tensorrt", True), ("tensorrt-rtx", True)])
def test_energy_is_read_where_the_engine_runs(backend, gpu, monkeypatch):
    monkeypatch.setattr(energy, "find", lambda **asked: (None, str(asked)))
    engine = SimpleNamespace(bundle=SimpleNamespace(target=SimpleNamespace(backend=backend)))
    assert single._energy(engine, np.zeros(1)).reason == f"not available here: {{'gpu': {gpu}}}"


def test_reference_scores_are_kept_and_used_again(bundle, photos, measured, monkeypatch):
    words = (bundle, "--dataset", f"csv:{photos}", "--batch", "1")
    first = measured(*words)["accuracy"]["map_reference"]
    monkeypatch.setattr(single, "_reference", lambda *_: pytest.fail("the reference was run again"))
    assert measured(*words)["accuracy"]["map_reference"] == first


def test_on_a_device_without_onnx_the_drop_stays_whole(bundle, photos, monkeypatch, measured):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = measured(bundle, "--dataset", f"csv:{photos}", "--batch", "1")
    assert result["accuracy"]["map_drop"] is not None
    assert result["accuracy"]["causes"] is None
    assert any("not split into its causes" in warning for warning in result["warnings"])


def test_unlabelled_photographs_give_drift_only(bundle, photos, measured):
    result = measured(bundle, "--dataset", f"images:{photos / 'images'}", "--batch", "1")
    assert result["accuracy"] is None
    assert result["regions"]["class_agreement"] == 1


def test_gates_pass_and_fail_against_a_baseline(bundle, tmp_path, capsys, measured):
    base = tmp_path / "base.json"
    assert run(bundle, "--no-accuracy", "--batch", "1", "--json", base) == 0
    assert run(bundle, "--no-accuracy", "--batch", "1", "--baseline", base, "--fail-on", "p50>+100000%,peak_rss>99999") == 0
    fast = json.loads(base.read_text())
    fast["latency_ms"]["p99"] = 1e-6
    base.write_text(json.dumps(fast))
    capsys.readouterr()
    result = measured(bundle, "--no-accuracy", "--batch", "1", "--baseline", base, "--fail-on", "p99>+5%", code=3)
    assert "p99" in capsys.readouterr().err
    assert result["gates"][0]["failed"]


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--batch", "4"], 1, "at most 3"),
        (["--batch", "0"], 1, "--batch is 0"),
        (["--batch", "two"], 2, "invalid batch value"),
        (["--images", "0"], 1, "--images is 0"),
        (["--streams", "0"], 1, "--streams is 0"),
        (["--streams", "1000000"], 1, "--streams is 1000000"),
        (["--duration", "9" * 400], 1, "--duration is inf"),
        (["--duration", "0"], 1, "--duration is 0"),
        (["--duration", "soon"], 2, "not a time"),
        (["--score-threshold", "1.5"], 1, "0 to 1"),
        (["--effort", "1.5"], 1, "0 to 1"),
        (["--effort", "0.5", "--no-accuracy"], 1, "Leave out one of them"),
        (["--fail-on", "p98>3"], 1, "METRIC"),
        (["--fail-on", "p99>+3%"], 1, "Set --baseline to the JSON"),
        (["--fail-on", "map<3", "--no-accuracy"], 1, "needs labelled images"),
        (["--baseline", "nowhere.json"], 1, "Cannot read the baseline"),
        (["--dataset", "csv:nowhere"], 1, "nowhere"),
        (["--dataset", "photographs"], 1, "csv:DIR"),
        (["--unknown"], 2, "unrecognized"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bundle, words, code, part, capsys):
    assert run(bundle, *words) == code
    error = capsys.readouterr().err
    assert part in error
    if code == 1:
        assert len(error.strip().splitlines()) == 1


def test_without_a_bundle_the_newest_is_taken(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--no-accuracy") == 1
    assert "python -m edge.build" in capsys.readouterr().err
    shutil.copytree(bundle, tmp_path / "engines" / "old")
    shutil.copytree(bundle, tmp_path / "engines" / "new")
    manifest = json.loads((bundle / "manifest.json").read_text())
    write_manifest(tmp_path / "engines" / "new", {name: value for name, value in manifest.items() if name not in ("schema", "files")})
    assert run("--no-accuracy", "--batch", "1", "--json", "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["bundle"] == "engines/new"


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert run(tmp_path, "--no-accuracy") == 1
    assert "manifest" in capsys.readouterr().err


def test_a_baseline_of_another_form_is_refused(bundle, tmp_path, capsys):
    (tmp_path / "list.json").write_text("[1, 2]")
    assert run(bundle, "--no-accuracy", "--baseline", tmp_path / "list.json") == 1
    assert "was not written by python -m edge.bench" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 200_000, '{"latency_ms": ' + "9" * 5000 + "}", "", "\udcff"])
def test_a_baseline_that_cannot_be_read_is_refused_in_one_line(bundle, tmp_path, capsys, text):
    (tmp_path / "base.json").write_bytes(text.encode(errors="surrogateescape"))
    assert run(bundle, "--no-accuracy", "--baseline", tmp_path / "base.json") == 1
    said = capsys.readouterr().err
    assert "Cannot read the baseline" in said
    assert said.count("\n") == 1


def test_a_baseline_that_never_ends_is_not_read(bundle, capsys):
    if not os.path.exists("/dev/zero"):
        pytest.skip("there is no /dev/zero here")
    assert run(bundle, "--no-accuracy", "--baseline", "/dev/zero") == 1
    assert "Not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "found", [None, [], "gate", {}, {"map_drop": "much"}, {"map_drop": 1, "map_drop_all_int8": 2, "returned_to_float": 3}]
)
def test_a_ranking_of_another_form_is_left_out(found):
    assert single.gate_of_build(found) is None
