"""The gate on a network whose every part costs a known amount."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from calib.sensitivity import hold_gate, judge, units
from edge.errors import GateError
from edge.graph import Graph

N = 400
LABELS = np.where(np.arange(N) % 2 == 0, 1, -1).astype(np.int8).reshape(-1, 1)
EXACT = {"scores": np.where(LABELS > 0, 0.8, 0.2).astype(np.float32)}
PARTS = {f"global/stage{i}": (f"global/stage{i}/conv",) for i in range(8)}
COSTS = {"global/stage2/conv": 30, "global/stage5/conv": 10, "global/stage6/conv": 1}  # negatives that get the best scores


class Costly:
    """Stands for a graph: the nodes in int8 each put some negatives first; records what was asked
    for."""

    def __init__(self, extra: int = 0) -> None:
        self.asked: list[frozenset[str]] = []
        self.extra = extra

    def quantise(self, float_nodes: Collection[str]) -> Any:
        self.asked.append(frozenset(float_nodes))
        return frozenset(float_nodes)

    def run(self, graph: Any) -> dict[str, np.ndarray]:
        return wrong(sum(cost for node, cost in COSTS.items() if node not in graph) + self.extra)


def wrong(count: int) -> dict[str, np.ndarray]:
    scores = EXACT["scores"].copy()
    scores[np.flatnonzero(LABELS < 0)[:count]] = 0.9
    return {"scores": scores}


def drop(count: int) -> float:
    return judge(wrong(count), EXACT, LABELS).map_drop


def test_where_int8_holds_nothing_is_returned_and_nothing_tried() -> None:
    network = Costly()
    found = hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=drop(41) + 0.01)
    assert found.returned == found.nodes == found.ranking == ()
    assert network.asked == [frozenset()]


def test_the_worst_unit_is_returned_and_no_other() -> None:
    network = Costly()
    found = hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=drop(11) + 0.01)
    assert found.returned == ("global/stage2",)
    assert found.nodes == ("global/stage2/conv",)
    assert found.graph == frozenset(found.nodes)
    assert found.judgement.map_drop == pytest.approx(drop(11))
    assert [gain.unit for gain in found.ranking[:3]] == ["global/stage2", "global/stage5", "global/stage6"]
    assert found.plain()["map_drop_all_int8"] == pytest.approx(drop(41))


def test_units_that_turn_out_not_to_be_needed_go_back_to_int8() -> None:
    class Coupled(Costly):
        """Either of two units in float cures both, so that both rank high and one of them is
        enough."""

        def run(self, graph: Any) -> dict[str, np.ndarray]:
            self.extra = 0 if {"global/stage3/conv", "global/stage4/conv"} & graph else 20
            return super().run(graph)

    network = Coupled()
    found = hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=drop(1) + 0.01)
    assert [gain.unit for gain in found.ranking[:4]] == ["global/stage2", "global/stage3", "global/stage4", "global/stage5"]
    assert found.returned == ("global/stage2", "global/stage3", "global/stage5")


def test_a_unit_ranks_by_the_error_of_the_scores_not_by_the_order_of_few_images() -> None:
    class Shifting(Costly):
        """Stage 0 spoils one order by chance; stage 1 shifts every score and leaves their order."""

        def run(self, graph: Any) -> dict[str, np.ndarray]:
            scores = wrong(0 if "global/stage0/conv" in graph else 3)["scores"]
            return {"scores": scores - (0.0 if "global/stage1/conv" in graph else 0.1)}

    network = Shifting()
    found = hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=0.0)
    assert [gain.unit for gain in found.ranking[:2]] == ["global/stage1", "global/stage0"]
    assert found.ranking[0].map_points == 0.0
    assert found.returned == ("global/stage0",), "what the mAP does not ask for goes back to int8"


def test_every_costly_unit_is_returned_where_nothing_may_be_lost() -> None:
    network = Costly()
    found = hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=0.0)
    assert set(found.returned) == {"global/stage2", "global/stage5", "global/stage6"}


def test_no_set_of_units_is_built_twice_where_all_are_needed() -> None:
    """Five units are no power of two: the search is cut off at all of them, of which four were not
    enough."""
    parts = dict(list(PARTS.items())[:5])

    class Dear(Costly):
        def run(self, graph: Any) -> dict[str, np.ndarray]:
            return wrong(5 - len(graph))

    network = Dear()
    found = hold_gate(network.quantise, parts, network.run, EXACT, LABELS, max_map_drop=0.0)
    assert set(found.returned) == set(parts)
    searched = network.asked[1 + len(parts) :]  # behind the int8 graph and the ranking
    assert [len(each) for each in searched] == [1, 2, 4, 5, 4, 4, 4, 4]
    assert len(set(searched)) == len(searched)


def test_a_gate_that_cannot_be_met_says_how_near_it_came() -> None:
    network = Costly(extra=2)
    with pytest.raises(GateError, match=rf"{drop(2):.2f} with the most sensitive layers in float") as refusal:
        hold_gate(network.quantise, PARTS, network.run, EXACT, LABELS, max_map_drop=0.0)
    assert refusal.value.exit_code == 3


def test_units_are_streams_by_stages(graph: Graph) -> None:
    found = units(graph)
    assert found["local/block"] == ("local/block/add",)
    assert found["global/stem"] == ("global/stem",)
    assert [name for name in found if "classifier" in name] == []
    assert len(found) == 12
