"""The calibration table: what was observed, of which graph, on which images. Reusable without the
images."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16  # which onnx brings

from calib.fingerprint import fingerprint
from calib.histogram import BINS, Histogram
from edge.atomic import write_atomically
from edge.errors import EdgeError
from edge.graph import Graph
from edge.manifest import digest_bytes
from edge.reading import read_whole

SCHEMA = 1
MAX_BYTES = 64 << 20
MAX_WEIGHTS = 1 << 28  # of a network
REMAKE = "Calibrate again: leave `calibration` out and pass `dataset`"


@dataclass(frozen=True)
class Fitted:
    """What replaces plain rounding (``calib.fit``).

    Attributes:
        method: how ranges were cut (``calib.scales.METHODS``) when it was fitted.
        steps: name of the weight → int8, as many as it has values: how many steps each is rounded
            away from the nearest.
        shifts: name of the convolution → (O,) float32, to be added to its bias. Streams have their
            own: they see other images.
    """

    method: str
    steps: Mapping[str, np.ndarray]
    shifts: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """Distributions of a graph's activations; independent of the method that turns them into
    scales.

    Attributes:
        graph: fingerprint of the fp32 graph that was observed (``calib.fingerprint``); in older
            tables the digest of its file.
        data: what it was observed on: ``name``, ``split``, ``digest``, ``seed``.
        images: how many images were used.
        coverage: class name → images that show it; empty for unlabelled images.
        ranges: value name → distribution over all images (and crops, in the local stream).
        means: value name → (channels,) float32, mean of each channel; images (or vectors) weigh the
            same.
        peaks: what the observed graph was equalised by (``calib.equalise``); empty where it was
            not.
        fitted: weights and biases fitted to some of the images; None where they were not.
    """

    graph: str
    data: Mapping[str, Any]
    images: int
    coverage: Mapping[str, int]
    ranges: Mapping[str, Histogram]
    means: Mapping[str, np.ndarray]
    peaks: Mapping[str, np.ndarray] = field(default_factory=dict)
    fitted: Fitted | None = None

    def belongs_to(self, graph: Graph) -> bool:
        """Whether it was of this graph, whichever exporter wrote it down."""
        return self.graph in (graph.digest, fingerprint(graph))

    def check_belongs(self, graph: Graph) -> None:
        """Refuse to serve any graph but the one that was observed."""
        if not self.belongs_to(graph):
            raise EdgeError(
                "calib",
                f"The calibration table belongs to graph {self.graph[:12]}…, not to this one, {fingerprint(graph)[:12]}…",
                f"{REMAKE}, or use the weights, size and options it was made with",
            )

    def check_covers(self, values: Iterable[str]) -> None:
        """Refuse to serve where range or channel means of a tensor were not observed."""
        needed = sorted(set(values))
        missing = [name for name in needed if name not in self.ranges or name not in self.means]
        if missing:
            named = missing[0] + (" …" if missing[1:] else "")
            raise EdgeError("calib", f"The calibration table lacks {len(missing)} of {len(needed)} tensors: {named}", REMAKE)

    def missing_classes(self) -> list[str]:
        """Classes that no calibration image shows."""
        return [name for name, count in self.coverage.items() if count == 0]

    @cached_property
    def text(self) -> str:
        """``calibration.json``."""
        ranges = {
            name: {"limit": each.limit, "minimum": each.minimum, "maximum": each.maximum, "counts": _packed(each.counts)}
            for name, each in self.ranges.items()
        }
        content = {
            "schema": SCHEMA,
            "graph": self.graph,
            "data": dict(self.data),
            "images": self.images,
            "coverage": dict(self.coverage),
            "ranges": ranges,
            "means": {name: _packed(each) for name, each in self.means.items()},
        }
        if self.peaks:
            content["peaks"] = {name: _packed(each) for name, each in self.peaks.items()}
        if self.fitted is not None:
            content["fitted"] = {
                "method": self.fitted.method,
                "steps": {name: _compressed(each.astype(np.int8).tobytes()) for name, each in self.fitted.steps.items()},
                "shifts": {name: _packed(each) for name, each in self.fitted.shifts.items()},
            }
        return json.dumps(content, indent=0) + "\n"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``text``."""
        return digest_bytes(self.text.encode())

    def save(self, path: Path | str) -> None:
        write_atomically(path, self.text)

    @classmethod
    def load(cls, path: Path | str) -> Calibration:
        """Read and check the form of a ``calibration.json``; ``check_belongs`` checks the rest."""
        path = Path(path)
        try:
            content = json.loads(read_whole(path, MAX_BYTES))
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}")
            ranges = {
                str(name): Histogram(_unpacked(each["counts"], BINS), *(float(each[key]) for key in ("limit", "minimum", "maximum")))
                for name, each in content["ranges"].items()
            }
            for name, each in ranges.items():
                _check_range(name, each)
            means = {str(name): _unpacked(each).astype(np.float32) for name, each in content["means"].items()}
            coverage = {str(name): int(count) for name, count in content["coverage"].items()}
            peaks = {str(name): _unpacked(each).astype(np.float32) for name, each in content.get("peaks", {}).items()}
            fitted = _fitted(content["fitted"]) if "fitted" in content else None
            return cls(str(content["graph"]), dict(content["data"]), int(content["images"]), coverage, ranges, means, peaks, fitted)
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
            reason = (
                error.strerror if isinstance(error, OSError) else f"no calibration.json of ours ({type(error).__name__} {str(error)[:80]})"
            )
            raise EdgeError("calib", f"Cannot read {path}: {reason}", REMAKE) from error


def _check_range(name: str, each: Histogram) -> None:
    """Refuse what no tensor was observed to have: a range that is not finite or is empty, or counts
    of nothing."""
    finite = all(map(math.isfinite, (each.limit, each.minimum, each.maximum)))
    if not (finite and each.limit >= 2.0**-100 and each.minimum <= each.maximum and each.largest <= each.limit):
        raise ValueError(f"{name} from {each.minimum:g} to {each.maximum:g} within {each.limit:g}")
    if each.counts.min() < 0 or each.counts.sum() <= 0:
        raise ValueError(f"{name} with no values")


def _fitted(content: Mapping[str, Any]) -> Fitted:
    steps, left = {}, MAX_WEIGHTS
    for name, text in content["steps"].items():
        steps[str(name)] = np.frombuffer(_decompressed(text, left), np.int8)
        left -= len(steps[name])
    shifts = {str(name): _unpacked(each).astype(np.float32) for name, each in content["shifts"].items()}
    return Fitted(str(content["method"]), steps, shifts)


def rounded(values: np.ndarray) -> np.ndarray:
    """float64 values as the table can hold them: bfloat16, relative error at most 1/256, counts
    below 257 exact."""
    return np.asarray(values, np.float32).astype(bfloat16).astype(np.float64)


def _packed(values: np.ndarray) -> str:
    codes = np.asarray(values, np.float32).astype(bfloat16).view(np.uint16)
    # High bytes hold sign and exponent, which hardly vary: apart from the low ones they compress to
    # nothing.
    planes = (codes >> 8).astype(np.uint8).tobytes() + (codes & 255).astype(np.uint8).tobytes()
    return _compressed(planes)


def _unpacked(text: str, count: int | None = None) -> np.ndarray:
    planes = _decompressed(text, 2 * (count or 1 << 16))
    if len(planes) % 2 or (count is not None and len(planes) != 2 * count):
        raise ValueError("numbers of another count")
    high, low = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    values: np.ndarray = ((high << 8) | low).view(bfloat16).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return values


def _compressed(values: bytes) -> str:
    return base64.b64encode(zlib.compress(values, 9)).decode()


def _decompressed(text: str, most: int) -> bytes:
    engine = zlib.decompressobj()
    values = engine.decompress(base64.b64decode(text, validate=True), max(1, most))
    if engine.unconsumed_tail or len(values) > most:
        raise ValueError("more numbers than there may be")
    return values
