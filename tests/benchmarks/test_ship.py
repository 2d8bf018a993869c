"""What ships of a model: the figures of its streams, and its weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import ship, streams  # noqa: E402
from edge.data import open_dataset  # noqa: E402
from edge.image import preprocess  # noqa: E402
from edge.measure.accuracy import evaluate  # noqa: E402
from edge.models import create  # noqa: E402
from edge.models.checkpoint import OURS, read, save_checkpoint  # noqa: E402
from edge.models.source import open_source  # noqa: E402


def test_streams_are_judged_apart_and_the_last_against_the_first(noise_photos, capsys):
    source = open_source("random", size=64)
    images = open_dataset(f"csv:{noise_photos(['train', *['test'] * 9], (40, 64))}", "test")
    found = streams.judge(source, images)
    pixels = np.stack([preprocess(images[index].image, source.image) for index in range(9)])
    with torch.no_grad():
        answers = source.network(torch.from_numpy(pixels))
    for stream, key in (("global", "global_scores"), ("local", "local_scores"), ("fused", "scores")):
        assert found["streams"][stream]["map"] == pytest.approx(evaluate(answers[key].numpy(), images.labels).map, abs=0.5)
    points = {stream: each["map"] for stream, each in found["streams"].items()}
    assert found["gain"]["map"] == pytest.approx(points["fused"] - points["global"])
    low, high = found["gain"]["interval"]
    assert low <= high
    streams.tell(found)
    assert "fused over global: " in capsys.readouterr().out


def test_weights_ship_in_16_bits_with_all_that_describes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "ASSETS", tmp_path)
    network, extra = create("plain-mobilenetv2", num_classes=2), {"data": "photos", "recipe": "finetune", "seed": 2}
    save_checkpoint(
        tmp_path / "best.pth", network, name="plain-mobilenetv2", classes=("a", "b"), size=64, epoch=3, best_score=91.5, extra=extra
    )
    ship._weights(tmp_path / "best.pth", "mine")
    before, after = read(tmp_path / "best.pth"), read(tmp_path / "mine.pth")
    assert after[OURS] == before[OURS]
    assert (after["epoch"], after["best_score"]) == (3, 91.5)
    for name, value in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], value.half() if value.is_floating_point() else value)
