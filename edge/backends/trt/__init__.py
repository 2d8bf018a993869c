"""TensorRT and TensorRT-RTX: two rows of one table.

TensorRT, on Jetson and data-centre GPUs, builds on the GPU it runs on. TensorRT-RTX builds
anywhere, without a GPU, and makes its kernels where it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.backends.base import Native
from edge.backends.trt.vendor import STANDARD_NODES, Vendor


def _tensorrt() -> Native:
    import tensorrt

    return tensorrt


def _tensorrt_rtx() -> Native:
    import tensorrt_rtx

    return tensorrt_rtx


PROVIDES: Mapping[str, Vendor] = {
    "tensorrt": Vendor(
        name="tensorrt",
        lowering="tensorrt",
        load=_tensorrt,
        install='On a Jetson: apt install python3-libnvinfer (JetPack 6.1 or later); else pip install "mcar-edge[tensorrt]"',
        plugins=True,
        for_other_gpus=False,
    ),
    "tensorrt-rtx": Vendor(
        name="tensorrt-rtx",
        lowering=STANDARD_NODES,
        load=_tensorrt_rtx,
        install='pip install "mcar-edge[tensorrt-rtx]"',
        plugins=False,
        for_other_gpus=True,
    ),
}
