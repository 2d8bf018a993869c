"""Where the time of a batch goes."""

from __future__ import annotations

import pytest

from edge.measure.stages import of_engine, of_images


def test_stages_are_medians_and_sum_to_the_latency():
    told = iter([{"look": 0.004, "closer": 0.010}, {"look": 0.005, "closer": 0.011}, {"look": 0.090, "closer": 0.012}])
    assert of_engine(lambda: next(told), 16.5, runs=3) == pytest.approx({"look": 5, "closer": 11, "other": 0.5})


def test_an_engine_of_one_stage_slower_than_the_latency_leaves_no_negative_rest():
    assert of_engine(lambda: {"": 0.020}, 16, runs=2) == pytest.approx({"engine": 20})


def test_decode_and_preprocess_are_given_per_batch():
    now = [0.0]

    def spend(seconds):
        now[0] += seconds

    stages = of_images(lambda index: spend(0.001 * (index + 1)), lambda image: spend(0.002), range(3), 8, clock=lambda: now[0])
    assert stages == pytest.approx({"decode": 16, "preprocess": 16})
    assert of_images(lambda index: None, lambda image: None, (), 8) == {}
