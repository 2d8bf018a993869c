"""The schema of ``edge.bench --json``: its keys, written and read."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest

from edge.measure.energy import Energy, NoEnergy
from edge.measure.latency import Percentiles
from edge.measure.machine import Disturbance
from edge.measure.quality import ClassAp
from edge.plain import to_plain
from edge.report.result import Memory, Outcome, Result, Run

RUN = {
    *("batch", "latency_ms", "throughput_images_per_s", "median_interval_ms", "variation", "samples_ms", "warm_up"),
    *("valid", "reasons", "disturbance"),
}
# What others read: a key may be added here, none may go or change its name.
KEYS = {
    "": {
        *RUN,
        *("bundle", "model", "weights", "size", "backend", "precision", "float16", "load_ms", "first_ms", "layers", "sweep"),
        *("machine", "energy", "stages_ms", "memory_mb", "accuracy", "regions", "effort", "sensitivity", "warnings"),
        *("streams", "soak", "engines", "comparison", "baseline", "gates"),
    },
    "sweep": RUN,
    "latency_ms": {"p50", "p90", "p95", "p99", "mean", "min", "max"},
    "memory_mb": {"peak_rss", "engine", "bundle"},
    "energy": {"source", "reason", "covers", "mj_per_image", "mj_per_image_total", "watts", "idle_watts"},
    "accuracy": {
        *("dataset", "images", "map", "map_interval", "map_reference", "map_drop", "map_drop_interval", "cf1", "of1"),
        *("cf1_reference", "of1_reference", "top", "threshold", "convention", "ties", "per_class", "worst", "causes"),
    },
    "accuracy.top": {"k", "cf1", "of1"},
    "accuracy.per_class": {"ap", "ap_reference", "drop"},
    "accuracy.causes": {"scores", "classes", "boxes", "local"},
    "machine": {
        *("cpu", "architecture", "cores", "cores_online", "instructions", "memory_mb", "governor", "clock_mhz", "system", "python"),
        *("container", "gpu", "jetson"),
    },
    "machine.container": {"cpu_limit", "memory_limit_mb"},
    "machine.jetson": {"model", "power_mode"},
    "disturbance": {"busy_elsewhere", "stolen", "clock_mhz"},
    "regions": {
        *("class_agreement", "mean_iou", "iou_above", "images_changed"),
        *("class_agreement_interval", "mean_iou_interval"),
    },
    "effort": {
        *("chosen", "mean_looks", "map", "map_drop", "map_drop_interval", "mean_ratio", "p99_ratio", "regions", "images", "batch"),
        "curve",
    },
    "effort.curve": {"effort", "mean_looks", "map", "mean_ms", "p50_ms", "p99_ms", "max_ms"},
    "sensitivity": {"map_drop", "map_drop_all_int8", "returned_to_float", "ranking"},
    "sensitivity.ranking": {"unit", "map_points", "score_error", "class_agreement", "mean_iou"},
    "streams": {"streams", "throughput_images_per_s", "latency_ms"},
    "soak": {"seconds", "windows", "latency_drift", "memory_growth_mb", "reasons"},
    "soak.windows": {"at_s", "p50", "p99", "rss_mb", "calls"},
    "comparison": {"bundle", "p50_ms", "ratio", "interval", "rounds", "verdict"},
    "baseline": {"file", "changes", "differs"},
    "gates": {"engine", "condition", "measured", "limit", "failed"},
}


def classes_in(hint) -> list[type]:
    return [hint] if is_dataclass(hint) else [kind for inner in get_args(hint) for kind in classes_in(inner)]


@pytest.mark.parametrize("path", KEYS)
def test_the_schema_has_these_keys_and_no_others(path):
    kinds = [Result]
    for name in filter(None, path.split(".")):
        kinds = [kind for parent in kinds for kind in classes_in(get_type_hints(parent)[name])]
    assert {field.name for kind in kinds for field in fields(kind)} == KEYS[path]


def content():
    """As small as a file can be."""
    return {
        "bundle": "engines/a",
        "batch": 2,
        "latency_ms": {"p50": 1, "p90": 2.0, "p95": 2.0, "p99": 3.0, "mean": 1.5, "min": 1.0, "max": 3.0},
        "memory_mb": {"peak_rss": None, "bundle": 3.5},
        "accuracy": {"map": 80.0, "per_class": {"cat": {"ap": 80.0}}, "worst": [["cat", 1.5]], "map_drop_interval": [0.5, 2.5]},
    }


def test_a_file_is_read_into_its_types():
    result = Result.from_plain(content())
    assert result.latency_ms == Percentiles(1.0, 2.0, 2.0, 3.0, 1.5, 1.0, 3.0)
    assert result.memory_mb == Memory(None, None, 3.5)
    assert result.accuracy is not None
    assert result.accuracy.per_class == {"cat": ClassAp(80.0, None, None)}
    assert result.accuracy.worst == (("cat", 1.5),)
    assert result.accuracy.map_drop_interval == (0.5, 2.5)


def test_what_a_file_lacks_is_unknown_or_empty():
    result = Result.from_plain({"latency_ms": {}, "accuracy": "much", "sweep": 3, "batch": "8", "regions": {"mean_iou": True}, "new": 1})
    assert all(math.isnan(getattr(result.latency_ms, field.name)) for field in fields(Percentiles))
    assert (result.batch, result.model, result.accuracy, result.sweep, result.machine.cpu) == (0, "", None, (), "")
    assert result.regions is not None
    assert result.regions.mean_iou is None
    assert result.memory_mb == Memory(None, None, None)
    assert Result.from_plain([1, 2]).batch == 0


@pytest.mark.parametrize(
    ("energy", "kind"),
    [
        ({"source": None, "reason": "no sensors"}, NoEnergy),
        ({"source": "a", "covers": "b", "mj_per_image": 1, "mj_per_image_total": 2, "watts": 3, "idle_watts": 4}, Energy),
        (None, type(None)),
    ],
)
def test_energy_is_told_from_its_absence(energy, kind):
    result = Result.from_plain({"energy": energy})
    assert type(result.energy) is kind
    assert result.plain()["energy"] == energy


def test_what_was_not_asked_for_is_no_key_and_what_is_unknown_is_null():
    plain = Result.from_plain(content()).plain()
    assert KEYS[""] - set(plain) == {"streams", "soak", "engines", "comparison", "baseline", "gates"}
    assert plain["regions"] is None
    assert "engine" not in Result.from_plain({"gates": [{"condition": "p99>5"}]}).plain()["gates"][0]


def test_a_result_survives_its_file():
    percentiles = Percentiles(1.0, 2.0, 2.0, 3.0, 1.5, 1.0, 3.0)
    run = Run(2, percentiles, 10.0, (1.0, 2.0), 0.1, (1.0, 2.0), 3, True, (), Disturbance(0.25, 0.5, (None, 2.0)))
    more = {"memory_mb": {"bundle": 1.0}, "load_ms": 1, "first_ms": 2, "size": 64, "sweep": [to_plain(run)]}
    one = Result.from_plain(json.loads(json.dumps({**more["sweep"][0], **more})))
    assert one.sweep == (run,)
    whole = {**one.plain(), "engines": [one.plain(), one.plain()], "gates": [{"engine": "a", "condition": "p99>5", "limit": 5.0}]}
    result = Result.from_plain(whole)
    assert result.engines == (one, one)
    assert result.gates is not None
    assert isinstance(result.gates[0], Outcome)
    assert Result.from_plain(json.loads(json.dumps(result.plain()))).plain() == result.plain()


def test_warnings_are_worded_in_every_engine():
    one = Result.from_plain({"warnings": ["give `dataset`"]})
    worded = Result.from_plain({**one.plain(), "engines": [one.plain()]}).worded(lambda text: text.replace("`dataset`", "--dataset"))
    assert worded.warnings == ("give --dataset",)
    assert worded.each[0].warnings == ("give --dataset",)
