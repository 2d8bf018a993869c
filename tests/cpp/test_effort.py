"""Where the second stage looks, in C++: the same regions as in Python, the same refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge import Engine

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
WIDENS = {"kind": "interval", "low": [0.5, 0], "high": [0.7, 1.0]}
EFFORTS = (0.0, 0.1, 0.25, 0.375, 0.5, 0.8, 1.0)


@pytest.fixture
def adaptive(bundle: Path, tmp_path: Path) -> Path:
    """At effort 0.5, with bounds among the scores it gives, some of them reached to the last
    bit."""
    folder = shutil.copytree(bundle, tmp_path / "adaptive")
    with Engine.load(folder) as engine:
        found = engine.infer(IMAGES, effort=1)
        scores = np.sort(np.take_along_axis(found["global_scores"], found["region_classes"], 1).ravel()).astype(float)
        low = [float(scores[6]), float(scores[5]), float(scores[2]) / 3 + float(scores[3]) * 2 / 3, float(scores[1]), 0.0]
        high = [float(scores[6]), float(scores[6]), float(scores[8]), (float(scores[9]) + float(scores[10])) / 2, 1.0]
        thresholds = [0.3] * len(engine.labels)
    change(folder, rule={"kind": "interval", "low": low, "high": high, "fitted_on": {}}, effort=0.5, thresholds=thresholds)
    return folder


@pytest.fixture
def redundant(adaptive: Path, tmp_path: Path) -> Path:
    """The same with an interval for redundant regions, which some of those are."""
    folder = shutil.copytree(adaptive, tmp_path / "redundant")
    rule = json.loads((folder / "manifest.json").read_text())["stages"]["rule"]
    with Engine.load(folder) as engine:
        boxes = engine.infer(IMAGES, effort=1)["regions"]
    area = float(np.median((boxes[..., 2:] - boxes[..., :2]).prod(-1)))
    late = {"redundant_low": [rule["low"][0]] * 2 + rule["low"][1:3] + [0.0], "redundant_high": [rule["high"][0]] * 3 + rule["high"][3:]}
    change(folder, rule={**rule, **late, "max_overlap": 0.3, "max_area": area})
    return folder


def change(folder: Path, **stages: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"].update(stages)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def agree(bundle: Path, native) -> None:
    with Engine.load(bundle) as engine:
        assert native.effort == engine.effort
        for count in (1, 2, 3):
            for effort in (None, *EFFORTS):
                expected = engine.infer(IMAGES[:count], effort=effort)
                found = native.infer_within(IMAGES[:count], effort=-1 if effort is None else effort)
                for name, value in expected.items():
                    np.testing.assert_array_equal(found[name], value, err_msg=f"{name}, effort {effort}, {count} images")


def test_the_same_regions_are_looked_at_as_in_python(adaptive: Path, redundant: Path, bundle: Path, open_native) -> None:
    agree(adaptive, open_native(adaptive))
    agree(redundant, open_native(redundant))
    first, late = (open_native(each).infer_within(IMAGES, effort=0.5)["regions_looked"] for each in (adaptive, redundant))
    assert (first & ~late).any()  # the limits mean something
    agree(bundle, open_native(bundle))  # by rank
    looked = {open_native(adaptive).infer_within(IMAGES, effort=effort)["regions_looked"].sum() for effort in EFFORTS}
    assert len(looked) > 4


def test_calls_that_name_no_effort_take_the_engines(adaptive: Path, open_native) -> None:
    native, full = open_native(adaptive), open_native(adaptive, effort=1.0)
    np.testing.assert_array_equal(native.infer(IMAGES)["scores"], native.infer_within(IMAGES, effort=0.5)["scores"])
    assert full.effort == 1
    assert full.infer_within(IMAGES)["regions_looked"].all()
    np.testing.assert_array_equal(full.infer(IMAGES)["scores"], native.infer_within(IMAGES, effort=1)["scores"])


def test_a_budget_stops_the_second_stage(adaptive: Path, open_native) -> None:
    native = open_native(adaptive, effort=1.0)
    assert not native.infer_within(IMAGES, budget_ms=1e-6)["regions_looked"].any()
    assert native.infer_within(IMAGES, budget_ms=60_000)["regions_looked"].all()
    half = native.infer_within(IMAGES, effort=0.5, budget_ms=60_000)
    np.testing.assert_array_equal(half["regions_looked"], native.infer_within(IMAGES, effort=0.5)["regions_looked"])


def test_a_prediction_says_what_was_looked_at(adaptive: Path, open_native, tmp_path: Path) -> None:
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (80, 120, 3), np.uint8)).save(photo)
    native = open_native(adaptive)
    with Engine.load(adaptive) as engine:
        for effort in (0.0, 0.5, 1.0):
            (expected,) = engine.predict([photo], effort=effort)
            labels, looked = native.predict_within(photo, effort)
            assert looked == [region.looked for region in expected.regions]
            assert [name for name, _ in labels] == [name for name, _ in expected.labels]


@pytest.mark.parametrize("effort", [1.5, float("nan")])
def test_an_effort_out_of_range_is_one_clear_line(adaptive: Path, open_native, effort: float) -> None:
    with pytest.raises(RuntimeError, match=r"\[load\] The effort is .*Use a value from 0"):
        open_native(adaptive, effort=effort)
    with pytest.raises(RuntimeError, match=r"\[infer\] The effort is .*Use a value from 0"):
        open_native(adaptive).infer_within(IMAGES, effort=effort)


def test_a_budget_of_0_is_one_clear_line(adaptive: Path, open_native) -> None:
    for budget in (0.0, float("nan"), float("inf")):
        with pytest.raises(RuntimeError, match=r"The budget is .*a positive number"):
            open_native(adaptive).infer_within(IMAGES, budget_ms=budget)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ({"rule": {"kind": "interval", "low": [0.5, 0.6], "high": [0.7, 1.0]}}, "damaged"),
        ({"rule": {"kind": "interval", "low": [0.5, -0.1], "high": [0.7, 1.0]}}, "damaged"),
        ({"rule": {"kind": "interval", "low": [0.5], "high": [0.7]}}, "damaged"),
        ({"rule": {"kind": "interval", "low": [0.5, "0"], "high": [0.7, 1.0]}}, "number"),
        ({"rule": {"kind": "interval", "low": [0.5, 0], "high": [0.7, 1.0], "tree": []}}, "tree"),
        ({"rule": {**WIDENS, "max_overlap": 0.5}}, "redundant_low"),
        ({"rule": {**WIDENS, "redundant_low": [0.5, 0], "redundant_high": [0.7, 1.0]}}, "damaged"),
        ({"rule": {**WIDENS, "max_overlap": 1.5, "redundant_low": [0.5, 0], "redundant_high": [0.7, 1.0]}}, "damaged"),
        ({"rule": {**WIDENS, "max_area": "9", "redundant_low": [0.5, 0], "redundant_high": [0.7, 1.0]}}, "number"),
        ({"rule": {"kind": "rank", "max_area": 9}}, "neither"),
        ({"rule": {"kind": "learned", "low": [], "high": []}}, "neither"),
        ({"rule": {"low": [0.5, 0], "high": [0.7, 1.0]}}, "kind"),
        ({"rule": "learned"}, "neither"),
        ({"rule": 3}, "rule"),
        ({"effort": 1.5}, "effort"),
        ({"effort": "auto"}, "effort"),
        ({"thresholds": [0.5]}, "thresholds"),
    ],
)
def test_a_damaged_rule_is_refused_in_one_line(adaptive: Path, open_native: Callable, stages: dict, says: str) -> None:
    change(adaptive, **stages)
    with pytest.raises(RuntimeError, match=says) as refused:
        open_native(adaptive)
    assert "\n" not in str(refused.value)
