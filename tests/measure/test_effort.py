"""Latency at several efforts, interleaved over images, and what each effort is worth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge.measure.accuracy import average_precision
from edge.measure.effort import efforts_of, judge_effort, time_efforts
from edge.spec import RuleSpec

RULE = RuleSpec("interval", (0.5, 0.25, 0.0), (0.5, 0.75, 1.0), {"backend": "openvino"})


class Engine:
    """Takes a second an image, and four more times the effort; every call after a pause takes one
    more."""

    def __init__(self):
        self.now, self.calls, self.asleep = 0.0, [], False

    def infer(self, batch, effort):
        self.now += len(batch) * (1 + 4 * effort) + (1 if self.asleep else 0)
        self.asleep = False
        self.calls.append((int(batch[0]), effort))

    def batches(self, count, size=2):
        for number in range(count):
            self.asleep = True
            yield np.full(size, number)


def test_every_batch_is_timed_at_every_effort_a_block_at_a_time_in_turning_order():
    engine = Engine()
    seconds, images = time_efforts(engine.infer, engine.batches(20), (0.0, 0.5, 1.0), limit_s=1e9, clock=lambda: engine.now)
    assert images == 40
    for effort, taken in seconds.items():
        assert taken.tolist() == [2 * (1 + 4 * effort)] * 20  # the call after a pause is not among them
    runs = [(effort, [batch for batch, _ in group]) for effort, group in itertools.groupby(engine.calls[3:], key=lambda call: call[1])]
    blocks = [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    for number, block in enumerate(blocks):
        mine = runs[3 * number : 3 * number + 3]
        assert [effort for effort, _ in mine] == [(0.0, 0.5, 1.0)[(number + turn) % 3] for turn in range(3)]
        assert all(batches == [block[0], *block] for _, batches in mine)


def test_no_batch_begins_after_the_limit():
    engine = Engine()
    _, images = time_efforts(engine.infer, engine.batches(100), (0.0, 1.0), limit_s=60, clock=lambda: engine.now)
    assert 2 < images < 40


def test_a_curve_has_nine_points_at_most_with_0_the_chosen_one_and_1():
    for chosen in (0.0, 0.27, 0.3, 1.0):
        efforts = efforts_of(chosen)
        assert list(efforts) == sorted(set(efforts))
        assert {0.0, chosen, 1.0} <= set(efforts)
        assert len(efforts) <= 9


def test_what_an_effort_is_worth_is_that_of_the_regions_it_looks_at():
    rng = np.random.default_rng(0)
    scores = rng.random((60, 5)).astype(np.float32)
    classes = np.argsort(-scores, axis=1)[:, :3]
    outputs = {
        "global_scores": scores,
        "region_classes": classes,
        "regions": np.zeros((60, 3, 4), np.float32),
        "region_scores": rng.random((60, 3, 5)).astype(np.float32),
    }
    labels = np.where(rng.random((60, 5)) < 0.4, 1, -1)
    seconds = {0.0: np.full(10, 0.1), 0.5: np.linspace(0.1, 0.3, 10), 1.0: np.full(10, 0.4)}
    found = judge_effort(0.5, RULE, outputs, labels, seconds, images=20, batch=2)

    def worth(looked):
        kept = [np.max([scores[i], *outputs["region_scores"][i][looked[i]]], axis=0) for i in range(60)]
        return 100 * average_precision(np.array(kept), labels).mean()

    at = np.take_along_axis(scores, classes, 1)
    looked = (at >= 0.25) & (at <= 0.75)
    assert found.mean_looks == pytest.approx(looked.sum(1).mean())
    assert found.map == pytest.approx(worth(looked))
    assert [point.map for point in found.curve] == pytest.approx([worth(looked & False), worth(looked), worth(looked | True)])
    assert found.map_drop == pytest.approx(worth(looked | True) - worth(looked))
    assert found.map_drop_interval[0] < found.map_drop < found.map_drop_interval[1]
    assert (found.mean_ratio, found.point.max_ms) == (pytest.approx(0.5), pytest.approx(300))
    assert judge_effort(0.5, RULE, outputs, None, seconds, images=20, batch=2).map_drop is None
