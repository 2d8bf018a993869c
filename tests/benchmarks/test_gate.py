"""What the gate's promise is held against."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks.gate import DRAWS, divided, ungated


def test_images_either_decide_or_judge():
    decide, rest = divided(3, 50, 20)
    assert len(decide) == 20
    assert sorted([*decide, *rest]) == list(range(50))
    assert not np.array_equal(decide, divided(4, 50, 20)[0])


def test_splits_that_meet_the_limit_at_once_may_break_it_elsewhere():
    random = np.random.default_rng(0)
    scores = random.uniform(size=(60, 2))
    labels = np.where(scores > 0.5, 1, -1).astype(np.int8)
    reference = {"scores": scores}
    assert ungated(reference, reference, labels, 30, 0.0) == (DRAWS, DRAWS)
    flawed = scores.copy()
    flawed[:3, 0] = 1 - flawed[:3, 0]  # wherever these images fall, the drop is
    met, kept = ungated({"scores": flawed}, reference, labels, 30, 0.5)
    assert 0 < met < DRAWS
    assert kept < met
