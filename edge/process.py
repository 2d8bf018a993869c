"""Where engines may be used: in the process that loaded the first one, not in a child forked from
it."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from edge.errors import EdgeError


class Abandoned(Protocol):
    """An engine, of which a forked child has only what its memory holds."""

    def abandon(self) -> None: ...


class Process:
    """The process that loaded an engine first.

    The threads of a vendor library do not survive a fork: a child that ran its parent's engine, or
    loaded one of its own into the library its parent has started, may hang, at the latest when it
    ends.
    """

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[Abandoned] = weakref.WeakSet()
        self._loaded_in: int | None = None

    def claim(self) -> None:
        """From now on engines belong to this process, unless they belong to one already."""
        self._loaded_in = self._loaded_in or os.getpid()

    def check(self, stage: str) -> None:
        if self._loaded_in not in (None, os.getpid()):
            raise EdgeError(
                stage,
                f"Engines work only in the process that loaded them, {self._loaded_in}; this is {os.getpid()}, forked after loading",
                'Load engines in each child after forking, or start processes with multiprocessing.get_context("spawn")',
            )

    def abandon(self) -> None:
        """In a forked child: engines of the parent are closed to it."""
        for engine in list(self.engines):
            engine.abandon()


PROCESS = Process()
if hasattr(os, "register_at_fork"):  # which Windows lacks
    os.register_at_fork(after_in_child=PROCESS.abandon)
