"""The tables of what looking less gains: made part by part, and found again by the next run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from benchmarks import adaptive, rules
from edge.bundle import Bundle
from edge.pipeline import BuildOptions


@pytest.fixture
def work(small_bundle, tmp_path, monkeypatch):
    """A folder with the bundle of its only row."""
    folder = tmp_path / "work"
    shutil.copytree(small_bundle("openvino"), folder / "small")
    adaptive._spread_looks(folder / "small")
    manifest = json.loads((folder / "small" / "manifest.json").read_text())
    manifest["stages"]["effort"] = 0.375
    (folder / "small" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(adaptive, "rows", lambda ucmerced: {"small": adaptive.Row(BuildOptions(weights="random"), "scenes")})
    monkeypatch.setattr(adaptive, "BATCHES", (3,))
    monkeypatch.setattr(adaptive, "STREAM_S", 0.3)
    monkeypatch.setattr(adaptive, "STREAM_ROUNDS", 1)
    return folder


def run(work, *words):
    return adaptive.main(adaptive.arguments().parse_args(["--work", str(work), "--images", "9", *words]))


def test_every_part_is_made_once_and_found_again(work, tmp_path):
    words = ["--parts", "rule,latency,throughput,queue", "--seconds", "500", "--json", str(tmp_path / "all.json")]
    assert run(work, *words) == 0
    found = json.loads((tmp_path / "all.json").read_text())["small"]
    assert found["effort"] == 0.375
    assert found["latency"]["floor_ms"]["mean"] > 0
    assert found["latency"]["auto_ms"]["p50"] < found["latency"]["full_ms"]["p50"] * 1.5
    assert found["latency"]["images"] == 9
    assert found["throughput"]["batch_3"]["images"] == 9
    assert set(found["queue"]["dropped"]) == {"auto", "full"}
    for part in ("rule", "latency"):
        (work / f"small.{part}.json").write_text('{"kept": 1}')
    assert run(work, *words) == 0
    again = json.loads((tmp_path / "all.json").read_text())["small"]
    assert again["rule"] == again["latency"] == {"kept": 1}
    assert again["queue"] == found["queue"]


def test_random_weights_get_as_many_looks_as_asked_for(work):
    rule = Bundle.read(work / "small").stages.rule
    assert rule.kind == "interval"
    assert rule.fitted_on == {"data": "none: quantiles of scores"}


def test_rules_are_compared_at_equal_looks():
    rng = np.random.default_rng(0)
    scores = rng.random((120, 6)).astype(np.float32)
    outputs = {
        "global_scores": scores,
        "regions": np.tile(np.array([[0, 0, 9, 9], [9, 0, 20, 9], [9, 0, 20, 20]], np.float32), (120, 1, 1)),
        "region_classes": np.argsort(-scores, axis=1)[:, :3],
        "region_scores": rng.random((120, 3, 6)).astype(np.float32),
    }
    labels = np.where(rng.random((120, 6)) < 0.4, 1, -1)
    kept = {name: fit for name, fit in rules.RULES.items() if name != "learned"}  # scikit-learn is not required
    found = rules.compare(outputs, labels, 20, kept)
    assert set(found) == set(kept)
    for efforts in found.values():
        assert list(efforts) == list(rules.EFFORTS)
    for effort, (_, looks) in found["interval"].items():
        assert looks == pytest.approx(3 * effort, abs=0.3)
    assert "<svg" in rules.drawing(outputs, labels, found)
