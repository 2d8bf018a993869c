"""What runs a lowered graph. One file per runtime, all behind the same two methods: ``build`` and ``open``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.errors import EdgeError, UnavailableError, one_of
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


class Runner(Protocol):
    """A loaded engine for the batches of its target. Calls from several threads are allowed."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images: (B, 3, S, S) float32 with B one of the target's batches → outputs by name, the caller's to keep."""

    def close(self) -> None: ...


class Backend(Protocol):
    """What a backend module provides."""

    def probe(self) -> Support: ...

    def build(self, lowered: bytes, target: TargetSpec, folder: Path) -> dict[str, Any]:
        """Write the engine payload ``engine.*`` into the folder; returns plain facts for the manifest."""

    def open(self, folder: Path, target: TargetSpec, facts: Mapping[str, Any]) -> Runner:
        """Load the payload that ``build`` wrote."""


def backend(name: str) -> Backend:
    """The backend module of that name, imported now."""
    if name not in BACKENDS:
        raise EdgeError("backend", "the backend must be known", got=name, expected=one_of(BACKENDS), do="Change --backend")
    return import_module(BACKENDS[name])  # type: ignore[return-value]


def probe(name: str) -> Support:
    """What that backend can do here; never raises for a missing library."""
    try:
        return backend(name).probe()
    except ImportError as error:
        return Support(reason=f"its module does not import: {error}", fix=f'pip install "mcar-edge[{name}]"')


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
        raise UnavailableError(
            "backend",
            f"{name} must work here",
            got=support.reason,
            expected=f"a working {name}" + (f" (working here: {', '.join(others)})" if others else ""),
            do=support.fix,
        )
    return support


def automatic() -> str:
    """TensorRT where module and GPU are there, else OpenVINO, else ONNX Runtime."""
    for name in AUTOMATIC:
        if not probe(name).reason:
            return name
    raise UnavailableError(
        "backend", "one backend must work here", got="none", expected=one_of(AUTOMATIC), do='Install one: pip install "mcar-edge[openvino]"'
    )
