"""``edge.pipeline``: from weights to a bundle that loads, from a bundle to another, and what is
told on the way."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edge import backends, cpu, pipeline, quantisation
from edge.bundle import Bundle
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import SILENT
from edge.options import CALIBRATION_IMAGES, METHODS, POOLINGS, REPAIRS
from edge.pipeline import BuildOptions, build, rebuild

SMALL = {"weights": "random", "size": 64, "batch": 1, "precision": "fp32", "backend": "onnxruntime"}


@dataclass
class Told:
    """Events that keep what they are told."""

    said: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def say(self, name, text):
        self.said[name] = text

    def warn(self, text):
        self.warnings.append(text)

    @contextmanager
    def progress(self, title, unit="image"):
        done = []
        yield lambda *report: done.append(report)
        self.stages.append(f"{title} {done[-1][0]} of {done[-1][1]} {unit}")


@pytest.fixture(params=["openvino", "onnxruntime"])
def bundle(request, small_bundle):
    return small_bundle(request.param)


def test_a_bundle_holds_what_the_design_lists(bundle):
    names = {path.name for path in bundle.iterdir()}
    assert {"manifest.json", "graph.onnx", "reference.onnx", "lowered.look.onnx", "lowered.closer.onnx", "labels.txt"} <= names
    assert any(name.startswith("engine.") for name in names)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert (manifest["schema"], manifest["stages"]) == (2, {"sizes": [1, 2, 3, 4], "rule": "rank", "effort": 1.0, "thresholds": []})
    assert manifest["graph"] == manifest["files"]["graph.onnx"]["sha256"]
    assert manifest["parents"]["weights"]
    assert manifest["parity"]["score_error"] < 1e-4
    assert (manifest["weights"], manifest["trained"], manifest["default_dataset"]) == ("mcar-mobilenetv2-random", False, "scenes")


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


@pytest.mark.parametrize("as_path", [True, False])
def test_a_bundle_rebuilds_from_itself(bundle, as_path, tmp_path):
    first = Bundle.read(bundle)
    again = rebuild(bundle if as_path else first, BuildOptions(output=tmp_path / "again"))
    assert first.target == again.target  # its largest batch, too
    for name in ("graph", "weights", "trained", "default_dataset"):
        assert first.manifest[name] == again.manifest[name]
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with Engine.load(bundle) as one, Engine.load(tmp_path / "again") as other:
        np.testing.assert_array_equal(one.infer(images)["scores"], other.infer(images)["scores"])


@pytest.mark.parametrize("known", [False, True, None])
def test_a_bundle_with_weights_for_another_processor_is_lowered_anew(small_bundle, tmp_path, monkeypatch, known):
    copied = shutil.copytree(small_bundle("onnxruntime"), tmp_path / "bundle")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["target"]["precision"] = "int8"
    manifest["target"]["reduced_range"] = known
    (copied / "manifest.json").write_text(json.dumps(manifest))
    lowered = []
    monkeypatch.setattr(pipeline, "_lowered_anew", lambda old, *_: lowered.append(1) or old.lowered())
    monkeypatch.setattr("edge.backends.onnxruntime.needs_reduced_range", lambda: True)
    again = rebuild(copied, BuildOptions(output=tmp_path / "again"))
    assert bool(lowered) is (known is not True)  # an older bundle does not say what it holds
    assert again.target.reduced_range is True


def test_an_engine_for_other_gpus_is_kept_with_a_warning(monkeypatch):
    def refused(folder):
        raise EdgeError("load", "The engine is for compute capability 8.6, and this GPU has 9.0", "Rebuild it")

    support = backends.Support(device="H100", facts={"compute_capability": "9.0"})
    facts = {"compute_capabilities": ["8.6", "8.9"]}
    built = SimpleNamespace(path="bundle", target=SimpleNamespace(backend="tensorrt-rtx"), manifest={"engine": facts})
    monkeypatch.setattr(pipeline.Engine, "load", refused)
    monkeypatch.setattr(pipeline.backends, "probe", lambda _: support)
    told = Told()
    pipeline._try_engine(built, told)
    assert "not tried: it is for compute capability 8.6 or 8.9, and H100 has 9.0" in told.warnings[0]
    facts["compute_capabilities"].append("9.0")
    with pytest.raises(EdgeError, match="compute capability"):
        pipeline._try_engine(built, told)


@pytest.mark.parametrize("limit", [None, "AVX2"])
def test_the_manifest_says_which_instructions_the_engine_was_built_with(monkeypatch, limit):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    machine = pipeline._provenance("openvino", backends.Support(device="CPU"), BuildOptions())["machine"]
    assert machine["instructions"] == list(cpu.instructions())
    assert machine.get("max_cpu_isa") == limit


@pytest.mark.parametrize(
    ("dataset", "default", "expected"),
    [("aerial", None, None), (None, "aerial", None), (None, "scenes", "scenes"), ("csv:photos", "aerial", "csv:photos")],
)
def test_nothing_is_calibrated_or_decided_on_images_to_judge_by(dataset, default, expected):
    source = SimpleNamespace(default_dataset=default, trained=True, named=True)
    assert quantisation._training_data(source, BuildOptions(dataset=dataset)) == expected
    if expected is None:
        with pytest.raises(EdgeError, match="needs labelled images"):
            quantisation.check_gate(source, BuildOptions(dataset=dataset, max_map_drop=1.0))


@pytest.mark.parametrize(("asked_for", "images"), [({}, None), ({"calib_images": 64}, 64), ({"dataset": "scenes"}, CALIBRATION_IMAGES)])
def test_asking_for_calibration_images_sets_the_shipped_table_aside(asked_for, images, monkeypatch):
    from calib import ranges
    from calib.calibration import Calibration

    shipped, fresh = (SimpleNamespace(belongs_to=lambda _: True, missing_classes=lambda: [], peaks={}, fitted=None) for _ in range(2))
    asked = []
    monkeypatch.setattr(Calibration, "load", lambda path: shipped)
    monkeypatch.setattr(ranges, "calibrate", lambda graph, dataset, *, images, seed, progress: asked.append(images) or fresh)
    source = SimpleNamespace(calibration_table=Path("table.json"))
    monkeypatch.setattr(quantisation, "replace", lambda calibration, **_: calibration)
    _, found, *_ = quantisation._calibrated(None, source, "scenes", BuildOptions(**asked_for, repair=()), SILENT)
    assert (found is shipped, asked) == ((True, []) if images is None else (False, [images]))


@pytest.mark.parametrize(
    ("peaks", "fitted", "method", "dropped"),
    [
        ({"value": 1}, "mse", "mse", set()),
        ({"value": 1}, "mse", "percentile", {"rounding"}),
        ({"value": 1}, None, "mse", {"rounding"}),
        ({}, None, "mse", {"equalisation", "rounding"}),
    ],
)
def test_a_table_alone_repairs_what_it_can(peaks, fitted, method, dropped):
    table, told = SimpleNamespace(peaks=peaks, fitted=fitted and SimpleNamespace(method=fitted)), Told()
    assert quantisation._repairs(BuildOptions(calib_method=method), table, None, told) == set(REPAIRS) - dropped
    assert ("repair" in told.said) == bool(dropped)


def test_a_build_tells_what_it_finds_and_prints_nothing(tmp_path, capfd):
    told = Told()
    options = BuildOptions(**{**SMALL, "precision": "int8"}, calib_images=2, output=tmp_path / "bundle")
    made = build(options, events=told)
    assert made.path == tmp_path / "bundle"
    assert made.target.precision == "int8"
    assert [*told.said] == ["model", "weights", "graph", "repair", "int8", "speed"]
    assert told.said["model"] == "mcar-mobilenetv2, 20 classes, 64 px; pooling avg, regions 4, threshold 0.5"
    assert told.stages[0] == "calibrate 2 of 2 image"
    assert re.fullmatch(r"rounding (\d+) of \1 layer", told.stages[1])
    assert told.warnings[0] == "random weights: scores mean nothing; only timings and file formats do"
    assert capfd.readouterr() == ("", "")


def test_a_build_is_silent_by_default(tmp_path, capfd):
    assert build(BuildOptions(**SMALL, output=str(tmp_path / "bundle"))).path == tmp_path / "bundle"
    assert capfd.readouterr() == ("", "")


def test_a_rebuild_refuses_what_it_would_not_read(bundle, tmp_path):
    options = BuildOptions(precision="fp32", size=64, output=tmp_path / "again")
    with pytest.raises(EdgeError, match="`precision`, `size` would have no effect in a rebuild"):
        rebuild(bundle, options)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "other") for name in ("model", "pooling", "precision", "backend", "calib_method")),
        ("repair", ("other",)),
        *(("batch", value) for value in (0, 4097, 1.5, "8", True)),
        *(("regions", value) for value in (0, 2.0)),
        *(("calib_images", value) for value in (0, -1)),
        *(("seed", value) for value in (-1, 0.5, 10**22)),
        *(("size", value) for value in (0, 100, 8192, "64")),
        *(("threshold", value) for value in (0, 1, float("nan"), "0.5")),
        *(("max_map_drop", value) for value in (-1, float("nan"), float("inf"), "1")),
    ],
)
def test_a_value_out_of_range_is_refused_when_the_options_are_made(name, value):
    with pytest.raises(EdgeError, match=f"`{name}`"):
        BuildOptions(**{name: value})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"precision": "fp16", "max_map_drop": 0.5, "repair": REPAIRS[:1]},
            "`max_map_drop`, `repair` would have no effect at `precision` fp16",
        ),
        ({"calibration": "table.json", "calib_images": 9}, "`calib_images` would have no effect where `calibration` gives a table"),
    ],
)
def test_a_field_that_nobody_would_read_is_refused(given, says):
    with pytest.raises(EdgeError, match=says):
        BuildOptions(**given)


def test_options_do_not_change():
    with pytest.raises(FrozenInstanceError):
        BuildOptions().batch = 1


def test_every_field_is_described():
    described = inspect.getdoc(BuildOptions).split("Attributes:")[1]  # from Python 3.13 on docstrings come without indentation
    assert [name for name in BuildOptions.__dataclass_fields__ if f"\n    {name}: " not in described] == []


def test_what_may_be_chosen_is_what_there_is():
    from calib import scales
    from edge.models import pooling

    assert set(METHODS) == set(scales.METHODS)
    assert set(POOLINGS) == set(pooling.POOLINGS)


@pytest.mark.parametrize(("version", "row", "opset"), [("8.6", "tensorrt-8", 17), ("10.3", "tensorrt", 19)])
def test_a_device_is_given_what_it_builds_its_plans_from(small_bundle, tmp_path, version, row, opset):
    """From a bundle of another backend; TensorRT need not be here for it."""
    made = rebuild(small_bundle("onnxruntime"), BuildOptions(tensorrt=version, output=tmp_path / "made"))
    assert (made.manifest["engine"], made.manifest["lowering"], made.target.backend) == ({"unbuilt": version}, row, "tensorrt")
    assert made.stages.sizes == (1, 2, 4, 8, 12), "of 4 regions and up to 3 images"
    for lowered in made.lowered().values():
        assert {each.domain: each.version for each in onnx.load_from_string(lowered).opset_import}[""] == opset
    with pytest.raises(EdgeError, match=f"no engine yet: it must be built on the device, with TensorRT {version}"):
        backends.backend("tensorrt").check_fit(made.manifest["engine"], backends.Support(version=version), "Rebuild it")
    assert Bundle.load(made.path)[1] == {}, "and there is nothing to load"


@pytest.mark.parametrize("version", ["8.4", "12.0", "8", "new"])
def test_a_version_that_nobody_knows_is_refused(tmp_path, version):
    with pytest.raises(EdgeError, match=f"Bundles cannot be prepared for tensorrt {version}"):
        build(BuildOptions(**SMALL | {"backend": "auto"}, tensorrt=version, output=tmp_path / "made"))
