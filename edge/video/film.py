"""Frames with what was found in them, as a film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge.atomic import file_written_atomically
from edge.draw import INK, draw
from edge.errors import EdgeError
from edge.prediction import Prediction
from edge.video.frames import Frame
from edge.video.sources import pyav

STRIP = 0.3  # of the picture's height, below it: room for the labels
CODECS = ("libx264", "libopenh264", "mpeg4")  # the first one this FFmpeg has
CLOCK = Fraction(1, 1000)


@contextmanager
def film(path: Path) -> Iterator[Film]:
    """An MP4 file that has its name when it is complete, also after an interruption."""
    with file_written_atomically(path) as file:
        made = Film(file)
        try:
            yield made
        finally:
            made.close()


class Film:
    """An MP4 that grows by a drawing a frame, at the frames' own times."""

    def __init__(self, file: Any) -> None:
        self._av = pyav()
        self._container = self._av.open(file, "w", format="mp4")
        self._stream: Any = None
        self._last = -1

    def add(self, frame: Frame) -> None:
        drawing = draw(frame.pixels, Prediction(frame.scores, frame.labels, frame.regions))
        if self._stream is None:
            self._open(drawing, frame.pixels.shape)
        size = (self._stream.width, self._stream.height)
        canvas = Image.new("RGB", size, INK)
        drawing.thumbnail((size[0], max(size[1], drawing.height)))  # of a source that changed its size
        canvas.paste(drawing, (0, 0))
        picture = self._av.VideoFrame.from_ndarray(np.asarray(canvas), format="rgb24")
        self._last = max(self._last + 1, round(frame.time_s / CLOCK))
        picture.pts, picture.time_base = self._last, CLOCK
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _open(self, drawing: Image.Image, shape: tuple[int, ...]) -> None:
        height = shape[0] * drawing.width / shape[1] * (1 + STRIP)
        codec = next((name for name in CODECS if name in self._av.codecs_available), None)
        if codec is None:
            raise EdgeError("video", f"This FFmpeg supports none of {', '.join(CODECS)}", "Install PyAV from its own wheels")
        self._stream = self._container.add_stream(codec, rate=30)
        self._stream.width, self._stream.height = drawing.width // 2 * 2, round(height) // 2 * 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = CLOCK
        self._stream.time_base = CLOCK
