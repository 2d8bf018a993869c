"""The rule of the second pass and the effort that keeps mAP, on outputs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from calib.effort import fit_effort, fit_rule
from edge.effort import fused, looked_at
from edge.errors import EdgeError
from edge.measure.accuracy import average_precision
from edge.spec import RuleSpec

CLASSES, REGIONS, SIZE = 6, 3, 64


def outputs_of(images: int, seed: int, helps: bool = True):
    """A first pass that is sure of some classes and guesses at others; a second that knows those,
    and errs on the sure ones.

    Where it does not help, it only adds noise.
    """
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((images, CLASSES)) < 0.3, 1, -1).astype(np.int8)
    unsure = rng.random(labels.shape) < 0.3
    sure = np.where(labels > 0, 0.98, 0.01)
    scores = np.clip(np.where(unsure, 0.4, sure) + rng.normal(0, 0.01, labels.shape), 0.001, 0.999).astype(np.float32)
    ranked = np.argsort(-scores, axis=1)[:, :REGIONS]
    regions = np.zeros((images, REGIONS, CLASSES), np.float32)
    for region in range(REGIONS):
        c = ranked[:, region]
        rows = np.arange(images)
        right = (labels[rows, c] > 0) if helps else rng.random(images) < 0.5
        regions[rows, region, c] = np.where(right, 0.9, 0.02)
        wrong = (~unsure[rows, c]) & (rng.random(images) < 0.05)  # a false alarm, somewhere
        regions[rows[wrong], region, rng.integers(0, CLASSES, wrong.sum())] = 0.95
    boxes = np.zeros((images, REGIONS, 4), np.float32)  # apart, and alike in size
    boxes[..., 0], boxes[..., 2], boxes[..., 3] = 20 * np.arange(REGIONS), 20 * np.arange(REGIONS) + 10, 10
    return {"global_scores": scores, "regions": boxes, "region_classes": ranked.astype(np.int64), "region_scores": regions}, labels


def points(scores, labels) -> float:
    return 100 * float(average_precision(scores, labels).mean())


def test_the_rule_looks_where_the_first_pass_is_unsure():
    outputs, labels = outputs_of(400, 0)
    rule = fit_rule(outputs, labels, SIZE, {"backend": "none"})
    at = np.take_along_axis(outputs["global_scores"], outputs["region_classes"], 1)
    looked = looked_at(rule, outputs, 0.3)
    assert abs(looked.mean() - 0.3) < 0.05  # the share is the effort, where it was fitted
    assert abs(at[looked] - 0.4).max() < abs(at[~looked] - 0.4).max()
    assert (abs(at[looked] - 0.4) < 0.1).mean() > 0.95
    assert (rule.low[-1], rule.high[-1]) == (0, 1)
    assert rule.fitted_on == {"backend": "none"}


def test_redundant_regions_come_last():
    outputs, labels = outputs_of(400, 0)
    outputs["regions"][:, 1] = outputs["regions"][:, 0]
    outputs["regions"][:100, 2] = (0, 0, SIZE, SIZE)
    late = np.zeros((400, REGIONS), bool)
    late[:, 1] = late[:100, 2] = True
    rule = fit_rule(outputs, labels, SIZE, redundancy=[True])
    for effort in (0.2, 0.4, 0.6, 0.8):
        looked = looked_at(rule, outputs, effort)
        assert abs(looked.mean() - effort) < 0.05
        assert looked[late].mean() == pytest.approx(max(0, (effort - (~late).mean()) / late.mean()), abs=0.1)
    alike = fit_rule(outputs, labels, SIZE, redundancy=[False])
    assert looked_at(alike, outputs, 0.4)[late].mean() > 0.3


def test_looks_are_nested_and_their_share_follows_the_effort_on_other_images():
    outputs, labels = outputs_of(600, 1)
    rule = fit_rule(*outputs_of(600, 2), SIZE)
    before = np.zeros(outputs["region_classes"].shape, bool)
    for effort in np.linspace(0, 1, 21):
        looked = looked_at(rule, outputs, float(effort))
        assert (looked | ~before).all()
        assert abs(looked.mean() - effort) < 0.08
        before = looked
    assert before.all()
    del labels


def test_auto_is_the_cheapest_effort_within_the_drop_and_holds_on_other_images():
    found = fit_effort(*outputs_of(400, 3), SIZE, max_drop=0.1)
    assert 0 < found.effort < 0.8
    assert found.drop <= 0.1
    assert all(step.drop > 0.1 for step in found.steps if step.effort < found.effort)
    assert found.interval[0] <= found.drop <= found.interval[1]
    outputs, labels = outputs_of(400, 4)
    looked = looked_at(found.rule, outputs, found.effort)
    assert looked.sum(1).mean() == pytest.approx(found.looks, abs=0.15)
    drop = points(fused(outputs, np.ones_like(looked)), labels) - points(fused(outputs, looked), labels)
    assert drop == pytest.approx(found.drop, abs=1.0)
    strict = fit_effort(*outputs_of(400, 3), SIZE, max_drop=0.0)
    assert strict.effort >= found.effort


def test_where_looking_closer_brings_nothing_nothing_is_looked_at():
    assert fit_effort(*outputs_of(400, 5, helps=False), SIZE).effort == 0


def test_no_image_is_judged_by_a_rule_that_was_fitted_on_it(monkeypatch):
    from calib import effort

    outputs, labels = outputs_of(100, 6)
    outputs["global_scores"][:, 0] = np.arange(100) / 200  # each image is known by it
    judged = []

    def fitted(given, labels, size, fitted_on=None):
        return RuleSpec("interval", (0.5, 0.0), (0.5, 1.0), {"seen": set(given["global_scores"][:, 0].tolist())})

    def watched(rule, given, at):
        judged.append((rule.fitted_on["seen"], set(given["global_scores"][:, 0].tolist())))
        return looked_at(rule, given, at)

    monkeypatch.setattr(effort, "fit_rule", fitted)
    monkeypatch.setattr(effort, "looked_at", watched)
    fit_effort(outputs, labels, SIZE, effort=0.5)
    *crossed, last = judged
    assert set.union(*(on for _, on in crossed)) == last[0]  # every image is judged
    assert all(len(seen) == 80 and not seen & on for seen, on in crossed)


def test_a_given_effort_is_kept_and_judged():
    found = fit_effort(*outputs_of(300, 7), SIZE, effort=0.37)
    assert found.effort == 0.37
    assert found.looks == pytest.approx(0.37 * REGIONS, abs=0.15)
    assert len(found.thresholds) == len(found.full_thresholds) == CLASSES


def test_fewer_images_than_folds_are_refused():
    with pytest.raises(EdgeError, match=r"4 images are too few to choose an effort. Use 300"):
        fit_effort(*outputs_of(4, 8), SIZE)
