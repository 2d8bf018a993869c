"""Percentiles, warm-up, verdicts and comparisons, all on a clock that only moves when told."""

from __future__ import annotations

import itertools
import random
from dataclasses import asdict

import numpy as np
import pytest

from edge.errors import EdgeError
from edge.measure.latency import Comparison, Latency, Plan, interleave, judge, measure, median_interval, timed, warm


def turn_taking(clock, durations):
    return timed(clock.call_taking(durations), clock)


def milliseconds(values) -> Latency:
    return Latency(np.asarray(values, np.float64) / 1e3)


def test_percentiles_of_a_known_run_are_exact(clock):
    # Ten equal warm-up calls settle at once; then 1 … 101 ms in a shuffled order.
    counted = list(range(1, 102))
    random.Random(3).shuffle(counted)
    durations = [0.05] * 10 + [value / 1e3 for value in counted]
    latency = measure(clock.call_taking(durations), images=4, plan=Plan(samples=101, least_s=0), clock=clock)
    assert latency.warm_up == 10
    figures = asdict(latency.percentiles)
    assert {name: round(value, 6) for name, value in figures.items()} == {
        "p50": 51,
        "p90": 91,
        "p95": 96,
        "p99": 100,
        "mean": 51,
        "min": 1,
        "max": 101,
    }
    assert latency.throughput == pytest.approx(4 * 101 / sum(range(1, 102)) * 1e3)


def test_warm_up_goes_on_until_two_windows_agree(clock):
    falling = [0.05] * 5 + [0.03] * 5 + [0.02] * 5 + [0.01] * 5 + [0.0101] * 5
    calls, settled = warm(turn_taking(clock, falling), Plan(warm_s=100))
    assert (calls, settled) == (25, True)


def test_warm_up_that_never_settles_ends_at_its_bounds(clock):
    growing = (0.01 * 1.2**index for index in itertools.count())
    calls, settled = warm(turn_taking(clock, growing), Plan(warm_calls=30, warm_s=1e9))
    assert (calls, settled) == (30, False)
    slow = itertools.repeat(7.0)
    calls, settled = warm(turn_taking(clock, slow), Plan(warm_s=10))
    assert (calls, settled) == (2, True)


def test_counting_stops_at_its_time_limit(clock):
    latency = measure(clock.call_taking(itertools.repeat(4.0)), plan=Plan(limit_s=20), clock=clock)
    assert len(latency.seconds) == 5
    assert judge(latency) == ("too few samples: 5 of at least 10",)


def test_counting_goes_on_until_the_least_time_has_passed(clock):
    latency = measure(clock.call_taking(itertools.repeat(0.001)), plan=Plan(samples=10, least_s=0.5), clock=clock)
    assert len(latency.seconds) == pytest.approx(500, abs=1)


def test_a_steady_run_is_valid():
    noise = np.random.default_rng(0).normal(20, 0.2, 200)
    assert judge(milliseconds(noise)) == ()


def test_a_single_outlier_does_not_make_a_run_invalid():
    values = [20.0] * 199 + [400.0]
    assert judge(milliseconds(values)) == ()
    assert milliseconds(values).variation > 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([10.0, 30.0] * 50, "p10 to p90"),
        (np.linspace(10, 14, 120), "moved by"),
        ([10, 11, 12, 13, 9, 8, 14, 10, 11, 12, 13], "the median is only known"),
        ([10.0] * 5, "too few samples"),
    ],
)
def test_an_unsound_run_is_called_invalid_with_its_reason(values, reason):
    reasons = judge(milliseconds(values))
    assert any(reason in one for one in reasons), reasons


def test_median_interval_matches_the_binomial_table():
    # Ranks 2 and 9 of 10 cover 97.9 %, ranks 3 and 8 only 89.1 %; 6 values need their whole range
    # (96.9 %).
    assert median_interval(range(1, 11)) == (2, 9, pytest.approx(1 - 2 * 11 / 1024))
    assert median_interval(range(1, 7)) == (1, 6, pytest.approx(1 - 2 / 64))
    low, high, coverage = median_interval([3.0, 1.0, 2.0])
    assert (low, high, coverage) == (1, 3, pytest.approx(0.75))


def test_median_interval_covers_the_true_median_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = sum(low <= 0 <= high for low, high, _ in (median_interval(generator.exponential(1, 25) - np.log(2)) for _ in range(2000)))
    assert 0.94 <= hits / 2000 <= 0.99


def test_median_interval_of_a_long_run_does_not_underflow():
    low, high, coverage = median_interval(np.arange(5000.0))
    assert 0.95 <= coverage < 0.953
    assert high - low == pytest.approx(1.96 * np.sqrt(5000), rel=0.02)


def noisy(seed: int, scale: float):
    generator = np.random.default_rng(seed)
    return (scale * value for value in iter(lambda: float(generator.normal(0.01, 0.0002)), None))


def test_an_engine_against_itself_shows_no_difference(clock):
    rounds = interleave({"a": turn_taking(clock, noisy(0, 1)), "b": turn_taking(clock, noisy(1, 1))}, rounds=9)
    comparison = rounds.compare("b", "a")
    assert comparison.verdict == "no difference"
    assert "no difference" in str(comparison)


def test_an_engine_slowed_by_three_percent_is_found(clock):
    rounds = interleave({"a": turn_taking(clock, noisy(0, 1)), "b": turn_taking(clock, noisy(1, 1.03))}, rounds=9)
    comparison = rounds.compare("b", "a")
    assert comparison.verdict == "slower"
    assert comparison.ratio == pytest.approx(1.03, abs=0.01)
    assert rounds.compare("a", "b").verdict == "faster"


def test_a_machine_that_slows_down_weighs_on_both_sides_of_a_ratio(clock):
    slowing = lambda scale: (scale * 0.01 * (1 + clock.now / 1000) for _ in itertools.count())  # noqa: E731
    rounds = interleave({"a": turn_taking(clock, slowing(1)), "b": turn_taking(clock, slowing(1.2))}, rounds=8)
    assert rounds.compare("b", "a").ratio == pytest.approx(1.2, rel=0.01)


def test_turns_alternate_their_order():
    order: list[str] = []

    def turn(name):
        def take(count):
            if count > 5:
                order.append(name)
            return [0.01] * count

        return take

    interleave({"a": turn("a"), "b": turn("b")}, rounds=3, turn_s=0.1)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_ratio_within_a_hundredth_is_no_difference_however_sure():
    assert Comparison((1.004,) * 20).verdict == "no difference"
    assert Comparison((1.02,) * 20).verdict == "slower"


def test_nothing_to_compare_is_refused():
    with pytest.raises(EdgeError, match="Nothing to compare"):
        interleave({})
