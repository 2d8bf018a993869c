"""Load over time and over threads."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from edge.measure.load import WINDOWS, arrive, soak, streams


def test_steady_soak_has_nothing_to_say(clock):
    found = soak(clock.call_taking(itertools.repeat(0.01)), 60, clock=clock, memory=lambda: 200.0)
    assert found.reasons == ()
    assert len(found.windows) == WINDOWS
    assert found.seconds == pytest.approx(60, abs=0.02)
    assert sum(window.calls for window in found.windows) == pytest.approx(6000, abs=1)


def test_latency_that_creeps_up_is_found(clock):
    call = clock.call_taking(0.01 * (1 + (clock.now - 100) / 300) for _ in itertools.count())
    found = soak(call, 60, clock=clock, memory=lambda: None)
    assert found.latency_drift == pytest.approx(0.15, abs=0.02)
    assert any("latency moved" in reason for reason in found.reasons)
    assert found.memory_growth_mb is None


def test_memory_that_leaks_is_found(clock):
    held = itertools.count(200, 5)
    found = soak(clock.call_taking(itertools.repeat(0.01)), 60, clock=clock, memory=lambda: float(next(held)))
    assert any("memory grew by 75 MB" in reason for reason in found.reasons)


def test_soak_shorter_than_its_calls_says_so(clock):
    found = soak(clock.call_taking(itertools.repeat(5.0)), 3, clock=clock, memory=lambda: 1.0)
    assert any("too short" in reason for reason in found.reasons)


def test_streams_run_at_once():
    inside, most, lock = [0], [0], threading.Lock()

    def call():
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        with lock:
            inside[0] -= 1

    streams(call, 3, images=1, seconds=0.1)
    assert most[0] == 3


def test_streams_count_the_images_of_all_callers():
    found = streams(lambda: time.sleep(0.01), 4, images=2, seconds=0.3)
    assert found.streams == 4
    assert 300 < found.throughput_images_per_s < 810
    assert found.latency_ms.p50 >= 10


def test_an_error_in_a_stream_is_raised():
    def call():
        raise ValueError("broken engine")

    with pytest.raises(ValueError, match="broken engine"):
        streams(call, 2, images=1, seconds=0.1)


class Line:
    """A clock that the engine's calls and the waiting move on."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.answered = 0.0, seconds, []

    def call(self, image: int) -> None:
        self.now += self.seconds
        self.answered.append(image)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-9)


def test_nothing_is_dropped_by_an_engine_that_keeps_up() -> None:
    line = Line(0.05)
    found = arrive(line.call, 10, 10, depth=2, clock=lambda: line.now, sleep=line.sleep)
    assert (found.offered, found.dropped) == (100, 0)
    assert line.answered == list(range(100))
    assert found.latency_ms.max == pytest.approx(50, abs=0.01)


def test_an_engine_that_is_too_slow_drops_what_its_queue_cannot_hold() -> None:
    line = Line(0.15)  # two of three can be answered
    found = arrive(line.call, 10, 60, depth=4, clock=lambda: line.now, sleep=line.sleep)
    assert found.offered == 600
    assert found.dropped == pytest.approx(200, abs=6)
    assert found.dropped + len(line.answered) == 600
    assert line.answered == sorted(line.answered)
    assert found.latency_ms.max <= 1e3 * 0.15 * 6
