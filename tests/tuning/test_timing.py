"""Two engines against each other, on images that do not all take as long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.measure.latency import Comparison
from edge.spec import ImageSpec
from edge.tuning import timing


@dataclass
class Photos:
    """Images whose pixels are their number."""

    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int):
        return SimpleNamespace(image=np.full((32, 32, 3), self.numbers[index], np.uint8))

    def subset(self, indices) -> Photos:
        return Photos([self.numbers[index] for index in indices])


class Sleeper:
    """An engine that sleeps as long as an image needs."""

    def __init__(self, seconds) -> None:
        self.bundle, self._seconds = SimpleNamespace(image=ImageSpec(32, input="uint8")), seconds

    def infer(self, batch, *, effort):
        time.sleep(self._seconds(int(batch[0, 0, 0, 0])))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize("count", [144, 7])
def test_every_round_of_a_comparison_has_images_of_its_own(count, monkeypatch):
    """One engine is slow on each ninth image only, which sixteen at even distances all are."""
    engines = {Path("uneven"): Sleeper(lambda image: 0.004 if image % 9 == 0 else 0.0002), Path("even"): Sleeper(lambda image: 0.0015)}
    monkeypatch.setattr(timing.Engine, "load", lambda path, effort: engines[path])
    ratios = timing.duel((Path("uneven"), 1.0), (Path("even"), 1.0), Photos(list(range(count))), 1, "mean")
    assert len(ratios) == timing.ROUNDS
    if count == 144:
        assert Comparison(tuple(ratios)).ratio < 1
