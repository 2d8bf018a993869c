"""TensorRT on Jetson and data-centre GPUs. Engines are built on the GPU they run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.backends import Support, _trt
from edge.backends._trt_run import Network
from edge.spec import TargetSpec


def _load() -> Any:
    import tensorrt

    return tensorrt


VENDOR = _trt.Vendor(
    backend="tensorrt",
    load=_load,
    install='On a Jetson: apt install python3-libnvinfer (JetPack 6.1 or later); else pip install "mcar-edge[tensorrt]"',
    plugins=True,
    portable=False,
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
