"""A clock that only moves when told, and a machine that is a tree of files."""

from __future__ import annotations

import pytest


class Clock:
    """Seconds that pass only in ``spend``."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds

    def call_taking(self, durations):
        """A call that takes the next of these durations each time."""
        durations = iter(durations)
        return lambda: self.spend(next(durations))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plant(tmp_path):
    """Writes files, path → text, below a root."""

    def write(files):
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return tmp_path

    return write
