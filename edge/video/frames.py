"""A source and an engine: what every frame shows."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import SILENT, Events
from edge.prediction import Prediction, Region
from edge.video.feed import Feed
from edge.video.sources import open_source
from edge.video.steady import Steady, SteadyLabels

WAKE_S = 0.1  # how soon a stop is seen where no picture comes


@dataclass(frozen=True)
class Frame:
    """What a frame shows.

    Attributes:
        frame: its number in the source, from 0; dropped ones are counted.
        time_s: of a file, where the frame stands in it; else seconds since the stream was opened.
        labels: (name, score), best first.
        regions: in rank order, boxes in pixels of the frame.
        looks: regions that the second pass looked at.
        latency_ms: from the arrival of the frame to its result.
        dropped: frames between the one before and this one for which there was no time.
        pixels: (H, W, 3) uint8 RGB.
        scores: (C,) float32 in [0, 1].
    """

    frame: int
    time_s: float
    labels: list[tuple[str, float]]
    regions: list[Region]
    looks: int
    latency_ms: float
    dropped: int
    pixels: NDArray[np.uint8] = field(repr=False, compare=False)
    scores: NDArray[np.float32] = field(repr=False, compare=False)


def stream(
    engine: Engine,
    source: str | os.PathLike[str],
    *,
    every: bool = False,
    steady: Steady | bool = False,
    score_threshold: float | None = None,
    effort: float | None = None,
    budget_ms: float | None = None,
    approximate_pixels: bool = False,
    frames: int | None = None,
    duration_s: float | None = None,
    stop: threading.Event | None = None,
    events: Events = SILENT,
) -> Iterator[Frame]:
    """What the frames of a source show, one after the other, until it ends or the generator is
    closed.

    Of what is live (an address, a camera) the newest frame is taken and older ones are dropped; a
    stream that was lost is opened again. Files and folders wait on their disk: none of their
    pictures is dropped.

    Args:
        source: a video file, ``rtsp://…`` or another address, a camera (``/dev/video0`` or its
            number), a folder that fills.
        every: drop no frame of a live source either; results then come late if the engine is too
            slow.
        steady: labels come and go by ``Steady``'s two thresholds and hold time, not frame by frame.
        score_threshold: as in ``Engine.predict``.
        effort: as in ``Engine.predict``.
        budget_ms: as in ``Engine.predict``.
        approximate_pixels: as in ``Engine.predict``; of frames, the resize alone.
        frames: end after so many results.
        duration_s: end after so many seconds.
        stop: ends the stream when it is set, within a tenth of a second.
        events: is warned when a stream is lost, and of pictures that cannot be read.

    Raises:
        EdgeError: the source cannot be opened or is damaged, a number is out of range, PyAV is
            missing.
    """
    for name, value in (("frames", frames), ("duration_s", duration_s)):
        if value is not None and not (isinstance(value, Real) and value >= 0):
            raise EdgeError("video", f"`{name}` is {value!r}", "Use 0 or more")
    rule = Steady() if steady is True else steady or None
    held = SteadyLabels(engine.thresholds(effort, score_threshold), rule) if rule else None
    predict = partial(engine.predict, approximate_pixels=True) if approximate_pixels else engine.predict
    feed = Feed(open_source(source), every=every, events=events)
    begin, given, last = time.perf_counter(), 0, -1
    try:
        while (frames is None or given < frames) and not (stop and stop.is_set()):
            left = WAKE_S if duration_s is None else min(WAKE_S, begin + duration_s - time.perf_counter())
            if left <= 0:
                return
            arrival = feed.take(left)
            if arrival is None:
                if feed.ended:
                    return
                continue
            try:
                pixels = arrival.picture.load()
            except EdgeError as error:
                events.warn(error.problem)
                last = arrival.number
                continue
            (found,) = predict([pixels], score_threshold=score_threshold, effort=effort, budget_ms=budget_ms)
            time_s = arrival.picture.at if arrival.picture.at is not None else arrival.came - begin
            if held is not None:
                found = _relabelled(found, held.update(found.scores, time_s), engine.labels)
            given += 1
            yield Frame(
                arrival.number,
                time_s,
                found.labels,
                found.regions,
                sum(region.looked for region in found.regions),
                (time.perf_counter() - arrival.came) * 1e3,
                arrival.number - last - 1,
                pixels,
                found.scores,
            )
            last = arrival.number
    finally:
        feed.close()


def _relabelled(found: Prediction, on: NDArray[np.bool_], names: tuple[str, ...]) -> Prediction:
    """A prediction with the labels that are on, best first."""
    order = [c for c in np.argsort(-found.scores, kind="stable") if on[c]]
    return replace(found, labels=[(names[c], float(found.scores[c])) for c in order])
