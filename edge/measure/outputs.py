"""What an engine says about a data set, image by image: the raw material of accuracy and drift."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge import cache
from edge.atomic import write_atomically
from edge.errors import EdgeError
from edge.events import Progress
from edge.graph import OUTPUTS, REGION_SCORES, Outputs
from edge.manifest import digest_json
from edge.measure.latency import Clock


@dataclass(frozen=True)
class Pass:
    """What an engine gave for all images, and the seconds that went by inside it and waiting for
    images."""

    outputs: Outputs = field(repr=False)
    inferring_s: float
    waiting_s: float


def collect(
    infer: Callable[[np.ndarray], Outputs],
    batches: Iterable[tuple[object, np.ndarray]],
    total: int,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Pass:
    """Run batches one after another; only the small outputs are kept, never an image.

    Args:
        batches: (names, (b, 3, S, S) float32).
        total: images to come, for the progress.

    Raises:
        EdgeError: there are no images, or a score is not finite.
    """
    kept: dict[str, list[np.ndarray]] = {}
    done, inferring = 0, 0.0
    begun = clock()
    for _, images in batches:
        start = clock()
        outputs = infer(images)
        inferring += clock() - start
        for name in (*OUTPUTS, REGION_SCORES):
            if name in outputs:
                kept.setdefault(name, []).append(np.array(outputs[name]))
        done += len(images)
        if progress:
            progress(done, total)
    if not done:
        raise EdgeError("bench", "There are no images", "Change `dataset` or `images`")
    values = {name: np.concatenate(parts) for name, parts in kept.items()}
    bad = np.flatnonzero(~np.isfinite(values["scores"]).all(axis=1))
    if len(bad):
        raise EdgeError(
            "bench",
            f"The scores are NaN or infinite for image {bad[0]} and {len(bad) - 1} others",
            "Rebuild the engine; python -m edge.doctor BUNDLE tells whether it fits this machine",
        )
    return Pass(values, inferring, clock() - begun - inferring)


def sample(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` indices at even distances, so that a sorted data set is not cut off:
    all where fewer."""
    if wanted >= count:
        return list(range(count))
    return [int(index) for index in (np.arange(wanted) * count) // wanted]


def cached(key: Mapping[str, object], make: Callable[[], Outputs], folder: Path | None = None) -> Outputs:
    """Outputs kept from an earlier run of the same key, else made now and kept.

    Args:
        key: plain values that decide the outputs: digests of graph and images, version of the
            runtime.
        folder: default ``$XDG_CACHE_HOME/mcar-edge/outputs``, else ``~/.cache/mcar-edge/outputs``.
    """
    path = (folder or cache.folder("outputs")) / f"{digest_json(key)}.npz"
    # NumPy, zipfile and zlib each raise their own of a damaged file.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as stored:
        values = {name: stored[name] for name in OUTPUTS if name in stored}
        if "scores" in values:
            return values
    outputs = make()
    packed = io.BytesIO()
    np.savez_compressed(packed, **outputs)  # type: ignore[arg-type]
    with contextlib.suppress(EdgeError):  # a cache that cannot be written is no reason to fail
        write_atomically(path, packed.getvalue())
    return outputs
