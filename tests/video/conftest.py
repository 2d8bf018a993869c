"""A clip that says which frame is which, and engines that are only slow."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edge.prediction import Prediction, Region

WIDTH, HEIGHT, RATE = 160, 96, 25
CELLS = 8  # bits of a frame's number, as columns of black and white


def picture(number: int) -> np.ndarray:
    bits = [(number >> bit) & 1 for bit in range(CELLS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, WIDTH // CELLS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(pixels: np.ndarray) -> int:
    """Which frame of the clip this is, whatever the codec did to it."""
    means = pixels[:, : WIDTH // CELLS * CELLS].reshape(HEIGHT, CELLS, WIDTH // CELLS, 3).mean((0, 2, 3))
    return sum(int(mean > 127) << bit for bit, mean in enumerate(means))


def clip_of(path: Path, frames: int) -> Path:
    """H.264, a key frame every ten, with frames that refer to later ones."""
    av = pytest.importorskip("av")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 10
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def write_clip():
    return clip_of


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    return clip_of(tmp_path_factory.mktemp("clip") / "clip.mp4", 60)


class Reader:
    """In the place of an engine: 'odd' is as likely as the frame's last bit says; takes its
    time."""

    labels = ("odd", "even")

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.seen: list[int] = []

    def thresholds(self, effort=None, score_threshold=None) -> np.ndarray:
        return np.full(2, 0.5 if score_threshold is None else score_threshold, np.float32)

    def predict(self, images, *, score_threshold=None, effort=None, budget_ms=None) -> list[Prediction]:
        time.sleep(self.seconds)
        (image,) = images
        number = number_of(image)
        self.seen.append(number)
        scores = np.array([number % 2, 1 - number % 2], np.float32) * np.float32(0.9)
        labels = [(self.labels[c], float(scores[c])) for c in range(2) if scores[c] >= 0.5]
        return [Prediction(scores, labels, [Region((0.0, 0.0, 8.0, 8.0), "odd", float(scores[0]), looked=False)])]


@pytest.fixture
def reader():
    return Reader
