"""Where the time of a batch goes: decode, preprocess, and the stages of the engine, each timed
where it is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import TypeVar

from edge.graph import CLOSER, LOOK
from edge.measure.latency import Clock

# In the order an image passes them; an engine of one stage is ``engine``, what no stage accounts
# for ``other``.
STAGES = ("decode", "preprocess", "engine", LOOK, CLOSER, "other")
RUNS = 10
Image = TypeVar("Image")


def of_engine(run: Callable[[], Mapping[str, float]], p50_ms: float, runs: int = RUNS) -> dict[str, float]:
    """Median milliseconds of each stage of an engine, and of what it does between them.

    Args:
        run: one call of the engine, after which it tells the seconds inside each stage.
        p50_ms: the latency that they are parts of.
    """
    told = [run() for _ in range(runs)]
    stages = {name or "engine": median(each[name] for each in told) * 1e3 for name in told[0]}
    stages["other"] = max(0.0, p50_ms - sum(stages.values()))
    return {name: value for name, value in stages.items() if value > 0}


def of_images(
    decode: Callable[[int], Image],
    preprocess: Callable[[Image], object],
    indices: Iterable[int],
    batch: int,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Decode and preprocess one image after another; milliseconds of a batch, from the medians.

    Args:
        decode: image number → decoded image.
        preprocess: decoded image → network input.
    """
    decoding, preprocessing = [], []
    for index in indices:
        start = clock()
        image = decode(index)
        middle = clock()
        preprocess(image)
        decoding.append(middle - start)
        preprocessing.append(clock() - middle)
    if not decoding:
        return {}
    return {"decode": median(decoding) * batch * 1e3, "preprocess": median(preprocessing) * batch * 1e3}
