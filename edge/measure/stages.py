"""Where the time of a batch goes: decode, preprocess, and the stages inside the engine as far as its backend can tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import TypeVar

from edge.measure.latency import Clock

T = TypeVar("T")  # a decoded image
# In the order an image passes them. Those of the graph are the first parts of its node names.
STAGES = ("decode", "preprocess", "host_to_device", "global", "boxes", "crop", "local", "fuse", "device_to_host", "other")
OF_GRAPH = ("global", "boxes", "crop", "local", "fuse")


def of_nodes(seconds: Mapping[str, float], p50_ms: float | None = None) -> dict[str, float]:
    """Sum node times by stage, milliseconds.

    A node that a runtime made itself (a reorder, a conversion) has the name of the node it serves, with something before or
    behind; one without any known part is ``other``, and so is what of ``p50_ms`` no node accounts for.
    """
    stages = dict.fromkeys((*OF_GRAPH, "other"), 0.0)
    for name, value in seconds.items():
        stages[stage_of(name)] += value * 1e3
    if p50_ms is not None:
        stages["other"] += max(0.0, p50_ms - sum(stages.values()))
    return {name: value for name, value in stages.items() if value > 0}


def stage_of(node: str) -> str:
    """The stage a node belongs to, by the first part of its name that is one."""
    # ``boxes_2`` is a second node of the same kind; runtimes prefix with things like ``Reorder_``.
    for part in node.replace("_", "/").split("/"):
        if part in OF_GRAPH:
            return part
    return "other"


def of_images(
    decode: Callable[[int], T], preprocess: Callable[[T], object], indices: Iterable[int], batch: int, clock: Clock = time.perf_counter
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
