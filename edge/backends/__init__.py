"""The runtimes that run a lowered graph: one module each, behind the contract in
``edge.backends.base``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edge.backends.base import Backend, Facts, Form, Native, Runner, Support
from edge.errors import EdgeError, UnavailableError, one_of
from edge.graph import WHOLE, Graph
from edge.spec import ImageSpec, ModelSpec, StagesSpec, TargetSpec

__all__ = ["AUTOMATIC", "BACKENDS", "Backend", "Form", "Runner", "Support"]

# Name → the module whose table ``PROVIDES`` has the backend under that name.
BACKENDS = {
    "openvino": "edge.backends.openvino",
    "onnxruntime": "edge.backends.onnxruntime",
    "tensorrt": "edge.backends.trt",
    "tensorrt-rtx": "edge.backends.trt",
}
AUTOMATIC = ("tensorrt", "openvino", "onnxruntime")  # the order in which `auto` looks
FORMER_LOWERINGS = {"tensorrt-rtx": "standard-nodes"}  # rows of edge.lower's table as bundles of version 0.1 name them
ON_GPU = frozenset({2, 13})  # DLPack's device kinds: CUDA, CUDA managed


def backend(name: str) -> Backend:
    """The backend of that name, its module imported now."""
    if name not in BACKENDS:
        raise EdgeError("backend", f"There is no backend {name!r}", f"Change `backend` to {one_of(BACKENDS)}")
    provided: Mapping[str, Backend] = import_module(BACKENDS[name]).PROVIDES
    return provided[name]


def probe(name: str) -> Support:
    """What that backend can do here; never raises for a missing library."""
    try:
        return backend(name).probe()
    except ImportError as error:
        return Support(reason=f"its module does not import: {error}", fix=f'pip install "mcar-edge[{name}]"')


def open_built(
    backend: Backend, folder: Path, target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
) -> Mapping[str, Runner]:
    """Load an engine that was just built into a folder; that of a bundle is loaded by
    ``edge.Engine``."""
    payload = {path.name: path.read_bytes() for path in folder.glob("engine.*")}
    return backend.open(payload, target, facts, cuda=cuda, graphs=graphs)


def stages_of(backend: Backend, lowered: Mapping[str, bytes], model: ModelSpec, target: TargetSpec) -> StagesSpec | None:
    """How a lowered graph runs on a backend; None where it is one stage."""
    if WHOLE in lowered:
        return None
    regions = model.options.get("regions")
    if not isinstance(regions, int) or regions < 1:
        raise EdgeError(
            "backend", f"The model's `regions` is {regions!r}, which is not a number of regions", "Build again from the weights"
        )
    return StagesSpec(backend.closer_sizes(regions, target))


def lowered(graph: Graph, target: TargetSpec, row: str | None = None, *, image: ImageSpec | None = None) -> dict[str, bytes]:
    """A canonical graph as a target's backend takes it, by stage; needs onnx.

    Args:
        row: of edge.lower's table; None: the one that it takes here.
        image: what the engine takes; None: what the graph does.
    """
    from edge.lower import lower_stages

    row = row or lowering(target.backend)
    return lower_stages(graph.parse(), target, row=row, in_stages=backend(target.backend).in_stages, image=image)


def lowering(name: str, support: Support | None = None) -> str:
    """The row of edge.lower's table that a backend takes, here or where it has that support."""
    return (support or probe(name)).lowering or backend(name).lowering


def lowering_of(manifest: Mapping[str, Any]) -> str:
    """The row that a bundle's lowered graphs were made by, under its name of today."""
    name = str(manifest.get("lowering") or manifest["target"]["backend"])
    return FORMER_LOWERINGS.get(name, name)


def usual_for(lowering: str, default: str) -> str:
    """The backend whose usual row that is; ``default`` where it is no backend's."""
    return next((name for name in BACKENDS if backend(name).lowering == lowering), default)


def describe_engine(name: str, facts: Facts) -> list[str]:
    """What an engine of that backend is made of, in sentences.

    Args:
        facts: the manifest's ``engine``, or any part of it; ``layers`` may come from
            ``Engine.layers``. Bundles are untrusted, so facts of the wrong form are reported as
            such.
    """
    if name not in BACKENDS:
        return []
    try:
        return backend(name).describe(facts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["what the manifest says of the engine has another form"]


def on_device(array: Native) -> bool:
    """Whether an array says that it lives on a GPU."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__"):  # arrays of any library are asked by protocol, and a protocol is known by its name
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in ON_GPU  # the same


def require(name: str, *, building: bool = False) -> Support:
    """The backend's support, refused in one line where it cannot run (or, when building, cannot
    build)."""
    support = probe(name)
    if support.reason and not (building and support.builds):
        others = [other for other in BACKENDS if other != name and not probe(other).reason]
        works = f" (working here: {', '.join(others)})" if others else ""
        raise UnavailableError("backend", f"{name} does not work here: {support.reason}{works}", support.fix)
    return support


def automatic(precision: str = "") -> str:
    """TensorRT if module and GPU are present, else OpenVINO, else ONNX Runtime; never one that
    refuses the precision."""
    for name in AUTOMATIC:
        support = probe(name)
        if not support.reason and not (precision == "int8" and support.no_int8):
            return name
    raise UnavailableError("backend", f"None of {', '.join(AUTOMATIC)} works here", 'Install one: pip install "mcar-edge[openvino]"')
