"""TensorRT-RTX on RTX GPUs. Engines are built anywhere, without a GPU, and make their kernels where they run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.backends import Support, _trt
from edge.backends._trt_run import Network
from edge.spec import TargetSpec


def _load() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx


VENDOR = _trt.Vendor(
    backend="tensorrt-rtx",
    load=_load,
    install='pip install "mcar-edge[tensorrt-rtx]"',
    plugins=False,
    portable=True,
)


def probe() -> Support:
    return _trt.probe(VENDOR)


def build(lowered: bytes, target: TargetSpec, folder: Path, **options: Any) -> dict[str, Any]:
    """As the protocol says; options are those of ``_trt.build``."""
    return _trt.build(VENDOR, lowered, target, folder, **options)


def open(folder: Path, target: TargetSpec, facts: Mapping[str, Any], *, cuda: str = "bindings") -> Network:
    return Network(VENDOR, folder, target, facts, cuda)


def check_fit(facts: Mapping[str, Any], support: Support, rebuild: str) -> None:
    _trt.check_fit(VENDOR, facts, support, rebuild)
