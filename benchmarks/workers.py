"""A process per participant: nobody's threads, memory pools or settings are another's. They take turns over pipes.

Time is taken inside the worker, so the pipe costs nothing that is counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.participants import Participant, open_participant

START_S = 600.0  # compiling takes its time


class Failed(Exception):
    """The participant cannot run; the text says why."""


class Worker:
    """A participant in its own process.

    Args:
        participant: what to open.
        images: (B, 3, S, S) float32, what its turns are timed on.

    Raises:
        Failed: it could not be opened or run once.
    """

    def __init__(self, participant: Participant, images: np.ndarray) -> None:
        self.participant = participant
        self.cpu_s = 0.0
        # Spawned, never forked: the parent's libraries may have started threads.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, participant, images), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer(START_S)
        except Failed:
            self.close()
            raise

    def turn(self, count: int) -> list[float]:
        """So many calls on the timing images; the seconds of each."""
        self._pipe.send(("turn", count))
        seconds, self.cpu_s = self._answer()
        return seconds

    def infer(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """One untimed call on other images."""
        self._pipe.send(("infer", images))
        return self._answer()

    def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):
                self._pipe.send(("close", None))
            self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _answer(self, timeout_s: float = START_S) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise Failed(f"no answer within {timeout_s:.0f} s")
            failed, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(5)
            raise Failed(f"its process ended with code {self._process.exitcode}") from error
        if failed:
            raise Failed(value)
        return value


def _serve(pipe: Connection, participant: Participant, images: np.ndarray) -> None:
    """The worker's side: open, run once, then do as told."""
    try:
        run = open_participant(participant)
        run(images)
    except Exception as error:
        pipe.send((True, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        return
    pipe.send((False, None))
    while True:
        try:
            order, value = pipe.recv()
        except EOFError:
            return
        if order == "close":
            return
        try:
            pipe.send((False, _timed(run, images, value) if order == "turn" else dict(run(value))))
        except Exception as error:
            pipe.send((True, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


def _timed(run: Any, images: np.ndarray, count: int) -> tuple[list[float], float]:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    used = os.times()
    return seconds, used.user + used.system
