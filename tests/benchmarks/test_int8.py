"""The table of ways to int8."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks import int8


def test_a_row_says_what_was_lost_against_the_reference():
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, 3)) * 3
    labels = np.where(logits > 1, 1, -1).astype(np.int8)
    boxes, classes = np.tile([0.0, 0.0, 8.0, 8.0], (40, 2, 1)), np.tile([0, 1], (40, 1))

    def outputs(shift: float) -> dict[str, np.ndarray]:
        scores = 1 / (1 + np.exp(-(logits + shift)))
        return {"scores": scores, "global_scores": scores, "regions": boxes, "region_classes": classes}

    images = type("Images", (), {"labels": labels, "__len__": lambda self: 40})()
    reference = outputs(0)
    same, moved = (int8.judged("default", "test", images, outputs(shift), reference) for shift in (0, 0.3))
    assert (same.logit_error, same.quality["map_drop"], same.quality["class_agreement"]) == (0, 0, 1)
    assert moved.logit_error == pytest.approx(0.3, abs=1e-6)
    assert moved.quality["map"] == 100  # one shift for all keeps their order
    wrong = {**outputs(0), "scores": -reference["scores"], "region_classes": classes + 1}
    lost = int8.judged("none", "test", images, wrong, reference)
    assert lost.quality["map_drop"] > 20
    assert lost.quality["class_agreement"] == 0.5
    assert int8.cells(lost)[0] == "none"
