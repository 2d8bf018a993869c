"""The plans of an engine: their files, what the manifest says of them, and the logger of the
library that makes and reads them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress

from edge.backends.base import Facts, Native
from edge.errors import EdgeError
from edge.graph import WHOLE

PACKED = ".z"  # how the name of a packed plan ends


def parts_of(facts: Facts) -> Mapping[str, Facts]:
    """What a manifest says of each plan, by stage, together with what it says of all. Facts of a
    whole graph are its one part."""
    stages = facts.get("stages")
    if stages is None:
        return {WHOLE: facts}
    shared = {name: value for name, value in facts.items() if name != "stages"}
    return {stage: {**shared, **own} for stage, own in stages.items()}


def plan_file(stage: str, *, packed: bool) -> str:
    """The file of a stage's plan."""
    return (f"engine.{stage}.plan" if stage else "engine.plan") + (PACKED if packed else "")


def packed_plan(name: str, plan: bytes) -> bytes:
    """What a plan's file holds. TensorRT-RTX plans are mostly the source text of kernels: up to
    five times smaller when packed (zlib)."""
    return zlib.compress(plan, 6) if name.endswith(PACKED) else plan


def unpacked_plan(name: str, data: bytes, size: int) -> bytes:
    """A plan of that many bytes, unpacked where its file was packed."""
    if name.endswith(PACKED):
        with suppress(zlib.error):
            data = zlib.decompressobj().decompress(data, size)
    if len(data) != size:
        raise EdgeError("load", f"The plan {name} is damaged: it does not decompress to {size} bytes", "Rebuild the bundle")
    return data


def quiet_logger(trt: Native) -> Native:
    """A logger that keeps the last error instead of printing it."""

    class Quiet(trt.ILogger):  # type: ignore[misc]
        said = ""

        def log(self, severity: Native, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.said = " ".join(msg.split())[:300]

    return Quiet()
