"""What a build decides about the second pass: from images, from the table of shipped weights, or
not at all."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from edge import Engine, adaptive
from edge.adaptive import Origin, decide
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.events import SILENT
from edge.manifest import digest_file
from edge.models.checkpoint import describe
from edge.models.source import shipped
from edge.pipeline import BuildOptions, rebuild
from edge.spec import RuleSpec, from_plain

OURS = Origin("0" * 64, None, True, True, None, automatic=True)
STRANGE = Origin("0" * 64, None, True, False, None, automatic=False)


class Told:
    def __init__(self):
        self.warnings = []

    def say(self, name, text):
        pass

    def warn(self, text):
        self.warnings.append(text)

    @contextmanager
    def progress(self, title, unit="image"):
        yield lambda *_: None


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """100 of them to train on, of which 9 are held out; 30 that are for validation."""
    random, made = np.random.default_rng(0), {}
    for name, parts in {"without": {"train": 100}, "with": {"train": 30, "validation": 30}}.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        (folder / "images").mkdir()
        rows = ["image,split,labels"]
        for split, count in parts.items():
            for index in range(count):
                Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / "images" / f"{split}{index}.png")
                rows.append(f"{split}{index}.png,{split},class_0{index % 3}")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")
        (folder / "classes.txt").write_text("\n".join(f"class_{index:02d}" for index in range(20)) + "\n")
    return {name: f"csv:{folder}" for name, folder in made.items()}


@pytest.fixture
def bundle(small_bundle):
    return small_bundle("openvino")


@pytest.mark.parametrize(("which", "images"), [("without", 9), ("with", 30)])
def test_images_that_were_held_out_decide_on_rule_effort_and_thresholds(bundle, photographs, which, images):
    told = Told()
    keys = decide(Bundle.read(bundle), OURS, BuildOptions(dataset=photographs[which]), told)
    rule = from_plain(RuleSpec, keys["stages"]["rule"])
    assert rule.fitted_on["backend"] == "openvino"
    assert rule.fitted_on["precision"] == "fp32"
    assert f", {images} validation images" in rule.fitted_on["data"]
    assert keys["effort"]["images"] == images
    assert keys["effort"]["drop"] <= 0.1
    assert keys["stages"]["effort"] == keys["effort"]["effort"]
    assert len(keys["stages"]["thresholds"]) == len(keys["model"]["thresholds"]) == 20
    assert any("fewer than 300" in warning for warning in told.warnings)


def test_weights_that_may_know_the_images_look_at_everything_unless_asked(bundle, photographs):
    told = Told()
    assert decide(Bundle.read(bundle), STRANGE, BuildOptions(dataset=photographs["without"]), told) == {}
    assert not told.warnings
    decide(Bundle.read(bundle), STRANGE, BuildOptions(dataset=photographs["without"], effort="auto"), told)
    assert any("may have been trained on" in warning for warning in told.warnings)


def test_without_images_an_effort_goes_by_rank(bundle):
    keys = decide(Bundle.read(bundle), Origin("0" * 64, None, False, False, "scenes", automatic=False), BuildOptions(effort=0.5), SILENT)
    assert keys == {"stages": {"sizes": [1, 2, 3, 4], "rule": "rank", "effort": 0.5, "thresholds": []}}


@pytest.mark.parametrize(
    ("origin", "options", "says"),
    [
        (STRANGE, {"effort": "auto"}, "there is no data set"),
        (Origin("0", None, False, False, "scenes", automatic=False), {"effort": "auto"}, "trained weights"),
        (STRANGE, {"max_effort_drop": 0.5}, "`max_effort_drop` would have no effect"),
    ],
)
def test_an_effort_that_nothing_could_judge_is_refused(origin, options, says):
    with pytest.raises(EdgeError, match=says):
        adaptive.check_effort(origin, BuildOptions(**options))


@pytest.mark.parametrize("effort", [-1, 1.5, float("nan"), "all", True])
def test_an_effort_of_a_build_out_of_range_is_one_clear_line(effort):
    with pytest.raises(EdgeError, match="Use auto or 0 to 1"):
        BuildOptions(effort=effort)


def test_an_engine_of_one_stage_has_no_effort():
    for effort in (0.5, "auto"):
        with pytest.raises(EdgeError, match="no second stage"):
            adaptive.check_stages(None, BuildOptions(effort=effort))
    adaptive.check_stages(None, BuildOptions(effort=1))


def test_a_rebuild_keeps_the_rule_or_fits_it_anew(bundle, photographs, tmp_path):
    trained = shutil.copytree(bundle, tmp_path / "trained")
    manifest = json.loads((trained / "manifest.json").read_text())
    (trained / "manifest.json").write_text(json.dumps({**manifest, "trained": True, "held_out": True}))
    first = rebuild(trained, BuildOptions(output=tmp_path / "first", effort="auto", dataset=photographs["without"]))
    assert first.stages.rule.kind == "interval"
    again = rebuild(first, BuildOptions(output=tmp_path / "again", batch=2))
    assert (again.stages.rule, again.stages.effort, again.model.thresholds) == (
        first.stages.rule,
        first.stages.effort,
        first.model.thresholds,
    )
    assert again.stages.thresholds == first.stages.thresholds
    other = rebuild(first, BuildOptions(output=tmp_path / "other", effort=0.75))
    assert (other.stages.rule, other.stages.effort) == (first.stages.rule, 0.75)
    with Engine.load(tmp_path / "other") as engine:
        assert engine.effort == 0.75
    for given in ({"dataset": photographs["without"]}, {"max_effort_drop": 0.2}):
        with pytest.raises(EdgeError, match="in a rebuild without `effort`"):
            rebuild(first, BuildOptions(output=tmp_path / "none", **given))


def test_the_table_of_shipped_weights_is_taken_where_it_belongs(bundle, tmp_path, monkeypatch):
    read = Bundle.read(bundle)
    part = {
        "rule": {"kind": "interval", "low": [0.4, 0.1, 0], "high": [0.4, 0.9, 1], "fitted_on": {"backend": "openvino"}},
        "effort": 0.3,
        "thresholds": [0.4] * 20,
        "full_thresholds": [0.6] * 20,
        "judged": {"drop": 0.05, "interval": [-0.2, 0.3], "looks": 1.2, "images": 2000},
    }
    table = {"weights": "0" * 64, "size": 64, "options": dict(read.model.options), "float": part, "int8": {**part, "effort": 0.4}}
    (tmp_path / "mine.effort.json").write_text(json.dumps(table))
    monkeypatch.setattr(adaptive, "ASSETS", tmp_path)
    ours = Origin("0" * 64, "mine", True, True, None, automatic=True)
    keys = decide(Bundle.read(bundle), ours, BuildOptions(), SILENT)
    assert (keys["stages"]["effort"], keys["stages"]["rule"]["low"]) == (0.3, [0.4, 0.1, 0])
    assert (keys["stages"]["thresholds"], keys["model"]["thresholds"]) == ([0.4] * 20, [0.6] * 20)
    assert keys["thresholds"]["thresholds"] == [0.6] * 20
    assert decide(Bundle.read(bundle), ours, BuildOptions(dataset="aerial"), SILENT) == keys  # on which nothing is decided
    assert decide(Bundle.read(bundle), ours, BuildOptions(effort=0.9), SILENT)["stages"]["effort"] == 0.9
    other = Origin("1" * 64, "mine", True, True, None, automatic=True)
    assert decide(Bundle.read(bundle), other, BuildOptions(), SILENT)["stages"]["rule"] == "rank"  # of other weights
    (tmp_path / "mine.effort.json").write_text(json.dumps({**table, "size": 96}))
    assert decide(Bundle.read(bundle), ours, BuildOptions(), SILENT)["stages"]["rule"] == "rank"
    with pytest.raises(EdgeError, match=r"needs labelled images.*not for 64 px"):
        decide(Bundle.read(bundle), ours, BuildOptions(effort="auto"), SILENT)


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_bring_a_table_that_belongs_to_them(name):
    table = json.loads((adaptive.ASSETS / f"{name}.effort.json").read_bytes())
    described = describe(adaptive.ASSETS / f"{name}.pth")
    assert table["weights"] == digest_file(adaptive.ASSETS / f"{name}.pth")
    assert (table["size"], table["options"]) == (described.size, dict(described.options))
    for precision in ("int8", "float"):
        part = table[precision]
        rule = from_plain(RuleSpec, part["rule"])
        assert rule.kind == "interval"
        assert rule.fitted_on["precision"] == ("int8" if precision == "int8" else "fp32")
        assert 0 <= part["effort"] <= 1
        assert part["judged"]["drop"] <= 0.1
        assert len(part["thresholds"]) == len(part["full_thresholds"]) == described.num_classes
