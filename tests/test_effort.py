"""Where the second pass looks: the rules, what a call may spend, and the bundle that says it."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.bundle import Bundle
from edge.effort import fused, needs, redundant
from edge.errors import EdgeError
from edge.manifest import digest_file
from edge.spec import RuleSpec, StagesSpec, from_plain, to_plain
from edge.stages import chunk_size

RULE = RuleSpec("interval", (0.4, 0.3, 0.3, 0.1, 0.0), (0.4, 0.5, 0.7, 0.7, 1.0), {"backend": "openvino", "precision": "fp32"})
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)


def first_pass(scores: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    return {"global_scores": scores, "region_classes": classes, "regions": np.zeros((*classes.shape, 4), np.float32)}


def bounds(effort: float) -> tuple[float, float]:
    at = [0, 0.25, 0.5, 0.75, 1]
    return float(np.interp(effort, at, RULE.low)), float(np.interp(effort, at, RULE.high))


def test_a_region_is_looked_at_where_the_score_of_its_class_lies_in_the_interval():
    rng = np.random.default_rng(1)
    scores = rng.random((200, 6)).astype(np.float32)
    classes = np.argsort(-scores, axis=1)[:, :4]
    need = needs(RULE, first_pass(scores, classes))
    for effort in rng.random(50):
        low, high = bounds(float(effort))
        for image in range(len(scores)):
            for region, c in enumerate(classes[image]):
                score = float(scores[image, c])
                if min(abs(score - low), abs(score - high)) > 1e-9:
                    assert (need[image, region] <= effort) == (low < score < high)


def test_what_is_looked_at_stays_so_at_any_larger_effort_and_nothing_is_at_none():
    scores = np.linspace(0, 1, 101, dtype=np.float32)[None]
    need = needs(RULE, first_pass(scores, np.arange(101)[None]))
    assert (need > 0).all()
    assert (need <= 1).all()
    assert need[0, 40] < 1e-6
    assert np.isfinite(needs(RULE, first_pass(np.full((1, 3), np.nan, np.float32), np.zeros((1, 2), np.int64)))).all()


BOXES = {
    "first": (0, 0, 40, 40),
    "the first again": (0, 0, 40, 40),
    "beside it": (40, 0, 64, 40),
    "two thirds the first": (8, 0, 48, 40),  # IoU 1280 / 1920
    "the whole image": (0, 0, 64, 64),
}


def test_a_box_is_redundant_where_it_repeats_a_better_ranked_one_or_is_large():
    boxes = np.array([list(BOXES.values())], np.float32)

    def found(*limits: float | None) -> set[str]:
        return {name for name, late in zip(BOXES, redundant(boxes, *limits)[0], strict=True) if late}

    assert found(0.7, None) == {"the first again"}
    assert found(0.6, None) == {"the first again", "two thirds the first"}
    assert found(2 / 3, None) == found(0.7, None)  # above the limit, not at it
    assert found(None, 3000) == {"the whole image"}
    assert found(0.7, 1000) == {*BOXES} - {"beside it"}
    assert found(None, None) == set()


def test_redundant_regions_have_an_interval_of_their_own():
    rule = replace(RULE, max_overlap=0.7, redundant_low=(0.4, 0.4, 0.4, 0.2, 0.0), redundant_high=(0.4, 0.4, 0.4, 0.6, 1.0))
    scores = np.array([[0.45, 0.46]], np.float32)
    regions = np.array([[[0, 0, 9, 9], [0, 0, 9, 9]]], np.float32)
    need = needs(rule, {"global_scores": scores, "region_classes": np.array([[0, 1]]), "regions": regions})[0]
    assert need[0] == needs(RULE, first_pass(scores, np.array([[0, 1]])))[0, 0] < 0.25
    assert 0.5 < need[1] == 0.5 + 0.25 * (np.float64(np.float32(0.46)) - 0.4) / (0.6 - 0.4) < 0.75
    apart = regions + np.array([[[0], [20]]], np.float32)
    assert needs(rule, {"global_scores": scores, "region_classes": np.array([[0, 1]]), "regions": apart})[0, 1] < 0.25


@pytest.mark.parametrize("regions", [1, 3, 4, 5, 8])
def test_without_a_fitted_rule_the_best_ranked_are_looked_at(regions):
    need = needs(RuleSpec(), first_pass(np.zeros((2, 9), np.float32), np.zeros((2, regions), np.int64)))
    for effort in np.linspace(0, 1, 41):
        expected = np.arange(regions) < round(float(effort) * regions)
        np.testing.assert_array_equal(need <= effort, [expected, expected])


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("learned", (), ()),
        ("interval", (), ()),
        ("interval", (0.4, 0.5), (0.6, 1.0)),
        ("interval", (0.4, 0.0), (0.6, 0.5)),
        ("interval", (0.4, 0.0), (0.3, 1.0)),
        ("interval", (0.4, 0.0), (0.6, 1.5)),
        ("interval", (0.4, 0.0), (0.6, float("nan"))),
        ("interval", (0.4, 0.2, 0.0), (0.6, 1.0)),
        ("rank", (0.4, 0.0), (0.6, 1.0)),
    ],
)
def test_a_damaged_rule_is_refused(kind, low, high):
    with pytest.raises(EdgeError, match=r"second pass.*Rebuild the bundle"):
        RuleSpec(kind, low, high)


LATE = {"redundant_low": (0.4, 0.4, 0.4, 0.2, 0.0), "redundant_high": (0.4, 0.4, 0.4, 0.6, 1.0)}


@pytest.mark.parametrize(
    "late",
    [
        {"max_overlap": 0.7},
        {**LATE},
        {**LATE, "max_overlap": 1.5},
        {**LATE, "max_area": -1.0},
        {**LATE, "max_area": float("nan")},
        {**LATE, "max_area": 9.0, "redundant_low": (0.4, 0.5, 0.4, 0.2, 0.0)},
    ],
)
def test_damaged_limits_of_redundancy_are_refused(late):
    with pytest.raises(EdgeError, match=r"second pass.*Rebuild the bundle"):
        replace(RULE, **late)
    with pytest.raises(EdgeError, match=r"second pass.*Rebuild the bundle"):
        RuleSpec(max_overlap=0.5)


def test_a_rule_survives_the_manifest():
    for rule in (RULE, replace(RULE, max_overlap=0.5, **LATE), replace(RULE, max_area=900.0, **LATE)):
        spec = StagesSpec((1, 2, 4), rule, 0.3, (0.5, 0.25))
        assert from_plain(StagesSpec, json.loads(json.dumps(to_plain(spec)))) == spec
    assert set(to_plain(RULE)) == {"kind", "low", "high", "fitted_on"}  # as readers before know it
    for spec in (StagesSpec((1, 2)), StagesSpec((1, 2, 4), RULE, 0.3, (0.5, 0.25))):
        assert from_plain(StagesSpec, json.loads(json.dumps(to_plain(spec)))) == spec
    assert to_plain(StagesSpec((1,)))["rule"] == "rank"


@pytest.fixture
def bundle(small_bundle, tmp_path) -> Path:
    """With a rule around the scores that it gives, at effort 0.5."""
    folder = shutil.copytree(small_bundle("openvino"), tmp_path / "bundle")
    with Engine.load(folder) as engine:
        found = engine.infer(IMAGES, effort=1)
        scores = np.sort(np.take_along_axis(found["global_scores"], found["region_classes"], 1).ravel()).astype(float)
        middle = float(scores[6])
        low = [middle, (scores[3] + scores[4]) / 2, 0.0]
        high = [middle, (scores[7] + scores[8]) / 2, 1.0]
        thresholds = [0.25] * len(engine.labels)
    rule = {"kind": "interval", "low": low, "high": high, "fitted_on": {"backend": "openvino"}}
    change(folder, rule=rule, effort=0.5, thresholds=thresholds)
    return folder


def change(folder: Path, **stages) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"].update(stages)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_engine_looks_where_its_bundle_says_and_scores_the_maximum_of_that(bundle):
    with Engine.load(bundle) as engine, Engine.load(bundle, effort=1) as thorough:
        each = engine.infer_each(IMAGES)
        own, half, full = engine.infer(IMAGES), engine.infer(IMAGES, effort=0.5), thorough.infer(IMAGES)
        nothing = engine.infer(IMAGES, effort=0)
    looked = own["regions_looked"]
    assert looked.sum() == 4  # between the fourth and the ninth of twelve
    np.testing.assert_array_equal(looked, needs(Bundle.read(bundle).stages.rule, own) <= 0.5)
    np.testing.assert_array_equal(half["scores"], own["scores"])
    np.testing.assert_allclose(own["scores"], fused(each, looked), atol=1e-5)
    np.testing.assert_array_equal(own["scores"], np.maximum(own["global_scores"], own["local_scores"]))
    assert full["regions_looked"].all()
    np.testing.assert_allclose(full["scores"], each["scores"], atol=1e-5)
    np.testing.assert_array_equal(nothing["scores"], nothing["global_scores"])
    assert not nothing["local_scores"].any()
    assert not nothing["regions_looked"].any()
    assert nothing["regions"].shape == (3, 4, 4)


def test_outputs_say_what_was_looked_at_where_it_was_asked_for(bundle, small_bundle):
    with (
        Engine.load(small_bundle("openvino")) as plain,
        Engine.load(small_bundle("openvino"), effort=1) as asked,
        Engine.load(bundle) as half,
    ):
        assert "regions_looked" not in plain.infer(IMAGES)
        for found in (
            plain.infer(IMAGES, effort=1),
            plain.infer(IMAGES, budget_ms=60_000),
            asked.infer(IMAGES),
            half.infer(IMAGES, effort=1),
        ):
            assert found["regions_looked"].all()
            assert (found["regions_looked"].shape, found["regions_looked"].dtype) == ((3, 4), bool)
        assert "regions_looked" in half.infer(IMAGES)


def test_where_nothing_is_looked_at_the_second_stage_does_not_run(bundle):
    with Engine.load(bundle) as engine:
        engine.runners["closer"].close()  # it would fail
        engine.infer(IMAGES, effort=0)


@pytest.mark.parametrize(
    ("sizes", "count", "chunks"),
    [((1, 2, 4), 3, [2, 1]), ((1, 2, 4), 7, [4, 2, 1]), ((1, 2, 4, 6), 5, [6]), ((2, 5), 4, [5]), ((4,), 1, [4]), ((3,), 4, [3, 3]),
     ((1, 8), 7, [8]), ((1, 8), 3, [1, 1, 1])],
)  # fmt: skip
def test_regions_are_padded_only_where_that_adds_little(sizes, count, chunks):
    assert chunk_size(sizes, count, pads=True) == next((size for size in sizes if size >= count), sizes[-1])
    found = []
    while count > 0:
        found.append(chunk_size(sizes, count, pads=False))
        count -= found[-1]
    assert found == chunks


def test_a_prediction_says_what_was_looked_at_and_takes_the_thresholds_of_the_effort(bundle):
    photos = [np.random.default_rng(5).integers(0, 256, (90, 120, 3), np.uint8)] * 4
    with Engine.load(bundle) as engine:
        full, little = engine.predict(photos[:1], effort=1)[0], engine.predict(photos, effort=0)[0]
        assert [region.looked for region in full.regions] == [True] * 4
        assert [region.looked for region in little.regions] == [False] * 4
        for prediction, limit in ((full, 0.5), (little, 0.25)):
            assert {name for name, _ in prediction.labels} == {engine.labels[c] for c in np.flatnonzero(prediction.scores >= limit)}


@pytest.mark.parametrize("effort", [-0.1, 1.5, float("nan"), "half", True])
def test_an_effort_out_of_range_is_one_clear_line(bundle, effort):
    with Engine.load(bundle) as engine, pytest.raises(EdgeError, match=r"\[infer\] `effort` is .*Use a value from 0"):
        engine.infer(IMAGES, effort=effort)
    with pytest.raises(EdgeError, match=r"\[load\] `effort` is .*Use a value from 0"):
        Engine.load(bundle, effort=effort)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "5"])
def test_a_budget_that_is_none_is_one_clear_line(bundle, budget):
    with Engine.load(bundle) as engine, pytest.raises(EdgeError, match=r"`budget_ms` is .*Use a positive number of milliseconds"):
        engine.infer(IMAGES, budget_ms=budget)


class Slow:
    """A second stage that takes 20 ms a region."""

    def __init__(self, runner):
        self.runner, self.calls, self.pads = runner, [], runner.pads

    def run(self, inputs):
        time.sleep(0.02 * len(inputs["owner"]))
        self.calls.append(len(inputs["owner"]))
        return self.runner.run(inputs)

    def close(self):
        self.runner.close()


def test_a_budget_stops_the_second_pass_where_its_next_chunk_would_not_fit(bundle):
    with Engine.load(bundle) as engine:
        stages = engine._stages
        slow = stages.runners["closer"] = Slow(stages.runners["closer"])
        full = engine.infer(IMAGES, effort=1)
        engine.infer(IMAGES, budget_ms=0.01)  # times the sizes
        need = needs(engine.bundle.stages.rule, full)
        for budget, least, most in ((0.01, 0, 0), (150, 1, 7), (2000, 12, 12)):
            slow.calls.clear()
            start = time.perf_counter()
            found = engine.infer(IMAGES, effort=1, budget_ms=budget)
            seconds = time.perf_counter() - start
            looked = found["regions_looked"]
            assert least <= looked.sum() <= most
            assert sum(slow.calls) == looked.sum()
            assert most == 12 or seconds < budget / 1e3 + 0.2  # a busy machine
            if 0 < looked.sum() < 12:
                assert need[looked].max() <= need[~looked].min()  # the most rewarding first
            np.testing.assert_allclose(found["scores"], fused(engine.infer_each(IMAGES), looked), atol=1e-5)
        assert engine.infer(IMAGES, effort=0.5, budget_ms=2000)["regions_looked"].sum() == 4  # the stricter wins


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ({"rule": {"kind": "interval", "low": [0.5, 0.6], "high": [0.7, 1.0]}}, "damaged"),
        ({"rule": {"kind": "interval", "low": [0.5, "0"], "high": [0.7, 1.0]}}, "stages.rule"),
        ({"rule": {"kind": "interval", "low": [0.5, 0], "high": [0.7, 1.0], "tree": []}}, "tree"),
        ({"rule": {"kind": "interval", "low": [0.5, 0], "high": [0.7, 1.0], "max_overlap": 0.5}}, "damaged"),
        ({"rule": {"kind": "interval", "low": [0.5, 0], "high": [0.7, 1.0], "max_area": "9"}}, "stages.rule"),
        ({"rule": {"low": [0.5, 0], "high": [0.7, 1.0]}}, "stages.rule"),
        ({"rule": "learned"}, "learned"),
        ({"rule": 3}, "stages.rule"),
        ({"effort": 1.5}, "stages.effort"),
        ({"effort": "auto"}, "stages.effort"),
        ({"thresholds": [0.5]}, "stages.thresholds"),
        ({"policy": "rank"}, "policy"),
    ],
)
def test_a_bundle_whose_rule_is_damaged_is_refused_in_one_line(bundle, stages, says):
    change(bundle, **stages)
    with pytest.raises(EdgeError, match=says) as refused:
        Engine.load(bundle)
    assert "\n" not in str(refused.value)


def test_an_engine_of_one_stage_takes_no_effort_but_1(bundle):
    """The model as one graph, as schema 1 holds it."""
    from edge import lower
    from edge.backends.openvino import OpenVINO

    old = Bundle.read(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    whole = lower.lower_stages(old.graph().parse(), old.target, row="openvino", in_stages=False)
    for name in [name for name in manifest["files"] if name.startswith("engine.")]:
        (bundle / name).unlink()
        del manifest["files"][name]
    manifest["engine"] = OpenVINO().build(whole, old.target, None, bundle)
    for path in bundle.glob("engine.*"):
        manifest["files"][path.name] = {"sha256": digest_file(path), "bytes": path.stat().st_size}
    manifest["stages"] = None
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with Engine.load(bundle, effort=1) as engine:
        assert "regions_looked" not in engine.infer(IMAGES, effort=1)
        with pytest.raises(EdgeError, match=r"`effort` is 0.5, but this engine has no second stage"):
            engine.infer(IMAGES, effort=0.5)
        with pytest.raises(EdgeError, match=r"`budget_ms` is 5, but this engine has no second stage"):
            engine.infer(IMAGES, budget_ms=5)
        assert all(region.looked for region in engine.predict([np.zeros((64, 64, 3), np.uint8)])[0].regions)
    with pytest.raises(EdgeError, match="no second stage"):
        Engine.load(bundle, effort=0.5)
