"""What engines take on the images that decide: an engine at all its efforts, two engines against
each other, memory, energy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import backends
from edge.bundle import Bundle
from edge.data import Dataset
from edge.engine import Engine
from edge.errors import EdgeError
from edge.image import preprocess
from edge.measure import energy
from edge.measure.effort import time_efforts
from edge.measure.outputs import sample

TIMED = 200  # images, at most, whose latency is measured
LIMIT_S = 15.0  # of measuring an engine's efforts
CALLS, ROUNDS, WARM = 16, 9, 4  # of a comparison: calls of a round, rounds, calls before them
# The peak of a process that does nothing but load the engine and run it.
PEAK = """
import sys
from pathlib import Path
from edge.report.bench import bench
from edge.report.options import BenchOptions
print(bench(BenchOptions(bundle=(Path(sys.argv[1]),), batch=(int(sys.argv[2]),), no_accuracy=True)).result.memory_mb.peak_rss)
"""

Place = tuple[Path, float]  # a bundle, at an effort


def timed(
    engine: Engine, images: Dataset, batch: int, efforts: Sequence[float], *, most: int = TIMED
) -> tuple[Mapping[float, NDArray[np.float64]], int]:
    """Seconds of every batch at every effort, interleaved; and how many images that were.

    Args:
        most: images.
    """
    some = images.subset(sample(len(images), most))
    return time_efforts(lambda given, effort: engine.infer(given, effort=effort), decoded(engine, some, batch), efforts, limit_s=LIMIT_S)


def figures(seconds: NDArray[np.float64], batch: int) -> dict[str, float]:
    """Latencies of batches as a ``Point`` names them."""
    ms = seconds * 1e3
    mean = float(ms.mean())
    p50, p90, p99 = np.percentile(ms, (50, 90, 99)).tolist()
    return {"mean_ms": mean, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "throughput": 1e3 * batch / mean}


def decoded(engine: Engine, images: Dataset, batch: int) -> Iterator[np.ndarray]:
    """Whole batches as the engine takes them; the first images again where they do not fill one."""
    for start in range(0, max(1, len(images) - batch + 1), batch):
        photos = [images[(start + place) % len(images)].image for place in range(batch)]
        yield np.stack([preprocess(photo, engine.bundle.image) for photo in photos])


def duel(challenger: Place, best: Place, images: Dataset, batch: int, metric: str) -> list[float]:
    """For each round the ratio of a latency (``mean`` or a percentile); above 1 the challenger is
    slower.

    Both take the same images interleaved, and who begins changes with every batch. Every round has
    images of its own: how many regions an engine processes, and so its latency, depends on them.
    """
    size = CALLS * batch
    chosen = sample(len(images), ROUNDS * size)
    ratios = []
    with ExitStack() as opened:
        pair = [(opened.enter_context(Engine.load(path, effort=1)), effort) for path, effort in (challenger, best)]
        for number in range(ROUNDS):
            some = images.subset([chosen[(number + ROUNDS * place) % len(chosen)] for place in range(size)])
            given = [list(decoded(engine, some, batch)) for engine, _ in pair]
            for (engine, effort), batches in zip(pair, given, strict=True):
                for one in batches[: WARM if number == 0 else 1]:  # decoding has put the threads to sleep
                    engine.infer(one, effort=effort)
            seconds: tuple[list[float], list[float]] = ([], [])
            for index in range(len(given[0])):
                for turn in (0, 1) if (index + number) % 2 == 0 else (1, 0):
                    engine, effort = pair[turn]
                    start = time.perf_counter()
                    engine.infer(given[turn][index], effort=effort)
                    seconds[turn].append(time.perf_counter() - start)
            mine, other = (_statistic(each, metric) for each in seconds)
            ratios.append(mine / other)
    return ratios


def energies(engine: Engine, images: Dataset, batch: int) -> dict[float, float]:
    """Millijoules of an image at effort 0 and 1; of an engine of one stage at 1.

    Raises:
        EdgeError: nothing here measures energy.
    """
    source, why = energy.find(gpu=backends.backend(engine.bundle.target.backend).on_gpu)
    if source is None:
        raise EdgeError("tune", f"Energy cannot be measured for {engine.bundle.target.backend}: {why}", "Change `budget`")
    given = next(decoded(engine, images, batch))
    efforts = (0.0, 1.0) if engine.bundle.stages is not None else (1.0,)
    return {effort: energy.per_image(partial(engine.infer, given, effort=effort), batch, source).mj_per_image for effort in efforts}


def peak_mb(bundle: Bundle, batch: int) -> float:
    """Most memory that a process with this engine alone held, in 10**6 bytes."""
    words = [sys.executable, "-c", PEAK, str(bundle.path.resolve()), str(batch)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        return float(run.stdout.strip().splitlines()[-1]) * 2**20 / 1e6
    except (ValueError, IndexError) as error:
        last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EdgeError("tune", f"Peak memory was not measured: {last[:200]}", "Remove peak_rss from `budget`") from error


def _statistic(seconds: Sequence[float], metric: str) -> float:
    return float(np.mean(seconds)) if metric == "mean" else float(np.percentile(seconds, int(metric[1:])))
