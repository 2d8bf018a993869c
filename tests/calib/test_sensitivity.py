"""Ranking and gate on a made-up network whose every cost is known."""

from __future__ import annotations

import numpy as np
import pytest

from calib.sensitivity import Judgement, Unit, hold, judged, rank
from edge.errors import GateError

COSTS = {"global/a": 0.1, "global/b": 1.0, "local/a": 0.3, "local/b": 0.05}
UNITS = tuple(Unit(name, (f"{name}/conv1", f"{name}/conv2"), 0.25) for name in COSTS)


class Network:
    """Loses the sum of the costs of the units that are rounded."""

    def __init__(self, rest=0.0):
        self.calls, self.rest = 0, rest

    def __call__(self, nodes):
        self.calls += 1
        drop = self.rest + sum(cost for name, cost in COSTS.items() if f"{name}/conv1" not in nodes)
        return Judgement(drop, drop / 100, 1 - drop / 10, 1 - drop / 5)


def test_rows_come_worst_unit_first_with_what_it_gives_back():
    rounded, rows = rank(UNITS, Network())
    assert rounded.map_drop == pytest.approx(1.45)
    assert [row.unit for row in rows] == ["global/b", "local/a", "global/a", "local/b"]
    assert [row.map_gain for row in rows] == pytest.approx([1.0, 0.3, 0.1, 0.05])
    assert rows[0].iou_gain == pytest.approx(0.2)


def test_cost_counts_in_the_order():
    dear = tuple(Unit(unit.name, unit.nodes, 0.9 if unit.name == "global/b" else 0.03) for unit in UNITS)
    _, rows = rank(dear, Network())
    assert rows[0].unit == "local/a"


@pytest.mark.parametrize(
    ("gate", "expected"),
    [(2.0, ()), (1.46, ()), (0.5, ("global/b",)), (0.44, ("global/b", "local/a")), (0.14, ("global/b", "local/a", "global/a"))],
)
def test_the_gate_is_held_with_as_few_units_as_it_takes(gate, expected):
    network = Network()
    rounded, rows = rank(UNITS, network)
    held = hold(gate, UNITS, rounded, rows, network)
    assert held.units == expected
    assert held.judgement.map_drop <= gate
    assert held.nodes == tuple(node for name in expected for node in (f"{name}/conv1", f"{name}/conv2"))


def test_a_unit_that_turns_out_unneeded_is_rounded_again():
    network = Network()
    rounded, rows = rank(UNITS, network)
    shuffled = [rows[2], *rows[:2], rows[3]]  # a poor order: global/a first
    assert hold(0.5, UNITS, rounded, shuffled, network).units == ("global/b",)


def test_a_gate_out_of_reach_says_how_near_it_came():
    network = Network(rest=0.7)
    rounded, rows = rank(UNITS, network)
    with pytest.raises(GateError, match=r"0\.75 at best") as caught:
        hold(0.5, UNITS, rounded, rows, network)
    assert caught.value.exit_code == 3


def test_the_search_is_short():
    many = tuple(Unit(f"global/{index}", (f"n{index}",), 1 / 64) for index in range(64))
    calls = 0

    def judge(nodes):
        nonlocal calls
        calls += 1
        return Judgement(64 - len(nodes), (64 - len(nodes)) / 64, 1.0, 1.0)

    rounded, rows = rank(many, judge)
    calls = 0
    assert len(hold(61, many, rounded, rows, judge).units) == 3
    assert calls < 12


def test_outputs_are_judged_against_labels_and_reference():
    labels = np.array([[1, -1], [-1, 1], [1, -1]], np.int8)
    reference = {"scores": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32)}
    worse = {"scores": np.array([[0.9, 0.1], [0.8, 0.8], [0.7, 0.3]], np.float32)}
    assert judged(reference, reference, labels) == Judgement(0.0, 0.0, 1.0, 1.0)
    found = judged(worse, reference, labels)
    assert found.map_drop == pytest.approx(100 * (1 - 5 / 6) / 2)
    assert found.score_error == pytest.approx(0.1)
    assert judged(worse, reference, None).map_drop is None
