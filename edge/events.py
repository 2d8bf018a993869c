"""Messages of a long call while it runs, for a terminal, a log or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Progress = Callable[[int, int], None]  # (done, total)


class Events(Protocol):
    """The receiver of messages. Library code never prints; parameters in ``text`` are in backticks,
    as in errors."""

    def say(self, name: str, text: str) -> None:
        """A finding: its name in one word (``int8``, ``gate``), and what was found."""

    def warn(self, text: str) -> None:
        """Something that may be wrong, although the work continues."""

    def progress(self, title: str, unit: str = "image") -> AbstractContextManager[Progress]:
        """A long stage; inside the ``with``, its callback is called with (done, total) in
        ``unit``."""


class Silent:
    """Discards everything."""

    def say(self, name: str, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, title: str, unit: str = "image") -> Iterator[Progress]:
        yield lambda done, total: None


SILENT: Events = Silent()
