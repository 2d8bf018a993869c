"""What runs a lowered graph. One file per runtime, all behind the same two methods: ``build`` and ``open``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.errors import EdgeError, UnavailableError, one_of
from edge.manifest import REBUILD
from edge.spec import TargetSpec

BACKENDS = {
    "openvino": "edge.backends.openvino",
    "onnxruntime": "edge.backends.onnxruntime",
    "tensorrt": "edge.backends.tensorrt",
    "tensorrt-rtx": "edge.backends.tensorrt_rtx",
}
AUTOMATIC = ("tensorrt", "openvino", "onnxruntime")  # the order in which `auto` looks


@dataclass(frozen=True)
class Support:
    """What a backend can do on this machine.

    Attributes:
        reason: why it cannot run here; empty when it can.
        fix: the one line that would change that.
        version: of the vendor library; empty when it is not installed.
        device: the processor it would run on, in words.
        float16: the 16-bit float of precision ``fp16`` here (``bf16`` or ``fp16``); None where it has none.
        builds: whether it can at least build engines here (TensorRT-RTX builds without a GPU).
        int8_float16: the 16-bit float that precision ``int8`` gives to what it does not quantise; None leaves it in fp32.
        lowering: the row of edge.lower's table that it takes here, where that is not its own (TensorRT without our plugin).
    """

    reason: str = ""
    fix: str = ""
    version: str = ""
    device: str = ""
    float16: str | None = None
    builds: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    int8_float16: str | None = None
    lowering: str = ""


@dataclass(frozen=True)
class Form:
    """Of an input or output: its element type, as NumPy names it, and its shape; None stands for a size that is left open."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('B' if size is None else str(size) for size in self.shape)})"


class Runner(Protocol):
    """A loaded engine for the batches of its target. Calls from several threads are allowed."""

    def forms(self) -> dict[str, Form]:
        """What the engine takes and gives, by name."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images: (B, 3, S, S) float32 with B one of the target's batches → outputs by name, the caller's to keep."""

    def close(self) -> None: ...


class Backend(Protocol):
    """What a backend module provides."""

    def probe(self) -> Support: ...

    def build(self, lowered: bytes, target: TargetSpec, folder: Path) -> dict[str, Any]:
        """Write the engine payload ``engine.*`` into the folder; returns plain facts for the manifest."""

    def open(self, payload: Mapping[str, bytes], target: TargetSpec, facts: Mapping[str, Any]) -> Runner:
        """Load what ``build`` wrote: the contents of the files ``engine.*``, by name."""


def backend(name: str) -> Backend:
    """The backend module of that name, imported now."""
    if name not in BACKENDS:
        raise EdgeError("backend", f"There is no backend {name!r}", f"Change `backend` to {one_of(BACKENDS)}")
    return import_module(BACKENDS[name])  # type: ignore[return-value]


def probe(name: str) -> Support:
    """What that backend can do here; never raises for a missing library."""
    try:
        return backend(name).probe()
    except ImportError as error:
        return Support(reason=f"its module does not import: {error}", fix=f'pip install "mcar-edge[{name}]"')


def open_built(backend: Backend, folder: Path, target: TargetSpec, facts: Mapping[str, Any], **options: Any) -> Runner:
    """Load an engine that was just built into a folder; that of a bundle is loaded by ``edge.Engine``."""
    return backend.open({path.name: path.read_bytes() for path in folder.glob("engine.*")}, target, facts, **options)


def engine_file(payload: Mapping[str, bytes], name: str) -> bytes:
    """One of the files of an engine, refused in one line where there is none."""
    if name not in payload:
        raise EdgeError("load", f"The engine has no file {name}", REBUILD)
    return payload[name]


@contextmanager
def vendor_errors(stage: str, problem: str, fix: str) -> Iterator[None]:
    """Whatever a vendor library raises becomes our error, with its words: ``[stage] problem: words. fix.``"""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise EdgeError(stage, f"{problem}: {words}", fix) from error


def lowering(name: str) -> str:
    """The row of edge.lower's table that a backend takes here."""
    return probe(name).lowering or name


def account(facts: Mapping[str, Any]) -> list[str]:
    """What an engine is made of, in sentences.

    Args:
        facts: the manifest's ``engine``, or any part of it; ``layers`` may come from ``Engine.layers``. A bundle comes from outside:
            facts of another form are said to be so.
    """
    try:
        return _account(facts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["what the manifest says of the engine has another form"]


def _account(facts: Mapping[str, Any]) -> list[str]:
    said = []
    network, layers = facts.get("network"), facts.get("layers")
    if network:
        said.append(f"parsed: {network['layers']} layers; {network['int8_convolutions']} of {network['convolutions']} convolutions in int8")
    if layers and "unread" in layers:
        said.append(f"engine: its layers could not be read: {layers['unread']}")
    elif layers:
        kinds = ", ".join(f"{count} {kind or 'of unknown type'}" for kind, count in layers["precisions"].items())
        share = layers.get("int8_share")
        read = "" if share is None else f"; {share:.0%} of the convolutions read int8"
        said.append(f"engine: {layers['layers']} layers ({kinds}), {layers['reformats']} reformats, {layers['casts']} casts{read}")
    if "regions" in facts:
        gpu = facts.get("machine", {}).get("gpu")
        where = f"built on {gpu}" if gpu else "built on a machine without a GPU and never run there: try it where it shall run"
        said.append(f"boxes and crops by {facts['regions']}; {where}")
    return said


def on_device(array: Any) -> bool:
    """Whether an array lives on a GPU."""
    if isinstance(array, np.ndarray):
        return False
    from edge.backends._device_arrays import on_device as asked

    return asked(array)


def require(name: str, *, building: bool = False) -> Support:
    """The backend's support, refused in one line where it cannot run (or, when building, cannot build)."""
    support = probe(name)
    if support.reason and not (building and support.builds):
        others = [other for other in BACKENDS if other != name and not probe(other).reason]
        works = f" (working here: {', '.join(others)})" if others else ""
        raise UnavailableError("backend", f"{name} does not work here: {support.reason}{works}", support.fix)
    return support


def automatic() -> str:
    """TensorRT where module and GPU are there, else OpenVINO, else ONNX Runtime."""
    for name in AUTOMATIC:
        if not probe(name).reason:
            return name
    raise UnavailableError("backend", f"None of {', '.join(AUTOMATIC)} works here", 'Install one: pip install "mcar-edge[openvino]"')
