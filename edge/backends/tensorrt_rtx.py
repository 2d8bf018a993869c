"""TensorRT-RTX on RTX GPUs. Engines are built anywhere, without a GPU, and make their kernels where they run."""

from __future__ import annotations

from typing import Any

from edge.backends import _trt


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
probe, build, open, check_fit = VENDOR.probe, VENDOR.build, VENDOR.open, VENDOR.check_fit
