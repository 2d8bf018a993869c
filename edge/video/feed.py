"""Pictures from a thread of their own: the newest one, or each; a source that was lost is opened
again."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from edge.errors import EdgeError
from edge.events import Events
from edge.video.sources import Picture, Source

AHEAD = 4  # pictures that wait where none may be lost; the source waits for more room
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0  # before a source is opened again; doubled each time


@dataclass(frozen=True)
class Arrival:
    """A picture, its number in the source from 0, and when it came (``time.perf_counter``)."""

    picture: Picture
    number: int
    came: float


class Feed:
    """Reads a source ahead of who takes from it.

    Args:
        every: lose none, though they get old; else of a live source only the newest is kept.
    """

    def __init__(self, source: Source, *, every: bool, events: Events) -> None:
        self._source = source
        self._newest = source.live and not every
        self._events = events
        self._waiting: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._count = 0
        self._ended = self._closed = False
        self._error: EdgeError | None = None
        self._thread = threading.Thread(target=self._read, name="edge-video", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | None:
        """The next picture; None if none came in this time, or none will (``ended``).

        Raises:
            EdgeError: the source could not be opened, or a file broke.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout_s)
            if self._waiting:
                arrival = self._waiting.popleft()
                self._changed.notify_all()
                return arrival
            if self._error is not None:
                raise self._error
            return None

    @property
    def ended(self) -> bool:
        """Whether there will be no more pictures."""
        with self._changed:
            return self._ended and not self._waiting

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(1.0)  # one that waits for the network ends by itself, later

    def _read(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closed:
            before, why = self._count, "it ended"
            try:
                for picture in self._source.pictures(lambda: self._closed):
                    self._put(picture)
                    if self._closed:
                        break
            except EdgeError as error:
                self._error, why = error, error.problem
            except Exception as error:  # whatever it was, who takes must not wait for ever
                self._error = EdgeError("video", f"Reading the source failed: {error!r}"[:300], "Check the source")
            if not self._source.live or not self._count:
                break
            self._error = None
            if self._closed:
                break
            if self._count > before:
                pause = FIRST_PAUSE_S
                self._events.warn(f"the stream was lost ({why}); opening it again")
            self._wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, picture: Picture) -> None:
        with self._changed:
            if self._newest:
                self._waiting.clear()
            else:
                self._changed.wait_for(lambda: len(self._waiting) < AHEAD or self._closed)
            self._waiting.append(Arrival(picture, self._count, time.perf_counter()))
            self._count += 1
            self._changed.notify_all()

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)
