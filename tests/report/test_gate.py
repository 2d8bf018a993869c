"""Conditions that fail a run: their form, their sense, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.errors import EdgeError, GateError
from edge.report.gate import METRICS, check, check_needs, enforce, parse
from edge.report.result import Result


def result(p99=10.0, images=100.0, mean_ap=80.0, batch=8):
    made = {
        "batch": batch,
        "latency_ms": {"p50": 8.0, "p90": 9.0, "p99": p99, "mean": 8.5},
        "throughput_images_per_s": images,
        "memory_mb": {"peak_rss": 300.0},
        "accuracy": {"map": mean_ap, "map_drop": 0.4},
        "effort": {"mean_looks": 1.2, "map_drop": 0.05},
    }
    return Result.from_plain(made)


@pytest.mark.parametrize(
    ("text", "now", "before", "failed"),
    [
        ("p99>+5%", result(10.4), result(10), False),
        ("p99>+5%", result(10.6), result(10), True),
        ("p99>+1", result(11.5), result(10), True),
        ("p99>12", result(11.5), None, False),
        ("p99>11", result(11.5), None, True),
        ("map<-0.3", result(mean_ap=79.6), result(mean_ap=80), True),
        ("map<-0.3", result(mean_ap=79.8), result(mean_ap=80), False),
        ("map<75", result(mean_ap=74), None, True),
        ("map_drop>.3", result(), None, True),
        ("throughput<-10%", result(images=85), result(images=100), True),
        ("throughput<-10%", result(images=95), result(images=100), False),
        ("peak_rss>+0%", result(), result(), False),
        ("p50 < 9", result(), None, True),
        ("mean_looks>1.5", result(), None, False),
        ("mean_looks>1", result(), None, True),
        ("effort_drop>0.1", result(), None, False),
        ("effort_drop>0.01", result(), None, True),
    ],
)
def test_condition_fails_exactly_on_its_side(text, now, before, failed):
    (outcome,) = check(parse(text), now, before)
    assert outcome.failed is failed


def test_every_condition_of_a_list_is_checked_and_the_failing_figures_named():
    outcome = check(parse("p99>+5%, map<-0.3, peak_rss>1000"), result(12, mean_ap=70), result())
    assert [one.failed for one in outcome] == [True, True, False]
    with pytest.raises(GateError) as caught:
        enforce(outcome)
    assert caught.value.exit_code == 3
    for part in ("p99 12 (p99>+5%", "map 70", "at most 10.5", "at least 79.7"):
        assert part in str(caught.value)
    assert "peak_rss" not in str(caught.value)


def test_looks_need_a_second_stage_and_images_and_their_drop_needs_labels():
    for text in ("mean_looks>1", "effort_drop>0.1"):
        with pytest.raises(EdgeError, match="needs a data set and an engine with a second stage"):
            check_needs(parse(text), accuracy=True, looked=False, baseline=None, batch=8)
    check_needs(parse("mean_looks>1"), accuracy=False, looked=True, baseline=None, batch=8)
    with pytest.raises(EdgeError, match="needs labelled images"):
        check_needs(parse("effort_drop>0.1"), accuracy=False, looked=True, baseline=None, batch=8)


def test_a_run_that_meets_no_condition_passes():
    enforce(check(parse("p99>+5%"), result(), result()))


@pytest.mark.parametrize("text", ["", "p99", "p98>5", "p99>=5", "p99>five", "p99>5,,", "p99>5;map<1", "P99>5 ms", "map=3", "p99>nan"])
def test_another_form_is_refused_with_the_metrics(text):
    with pytest.raises(EdgeError) as caught:
        parse(text)
    assert all(metric in str(caught.value) for metric in METRICS)


def test_a_percentage_without_a_sign_is_refused():
    with pytest.raises(EdgeError, match=r"p99>\+5%"):
        parse("p99>5%")


def needs(text, *, accuracy=True, baseline=None, batch=8):
    check_needs(parse(text), accuracy=accuracy, baseline=baseline, batch=batch)


def test_what_cannot_be_judged_is_refused_before_measuring():
    with pytest.raises(EdgeError, match="`baseline`"):
        needs("p99>+5%")
    with pytest.raises(EdgeError, match="`no_accuracy`"):
        needs("map<70", accuracy=False)
    needs("p99>5,peak_rss>7", accuracy=False)


@pytest.mark.parametrize("value", [None, "10", float("nan"), True])
def test_a_baseline_without_the_figure_is_refused(value):
    with pytest.raises(EdgeError, match=r"baseline has no map .*accuracy\.map"):
        needs("map<-0.3", baseline=Result.from_plain({"batch": 8, "accuracy": {"map": value}}))
    with pytest.raises(EdgeError, match="baseline has no map"):
        needs("map<-0.3", baseline=Result.from_plain({"batch": 8, "accuracy": None}))


def test_a_baseline_of_another_batch_is_refused_for_figures_of_speed_only():
    with pytest.raises(EdgeError, match="at batch 1, not 8"):
        needs("p99>+5%", baseline=result(batch=1))
    needs("map<-0.3,peak_rss>+5%,p99>5", baseline=result(batch=1))
    (outcome,) = check(parse("map<-0.3"), result(batch=8), result(batch=1))
    assert not outcome.failed


def test_a_figure_that_was_not_measured_is_no_pass_but_what_failed_comes_first():
    outcome = check(parse("map_drop>0.1, p99>5"), replace(result(), accuracy=None), None)
    assert [(one.measured, one.failed) for one in outcome] == [(None, False), (10, True)]
    with pytest.raises(GateError):
        enforce(outcome)
    with pytest.raises(EdgeError, match=r"was not measured: map_drop \(map_drop>0.1\)") as caught:
        enforce(outcome[:1])
    assert caught.value.exit_code == 1


def test_where_several_engines_were_judged_the_one_that_failed_is_named():
    outcome = [one for name in ("first", "second") for one in check(parse("p99>5"), result(), None, engine=name)]
    with pytest.raises(GateError, match=r"first: p99 10 .*; second: p99 10 "):
        enforce(outcome)
