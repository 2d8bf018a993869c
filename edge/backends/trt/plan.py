"""The files of a plan, and the logger of the library that makes and reads them."""

from __future__ import annotations

import zlib
from contextlib import suppress

from edge.backends.base import Native
from edge.errors import EdgeError

PAYLOAD = "engine.plan"
# TensorRT-RTX plans are mostly the source text of kernels: up to five times smaller when packed (zlib).
PACKED = "engine.plan.z"


def unpacked_plan(name: str, data: bytes, size: int) -> bytes:
    """A plan of that many bytes, unpacked where its file was packed."""
    if name == PACKED:
        with suppress(zlib.error):
            data = zlib.decompressobj().decompress(data, size)
    if len(data) != size:
        raise EdgeError("load", f"The plan {name} is damaged: it does not unpack to {size} bytes", "Rebuild the bundle")
    return data


def quiet_logger(trt: Native) -> Native:
    """A logger that keeps the last error instead of printing it."""

    class Quiet(trt.ILogger):  # type: ignore[misc]
        said = ""

        def log(self, severity: Native, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.said = " ".join(msg.split())[:300]

    return Quiet()
