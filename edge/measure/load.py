"""Engines under load: several callers at once, images that arrive on their own, and a long time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from edge.events import Progress
from edge.measure.latency import Clock, Latency, Percentiles
from edge.measure.memory import resident_mb

WINDOWS = 20
DRIFT = 0.05  # of the latency, from the first to the last quarter
GROWTH = 0.05  # of the memory, likewise
GROWTH_MB = 8.0  # growth below this is the allocator's


@dataclass(frozen=True)
class Streams:
    """Several callers at once.

    Attributes:
        streams: how many.
        throughput_images_per_s: of all together.
        latency_ms: as each caller saw it.
    """

    streams: int
    throughput_images_per_s: float
    latency_ms: Percentiles


def streams(call: Callable[[], object], count: int, *, images: int, seconds: float = 3.0, clock: Clock = time.perf_counter) -> Streams:
    """``count`` threads that call one after another without pause."""
    taken: list[list[float]] = [[] for _ in range(count)]
    errors: list[BaseException] = []
    ready = threading.Barrier(count + 1)
    stop = threading.Event()

    def work(mine: list[float]) -> None:
        try:
            call()
            ready.wait()
            while not stop.is_set():
                start = clock()
                call()
                mine.append(clock() - start)
        except threading.BrokenBarrierError:
            return
        except BaseException as error:
            errors.append(error)
            stop.set()
            ready.abort()

    threads = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in taken]
    for thread in threads:
        thread.start()
    begun = clock()
    try:
        ready.wait()
        begun = clock()
        stop.wait(seconds)
    except threading.BrokenBarrierError:
        pass
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    elapsed = clock() - begun
    latency = Latency(np.asarray([value for mine in taken for value in mine]), images)
    return Streams(count, len(latency.seconds) * images / elapsed, latency.percentiles)


@dataclass(frozen=True)
class Arrivals:
    """Images that arrived at a steady rate before an engine that takes one after another from a
    bounded queue.

    Attributes:
        rate: images per second.
        offered: how many arrived; dropped: how many of them found the queue full.
        latency_ms: of the others, from arrival to answer.
    """

    rate: float
    offered: int
    dropped: int
    latency_ms: Percentiles


def arrive(
    call: Callable[[int], object],
    rate: float,
    seconds: float,
    *,
    depth: int = 8,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Arrivals:
    """Let images arrive at even distances, whatever the engine does.

    Args:
        call: answers image number n.
        depth: images that may wait; one that finds so many waiting is dropped.
    """
    total, begun = max(1, int(rate * seconds)), clock()
    waiting: deque[int] = deque()
    taken: list[float] = []
    arrived = dropped = 0
    while arrived < total or waiting:
        now = clock() - begun
        while arrived < total and arrived / rate <= now:
            if len(waiting) < depth:
                waiting.append(arrived)
            else:
                dropped += 1
            arrived += 1
        if waiting:
            image = waiting.popleft()
            call(image)
            taken.append(clock() - begun - image / rate)
        else:
            sleep(arrived / rate - now)
    return Arrivals(rate, total, dropped, Latency(np.asarray(taken)).percentiles)


@dataclass(frozen=True)
class Window:
    """A part of a soak: when it ended, percentiles of its calls in milliseconds, and the memory
    held then, where it is told."""

    at_s: float
    p50: float
    p99: float
    rss_mb: float | None
    calls: int


@dataclass(frozen=True)
class Soak:
    """A long run in equal windows.

    Attributes:
        seconds: how long it ran.
        latency_drift: of the median latency from the first to the last quarter of the windows, as a
            share.
        memory_growth_mb: of the resident memory, likewise; None where it is not told.
        reasons: why the run did not hold still; empty when it did.
    """

    seconds: float
    windows: tuple[Window, ...]
    latency_drift: float
    memory_growth_mb: float | None
    reasons: tuple[str, ...]


def soak(
    call: Callable[[], object],
    seconds: float,
    *,
    clock: Clock = time.perf_counter,
    memory: Callable[[], float | None] = resident_mb,
    progress: Progress | None = None,
) -> Soak:
    """Call without pause for so long and watch latency and memory.

    Memory held is bounded: each window keeps its percentiles, not its samples.
    """
    windows: list[Window] = []
    begun = clock()
    for number in range(WINDOWS):
        taken: list[float] = []
        while clock() - begun < seconds * (number + 1) / WINDOWS or not taken:
            start = clock()
            call()
            taken.append(clock() - start)
        latency = Latency(np.asarray(taken))
        windows.append(Window(clock() - begun, latency.percentile_ms(50), latency.percentile_ms(99), memory(), len(taken)))
        if progress:
            progress(number + 1, WINDOWS)
        if clock() - begun >= seconds:
            break
    quarter = max(1, len(windows) // 4)
    first, last = windows[:quarter], windows[-quarter:]
    drift = median(one.p50 for one in last) / median(one.p50 for one in first) - 1
    held = [one.rss_mb for one in windows if one.rss_mb is not None]
    growth = median(held[-quarter:]) - median(held[:quarter]) if len(held) == len(windows) else None
    reasons = []
    if len(windows) < 4:
        reasons.append(f"too short: {len(windows)} windows of one call each say nothing about drift")
    elif abs(drift) > DRIFT:
        reasons.append(f"the median latency moved by {drift:+.0%} from the first to the last quarter (limit {DRIFT:.0%})")
    if growth is not None and growth > max(GROWTH_MB, GROWTH * held[0]):
        reasons.append(f"memory grew by {growth:.0f} MB from the first to the last quarter")
    return Soak(clock() - begun, tuple(windows), drift, growth, tuple(reasons))
