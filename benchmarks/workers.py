"""A process per participant: nobody's threads, memory pools or settings are another's. They take
turns.

Time is taken inside the worker, so what it costs to reach it is not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as OutOfTime
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import TypeVar

import numpy as np

from benchmarks.participants import Participant, Runner
from edge.errors import EdgeError
from edge.graph import Outputs
from edge.measure.latency import Turn, timed

T = TypeVar("T")
START_S = 600.0  # compiling takes its time


class Failed(Exception):
    """A process could not do what it was asked for; the text says why."""


class Apart:
    """A process of its own, and calls in it, one after another. Spawned, never forked: this one's
    libraries may have started threads."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._process = self._pool.submit(os.getpid).result()

    def call(self, function: Callable[[], T], seconds: float = START_S) -> T:
        """What the function returns there.

        Raises:
            Failed: it raised, or did not end in time.
        """
        try:
            return self._pool.submit(_in_words, function).result(seconds)
        except OutOfTime as error:
            os.kill(self._process, signal.SIGTERM)
            raise Failed(f"no answer within {seconds:.0f} s") from error
        except BrokenProcessPool as error:
            raise Failed("its process died") from error

    def close(self) -> None:
        self._pool.shutdown()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Worker(Apart):
    """A participant in its own process.

    Args:
        participant: what to open.
        images: (B, 3, S, S) float32, what its turns are timed on; of an adaptive one (T, B, 3, S,
            S).

    Raises:
        Failed: it could not be opened or run once.
    """

    def __init__(self, participant: Participant, images: np.ndarray) -> None:
        super().__init__()
        self.participant = participant
        self.cpu_s = 0.0
        try:
            self.call(partial(_open, participant, images))
        except Failed:
            self.close()
            raise

    def turn(self, count: int) -> list[float]:
        """So many calls on the timing images; the seconds of each."""
        seconds, self.cpu_s = self.call(partial(_turn, count))
        return seconds

    def infer(self, images: np.ndarray) -> Outputs:
        """One untimed call on other images."""
        return self.call(partial(_infer, images))


def _in_words(function: Callable[[], T]) -> T:
    """What is raised may not survive the way back: its words do."""
    try:
        return function()
    except EdgeError as error:
        raise Failed(str(error)) from None
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from None


_opened: list[tuple[Runner, Turn]] = []  # in a worker: its participant, and that on the timing images


def _open(participant: Participant, images: np.ndarray) -> None:
    run = participant.open()
    several = images if participant.adaptive else images[None]
    for batch in several:
        run(batch)
    _opened.append((run, mean_over(run, several)))


def mean_over(run: Runner, several: np.ndarray) -> Turn:
    """Calls on (T, B, 3, S, S), in order; the time of each is the mean over a pass through all T,
    at least one pass a turn."""
    call = timed(lambda: [run(batch) for batch in several])

    def turn(count: int) -> list[float]:
        passes = call(max(1, count // len(several)))
        return [seconds / len(several) for seconds in passes for _ in several][: max(count, 1)]

    return turn


def _turn(count: int) -> tuple[list[float], float]:
    seconds, used = _opened[0][1](count), os.times()
    return list(seconds), used.user + used.system


def _infer(images: np.ndarray) -> Outputs:
    return dict(_opened[0][0](images))
