"""Candidates on trial: an int8 graph run on its target, over validation images that are decoded
once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge import backends, lower
from edge.atomic import refusing_full_disk
from edge.backends.onnxruntime import Session
from edge.data import Dataset
from edge.data.pixels import cached_pixels
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import Progress
from edge.graph import Graph, Outputs
from edge.image import preprocess
from edge.measure.latency import interleave, timed
from edge.measure.outputs import collect
from edge.spec import TargetSpec

BATCH = 8
ROUNDS, TURN_S = 5, 0.3  # of the comparison with reduced float


class Trials:
    """Runs graphs over the same images. A context manager: its scratch folder (pixels, engines)
    goes when it ends.

    Args:
        dataset: validation images; labels are read by the caller.
        target: what the engine is for. Where it cannot run here, ONNX Runtime on the CPU stands in;
            ``stand_in`` tells.
        progress: called with (images decoded, images in all).
    """

    def __init__(self, dataset: Dataset, target: TargetSpec, *, progress: Progress | None = None) -> None:
        if len(dataset) == 0:
            raise EdgeError("calib", "The data set has no validation images", "Choose another `dataset`")
        self.dataset = dataset
        self.stand_in = not runs_here(target)
        backend = "onnxruntime" if self.stand_in else target.backend
        float16 = None if self.stand_in else target.float16
        self.target = TargetSpec(backend, target.precision, (1, BATCH), float16, backends.probe(backend).reduced_range)
        self._progress = progress
        self._open = ExitStack()
        self._scratch: Path | None = None
        self._pixels: NDArray[np.uint8] | None = None

    def __enter__(self) -> Trials:
        self._scratch = self._open.enter_context(scratch())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pixels = None
        self._open.__exit__(kind, error, trace)

    def reference(self, graph: Graph) -> Outputs:
        """Outputs of an fp32 graph on ONNX Runtime: what every drop is counted from."""
        session = Session(lower.reference(graph.parse()).SerializeToString())
        return collect(session, self._batches(graph), len(self.dataset)).outputs

    def run(self, graph: Graph, *, each: bool = False) -> Outputs:
        """Outputs of a graph in the target's precision, on the target; a gate tries dozens, so the
        engine goes at once.

        Args:
            each: also the scores of every region by itself.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as folder, engine_of(graph, self.target, Path(folder)) as engine:
            return collect(engine.infer_each if each else engine.infer, self._batches(graph), len(self.dataset)).outputs

    def _batches(self, graph: Graph) -> Iterator[tuple[object, np.ndarray]]:
        if self._pixels is None:
            self._pixels = cached_pixels(self.dataset, graph.image.size, self._folder, progress=self._progress)
        for start in range(0, len(self.dataset), BATCH):
            yield start, np.stack([preprocess(np.asarray(image), graph.image) for image in self._pixels[start : start + BATCH]])

    @property
    def _folder(self) -> Path:
        if self._scratch is None:
            raise RuntimeError("Trials is used as a context manager")
        return self._scratch


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is not kept, where the system has such (``TMPDIR``); a disk that fills up
    there is one line."""
    try:
        made = tempfile.TemporaryDirectory(prefix="mcar-edge-")
    except OSError as error:
        raise EdgeError(
            "calib", f"Cannot create a temporary folder: {error.strerror or error}", "Set TMPDIR to a writable folder"
        ) from error
    with made as folder, refusing_full_disk(Path(folder)):
        yield Path(folder)


def runs_here(target: TargetSpec) -> bool:
    """Whether an engine for ``target`` can be tried on this machine."""
    return not backends.probe(target.backend).reason


def engine_of(graph: Graph, target: TargetSpec, folder: Path) -> Engine:
    """An engine of a graph in a new folder below ``folder``."""
    return Engine.from_lowered(backends.lowered(graph, target), graph, target, Path(tempfile.mkdtemp(dir=folder)))


@dataclass(frozen=True)
class Speed:
    """Median milliseconds at batch 1 of int8 and of the target's reduced float (fp32 where it has
    none).

    Attributes:
        reduced: name of that float.
        ratio: int8 over float, as paired ratios: below 1 is faster.
    """

    backend: str
    int8_ms: float
    reduced: str
    float_ms: float
    ratio: float

    def __str__(self) -> str:
        return f"int8 {self.int8_ms:.1f} ms, {self.reduced} {self.float_ms:.1f} ms at batch 1 on {self.backend}"

    def plain(self) -> dict[str, str | float]:
        """For the bundle, as JSON types."""
        return {"backend": self.backend, "int8_ms": self.int8_ms, "float": self.reduced, "float_ms": self.float_ms, "ratio": self.ratio}


def compare_speed(int8: Graph, fp32: Graph, target: TargetSpec) -> Speed:
    """The two interleaved.

    Args:
        int8, fp32: the graph with Q/DQ, and the one without.
        target: of the int8 engine; it must run here.
    """
    float16 = backends.probe(target.backend).float16
    reduced = TargetSpec(target.backend, "int8", (1,), target.float16, target.reduced_range)
    plain = TargetSpec(target.backend, "fp16" if float16 else "fp32", (1,), float16)
    image = np.zeros((1, 3, int8.image.size, int8.image.size), np.float32)
    with scratch() as folder, engine_of(int8, reduced, folder) as one, engine_of(fp32, plain, folder) as other:
        turns = {"int8": timed(lambda: one.infer(image)), "float": timed(lambda: other.infer(image))}
        rounds = interleave(turns, rounds=ROUNDS, turn_s=TURN_S)
    int8_ms, float_ms = (rounds.latency(name).percentile_ms(50) for name in turns)
    return Speed(target.backend, int8_ms, float16 or "fp32", float_ms, rounds.compare("int8", "float").ratio)
