"""What outputs on the images that decide are worth: a rule is not judged on the images that it was
fitted on, and how sure a difference is."""

from __future__ import annotations

import numpy as np
import pytest

from edge.spec import RuleSpec
from edge.tuning.worth import mean_ap, scores_at, worth

SIZE = 64
RULE = RuleSpec("interval", (0.5, 0.0), (0.5, 1.0), {})


def noise(count: int, seed: int):
    """Outputs of an engine of four regions and five classes that knows nothing, and labels."""
    draw = np.random.default_rng(seed)
    scores = draw.random((count, 5), np.float32)
    each = draw.random((count, 4, 5), np.float32)
    classes = np.argsort(-scores, axis=1)[:, :4]
    labels = np.where(draw.random((count, 5)) < 0.3, 1, -1).astype(np.int8)
    boxes = np.sort(draw.integers(0, SIZE, (count, 4, 2, 2)), axis=2).reshape(count, 4, 4).astype(np.float32)
    first = {"global_scores": scores, "regions": boxes, "region_classes": classes}
    outputs = {**first, "region_scores": each, "scores": np.maximum(scores, each.max(1))}
    return outputs, labels


def test_efforts_are_judged_on_images_that_the_rule_has_not_seen():
    """Of noise, a rule seems to make something on the images it was fitted on."""
    from calib.effort import JUDGED, fit_rule

    seen, unseen = [], []
    for seed in range(8):
        outputs, labels = noise(60, seed)
        rule = fit_rule(outputs, labels, SIZE)
        found = {one.effort: one.map for one in worth(outputs, labels, outputs["scores"], rule, SIZE)}
        for effort in set(JUDGED) & set(found):
            seen.append(mean_ap(scores_at(outputs, rule, effort), labels))
            unseen.append(found[effort])
    assert np.mean(unseen) < np.mean(seen) - 0.2


def test_the_standard_error_is_that_of_the_difference_and_falls_with_the_images():
    (outputs, labels), (few, theirs) = noise(400, 0), noise(50, 0)
    errors = {one.effort: one.error for one in worth(outputs, labels, outputs["scores"], RULE, SIZE)}
    assert errors[1.0] == 0  # the reference itself
    assert errors[0.0] > 0.3
    assert worth(few, theirs, few["scores"], RULE, SIZE)[0].error > 1.5 * errors[0.0]


def test_an_engine_of_one_stage_has_one_effort():
    outputs, labels = noise(50, 1)
    (only,) = worth({"scores": outputs["scores"]}, labels, outputs["global_scores"], None, SIZE)
    assert (only.effort, only.looks, only.map) == (1.0, None, pytest.approx(mean_ap(outputs["scores"], labels)))
