"""TensorRT on Jetson and data-centre GPUs. Engines are built on the GPU they run on."""

from __future__ import annotations

from typing import Any

from edge.backends import _trt


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
probe, build, open, check_fit = VENDOR.probe, VENDOR.build, VENDOR.open, VENDOR.check_fit
