"""The search against brute force on worlds whose every engine is known, and what it does not
build."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from edge.errors import EdgeError
from edge.tuning.budget import parse
from edge.tuning.search import BETTER, SAME, WORSE, Space, search
from edge.tuning.trial import Candidate, Choice, Point, Trial, choices, misses

EFFORTS = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISE = 0.02  # of latencies: below it, no comparison tells
SPACE = Space(("openvino", "onnxruntime"), ("int8", "fp16", "fp32"), (256, 192, 128, 320), (4, 2), Candidate("openvino", "fp32", 256, 4))


@dataclass
class World:
    """Engines that cost and lose as engines do, with seeded differences; it counts what is
    built."""

    seed: int = 0
    broken: frozenset[str] = frozenset()
    kept: tuple[Candidate, ...] = ()
    built: list[Candidate] = field(default_factory=list)

    def has(self, candidate: Candidate) -> bool:
        return candidate in self.kept

    def trial(self, candidate: Candidate) -> Trial:
        if candidate.precision in self.broken:
            raise EdgeError("build", f"There is no {candidate.precision} here", "Give another")
        self.built.append(candidate)
        return self.known(candidate)

    def known(self, candidate: Candidate) -> Trial:
        draw = random.Random(f"{self.seed} {candidate.backend} {candidate.precision}")
        mb = {"int8": 3.0, "fp16": 6.0, "fp32": 12.0}[candidate.precision] * draw.uniform(0.95, 1.05)
        pace = {"int8": 4.0, "fp16": 8.0, "fp32": 16.0}[candidate.precision] * draw.uniform(0.5, 1.8)
        area = (candidate.size / 256) ** 2
        points = []
        for effort in EFFORTS:
            mean = pace * area * (1 + effort * (candidate.regions or 0) / 4)
            loss = self.loss(candidate) + self._rounding(candidate) + (1 - effort) ** 2 * (3 if candidate.regions == 4 else 2)
            points.append(Point(effort, effort * 4, 90 - loss, loss, mean, mean, 1.1 * mean, 1.3 * mean, 1e3 / mean))
        return Trial(candidate, mb, None, tuple(points), 100, 60.0)

    def loss(self, candidate: Candidate) -> float:
        return max(0, 256 - candidate.size) / 64 * 1.5 - max(0, candidate.size - 256) / 64 * 0.5 + (0 if candidate.regions == 4 else 0.4)

    def _rounding(self, candidate: Candidate) -> float:
        loss = {"int8": 0.6, "fp16": 0.02, "fp32": 0.0}[candidate.precision]
        return loss if candidate.max_map_drop is None else min(loss, candidate.max_map_drop)

    def time_longer(self, choice: Choice) -> bool:
        return False

    def judge_longer(self, candidate: Candidate) -> bool:
        return False

    def fp32_drop(self, candidate: Candidate) -> tuple[float, float]:
        return self.loss(candidate), 0.2 if candidate.size < 256 else 0.0

    def compare(self, challenger: Choice, best: Choice, metric: str) -> str:
        mine, other = challenger.figure(metric), best.figure(metric)
        if metric in ("mean", "p99") and abs(mine - other) <= NOISE * other:
            return SAME
        return SAME if mine == other else BETTER if mine < other else WORSE


def brute_force(world: World, budget, objective: str) -> float | None:
    fitting = [one for one in choices(world.known(each) for each in SPACE.candidates()) if not one.misses(budget)]
    return min((one.figure(objective) for one in fitting), default=None)


@pytest.mark.parametrize("objective", ["mean", "p99", "size", "map_drop"])
@pytest.mark.parametrize("seed", range(12))
def test_the_search_finds_what_building_everything_would(seed, objective):
    draw = random.Random(seed)
    world = World(seed)
    text = f"mean<{draw.uniform(2, 20)}, map_drop<{draw.uniform(0.1, 3)}, size<{draw.uniform(2.5, 14)}"
    found = search(world, SPACE, parse(text), objective)
    expected = brute_force(world, parse(text), objective)
    if expected is None:  # some layers in float may do what none of the plain engines does
        assert found.best is None or found.best.trial.candidate.max_map_drop is not None
    else:
        assert found.best is not None
        assert not found.best.misses(parse(text))
        assert found.best.figure(objective) <= expected + 2 * NOISE * abs(expected)
    assert len(found.rows) >= len(list(SPACE.candidates()))


def test_what_an_estimate_rules_out_is_not_built_and_the_table_says_why():
    world = World()
    found = search(world, SPACE, parse("size<4MB, map_drop<1, p99<100ms"), "mean")
    floats = [one for one in world.built if one.precision != "int8"]
    # Of each backend and float precision the first tells what its like would take.
    assert len(floats) == len({(one.backend, one.precision) for one in floats})
    assert any(row.why.endswith("MB") and row.candidate.precision == "fp32" for row in found.rows if row.choice is None)
    lossy = [row for row in found.rows if row.candidate.size == 128]
    assert lossy
    assert all(row.choice is None for row in lossy if row.candidate.precision == "int8")
    assert any("lose" in row.why and "FP32" in row.why for row in lossy)


def test_look_alone_rules_out_larger_inputs():
    world = World()
    found = search(world, SPACE, parse("mean<0.1ms"), "mean")
    assert found.best is None
    assert len(world.built) == 6  # each backend and precision once
    assert sum("look alone takes" in row.why for row in found.rows) == len(found.rows) - 6


@pytest.mark.parametrize(("objective", "said"), [("mean", "look alone takes"), ("size", "MB, more than")])
def test_what_cannot_be_better_than_the_best_so_far_is_not_built(objective, said):
    world = World()
    found = search(world, SPACE, parse("map_drop<3"), objective)
    beaten = [row for row in found.rows if said in row.why and found.best.trial.candidate.precision in row.why]
    assert beaten
    assert not {row.candidate for row in beaten} & set(world.built)
    assert found.best.figure(objective) <= brute_force(world, parse("map_drop<3"), objective) * (1 + 2 * NOISE)


def test_a_choice_that_a_longer_timing_does_not_bear_out_gives_way():
    world = World()
    first = search(world, SPACE, parse("mean<6, map_drop<2"), "mean").best
    slow: set[Choice] = set()

    def time_longer(choice: Choice) -> bool:
        if choice.name in {one.name for one in slow}:
            return False
        slow.add(choice)
        return True

    known = world.known

    def slower(candidate: Candidate) -> Trial:
        trial, names = known(candidate), {one.name for one in slow}
        points = [replace(point, mean_ms=9.0) if Choice(trial, point).name in names else point for point in trial.points]
        return replace(trial, points=tuple(points))

    world.time_longer, world.known = time_longer, slower
    told = []
    found = search(world, SPACE, parse("mean<6, map_drop<2"), "mean", tell=told.append)
    assert first.name in {one.name for one in slow}
    assert found.best is None or found.best.name not in {one.name for one in slow}
    assert len(told) == len(set(told))
    assert search(world, SPACE, parse("map_drop<2, size<99MB"), "mean").best is not None  # no latency is promised: nothing to time again


def test_what_only_its_standard_error_rules_out_is_judged_on_more_images():
    world, judged = World(), []
    known, text = world.known, "map_drop<1.5, mean<500"
    errors = {True: 0.02, False: 0.6}

    def sure(candidate: Candidate) -> Trial:
        trial = known(candidate)
        return replace(trial, points=tuple(replace(point, map_error=errors[candidate in judged]) for point in trial.points))

    def judge_longer(candidate: Candidate) -> bool:
        if candidate in judged:
            return False
        judged.append(candidate)
        return True

    world.known = sure
    before = search(world, SPACE, parse(text), "mean")
    world.judge_longer = judge_longer
    after = search(world, SPACE, parse(text), "mean")
    assert after.best.point.mean_ms < before.best.point.mean_ms
    assert 0.5 < after.best.point.map_drop < 1.5
    assert after.best.trial.candidate in judged
    # Those that are slower, or lose too much by their estimate as well, are not run again.
    assert 0 < len(judged) < len(after.trials) / 2


def test_int8_that_loses_too_much_is_tried_with_layers_in_float():
    found = search(World(), replace(SPACE, sizes=(256,), regions=(4,)), parse("map_drop<0.3, size<4MB"), "mean")
    assert found.best is not None
    assert found.best.trial.candidate.max_map_drop == pytest.approx(0.15)
    assert found.best.trial.candidate.precision == "int8"


def test_no_layers_return_to_float_where_fp32_itself_loses_too_much():
    found = search(World(), SPACE, parse("map_drop<1.4, size<4MB"), "mean")  # 192 pixels lose 1.5 in FP32
    gated = {row.candidate.size for row in found.rows if row.candidate.max_map_drop is not None}
    assert 192 not in gated
    assert any(row.candidate.size == 192 and row.choice is not None for row in found.rows)


def test_a_precision_that_cannot_be_built_leaves_a_reason_and_the_rest_goes_on():
    found = search(World(broken=frozenset({"fp16"})), SPACE, parse("map_drop<1"), "mean")
    assert found.best is not None
    assert {row.why for row in found.rows if row.candidate.precision == "fp16"} >= {"not built: There is no fp16 here"}


def test_inside_the_noise_the_first_stays():
    world = World()
    world.compare = lambda challenger, best, metric: SAME
    found = search(world, replace(SPACE, precisions=("fp32", "int8")), parse("map_drop<2"), "mean")
    assert found.best.trial.candidate == SPACE.first


def test_the_reference_is_not_chosen_where_it_may_not_be():
    found = search(World(), replace(SPACE, precisions=("int8",), sizes=(192,)), parse("map_drop<5"), "map_drop")
    assert (found.best.trial.candidate.precision, found.best.trial.candidate.size) == ("int8", 192)
    assert found.rows[0].candidate == SPACE.first
    assert "the reference" in found.rows[0].why


def test_when_the_time_is_up_the_rest_is_said_not_to_be_built():
    left = [True, False]
    found = search(World(), SPACE, parse("map_drop<9"), "map_drop", may_start=lambda seconds: bool(left) and left.pop(0))
    assert len(found.trials) == 2
    assert all(row.why == "not built: the time was up" for row in found.rows[2:])


def test_what_an_earlier_run_found_is_used_though_the_time_is_up():
    kept = tuple(SPACE.candidates())[:5]
    found = search(World(kept=kept), SPACE, parse("map_drop<9"), "map_drop", may_start=lambda seconds: False)
    assert [trial.candidate for trial in found.trials] == list(kept)


def test_no_row_says_that_a_trial_of_an_earlier_run_was_not_built():
    kept = tuple(SPACE.candidates())
    found = search(World(kept=kept), SPACE, parse("map_drop<1, size<4MB, mean<3"), "mean")
    assert [trial.candidate for trial in found.trials if trial.candidate.max_map_drop is None] == list(kept)


@pytest.mark.parametrize("text", ["map_drop<0.5, mean<500", "map>=89.5, mean<500"])
def test_what_loses_too_much_is_told_by_the_drop_or_by_the_map_itself(text):
    found = search(World(), SPACE, parse(text), "mean")
    assert any("lose" in row.why for row in found.rows)
    assert any(row.candidate.max_map_drop is not None for row in found.rows)


def test_where_nothing_fits_the_condition_that_has_to_give_least_comes_first():
    trials = [World().known(Candidate("openvino", precision, 256, 4)) for precision in ("int8", "fp32")]
    found = choices(trials)
    fast, good = min(one.point.mean_ms for one in found), 0.0
    budget = parse(f"mean<{fast * 1.1}, map_drop<={good + 0.01}, size<1000MB")
    first, *others = misses(found, budget)
    # Both have to give; what each alone would have to is told by an engine that meets all the
    # others.
    assert {first.condition.metric, others[0].condition.metric} == {"mean", "map_drop"}
    for miss in (first, others[0]):
        assert set(miss.choice.misses(budget)) == {miss.condition}
        assert miss.by == pytest.approx(miss.condition.miss(miss.choice.figure(miss.condition.metric)))
    assert first.by <= others[0].by
    assert others[1].choice is None  # more room for bytes helps nobody


def test_a_candidates_name_is_its_own():
    names = [one.name for one in SPACE.candidates()]
    gated = replace(SPACE.first, precision="int8", max_map_drop=0.3)
    assert len({*names, gated.name}) == len(names) + 1
