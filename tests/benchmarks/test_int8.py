"""The table of ways to int8."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks import int8


def test_a_row_says_what_was_lost_against_the_reference():
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, 3)) * 3
    labels = np.where(logits > 1, 1, -1).astype(np.int8)
    boxes, classes = np.tile([0.0, 0.0, 8.0, 8.0], (40, 2, 1)), np.tile([0, 1], (40, 1))

    def outputs(shift: float) -> dict[str, np.ndarray]:
        scores = 1 / (1 + np.exp(-(logits + shift)))
        return {"scores": scores, "global_scores": scores, "regions": boxes, "region_classes": classes}

    images = type("Images", (), {"labels": labels, "__len__": lambda self: 40})()
    reference = outputs(0)
    same, moved = (int8.judged("default", "test", images, outputs(shift), reference) for shift in (0, 0.3))
    assert (same.logit_error, same.quality["map_drop"], same.quality["class_agreement"]) == (0, 0, 1)
    assert moved.logit_error == pytest.approx(0.3, abs=1e-6)
    assert moved.quality["map"] == 100  # one shift for all keeps their order
    wrong = {**outputs(0), "scores": -reference["scores"], "region_classes": classes + 1}
    lost = int8.judged("none", "test", images, wrong, reference)
    assert lost.quality["map_drop"] > 20
    assert lost.quality["class_agreement"] == 0.5
    assert int8.cells(lost)[0] == "none"


def test_only_what_has_an_engine_is_timed(tmp_path, monkeypatch):
    """The graph for TensorRT is computed node by node: its row has no time, and the rest go on."""
    monkeypatch.setattr(int8, "calibrated", lambda graph, *_, **__: (graph, None))
    monkeypatch.setattr(int8, "fitted", lambda *_: None)
    monkeypatch.setattr(int8, "quantize", lambda graph, *_, **__: graph)
    monkeypatch.setattr(
        int8,
        "run",
        lambda graph, _, images: int8.outputs(int8.Session(int8.lower.reference(graph.parse()).SerializeToString()), images, graph),
    )
    monkeypatch.setattr(int8, "slower", lambda *_: 1.5)
    words = ["mcar-mobilenetv2-scenes", "--dataset", "scenes", "--images", "8", "--time", "--json", str(tmp_path / "rows.json")]
    assert int8.main(int8.arguments().parse_args([*words, "--only", "default-tensorrt", "default-onnxruntime"])) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["way"]: row["time"] for row in rows} == {"default-onnxruntime": 1.5, "default-tensorrt": None}
    assert all(row["quality"]["map_drop"] == 0 for row in rows)
