"""Accuracy and drift as the JSON holds them."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from edge.measure import quality


def dataset(labels, classes=("cat", "dog")):
    return SimpleNamespace(name="toy", split="test", labels=None if labels is None else np.asarray(labels, np.int8), classes=classes)


LABELS = [[1, -1], [1, -1], [-1, 1], [-1, 1], [1, 1]]
PERFECT = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.7, 0.7]], np.float32)
ROTTEN = np.array([[0.9, 0.9], [0.1, 0.2], [0.8, 0.8], [0.2, 0.1], [0.7, 0.7]], np.float32)


def test_drop_is_reference_minus_engine_and_the_worst_are_named():
    facts = quality.accuracy({"scores": ROTTEN}, {"scores": PERFECT}, dataset(LABELS), 0.6)
    assert facts.map_reference == pytest.approx(100)
    assert facts.map_drop == pytest.approx(facts.map_reference - facts.map)
    assert facts.map_drop > 5
    assert facts.worst[0][1] == pytest.approx(max(one.drop for one in facts.per_class.values()))
    low, high = facts.map_drop_interval
    assert low <= facts.map_drop <= high
    json.dumps(asdict(facts), allow_nan=False)


def test_without_a_reference_the_drop_is_unknown():
    facts = quality.accuracy({"scores": PERFECT}, None, dataset(LABELS), 0.6)
    assert facts.map == pytest.approx(100)
    assert facts.map_drop is facts.map_reference is facts.map_drop_interval is None
    assert facts.per_class["cat"] == quality.ClassAp(pytest.approx(100), None, None)


def test_unlabelled_images_have_no_accuracy():
    assert quality.accuracy({"scores": PERFECT}, None, dataset(None), 0.6) is None
