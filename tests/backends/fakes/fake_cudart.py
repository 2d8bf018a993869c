"""Plays the part of ``cuda.bindings.runtime`` that edge calls, in host memory.

Work on a stream happens when the stream is synchronised, not before: a missing synchronisation
shows as a wrong result.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

cudaStreamNonBlocking = 1
cudaEventDisableTiming = 2
cudaHostAllocDefault, cudaHostAllocMapped = 0, 2
cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

OK, INVALID, CAPTURED = 0, 1, 900
Work = Callable[[], None]

made: dict[tuple[str, int], Any] = {}  # (kind, handle or address) → blocks of memory, or lists of work
captures: dict[int, list[Work] | None] = {}
launches: list[int] = []
copies: list[tuple[int, int, int]] = []  # to, from, bytes: those that were done
handles = itertools.count(1001)


def holds(kind: str = "") -> int:
    """Things made and not freed."""
    return sum(kind in ("", each) for each, _ in made)


def enqueue(stream: int, work: Work) -> bool:
    """Put work on a stream, as the library does; false where the stream may not take it."""
    if ("stream", stream) not in made:
        raise AssertionError(f"work on stream {stream}, which is not ours: the default stream holds everything up")
    if stream in captures and os.environ.get("EDGE_FAKE_CAPTURE") == "refused":
        captures[stream] = None
        return False
    (captures[stream] if stream in captures else made["stream", stream]).append(work)
    return True


def _answer(*values: Any) -> Any:
    return lambda *_: (OK, *values)


def _make(kind: str, thing: Any, handle: int = 0) -> tuple[int, int]:
    handle = handle or next(handles)
    made[kind, handle] = thing
    return OK, handle


def _destroy(kind: str) -> Any:
    def destroy(handle: int) -> tuple[int]:
        del made[kind, handle]
        return (OK,)

    return destroy


cudaGetDeviceCount = _answer(1)
cudaDriverGetVersion = cudaRuntimeGetVersion = _answer(12060)
cudaMemGetInfo = _answer(4 << 30, 8 << 30)
cudaSetDevice = cudaEventRecord = _answer()
cudaStreamDestroy, cudaEventDestroy, cudaFree, cudaFreeHost = map(_destroy, ("stream", "event", "memory", "host"))
cudaGraphDestroy, cudaGraphExecDestroy = map(_destroy, ("graph", "executable"))


def cudaGetErrorString(code: int) -> tuple[int, bytes]:
    return OK, {INVALID: b"invalid argument", CAPTURED: b"operation not permitted when stream is capturing"}[code]


def cudaGetDeviceProperties(device: int) -> tuple[int, SimpleNamespace]:
    integrated = int(os.environ.get("EDGE_FAKE_INTEGRATED", "0"))
    return OK, SimpleNamespace(name=b"Orin", major=8, minor=7, integrated=integrated)


def cudaStreamCreateWithFlags(flags: int) -> tuple[int, int]:
    assert flags == cudaStreamNonBlocking
    return _make("stream", [])


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    if stream in captures:
        captures[stream] = None
        return (CAPTURED,)
    while made["stream", stream]:
        made["stream", stream].pop(0)()
    return (OK,)


def cudaMalloc(size: int) -> tuple[int, int]:
    block = (ctypes.c_uint8 * size)(*([0xFF] * min(size, 64)))
    return _make("memory", block, ctypes.addressof(block))


def cudaHostAlloc(size: int, flags: int) -> tuple[int, int]:
    block = (ctypes.c_uint8 * size)()
    return _make("host", block, ctypes.addressof(block))


def cudaHostGetDevicePointer(address: int, flags: int) -> tuple[int, int]:
    return OK, address


def cudaMemcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
    def copied() -> None:
        ctypes.memmove(to, source, size)
        copies.append((to, source, size))

    return (OK if enqueue(stream, copied) else CAPTURED,)


def cudaEventCreateWithFlags(flags: int) -> tuple[int, int]:
    return _make("event", None)


def cudaStreamWaitEvent(stream: int, event: int, flags: int) -> tuple[int]:
    return (OK if {("event", event), ("stream", stream)} <= set(made) else INVALID,)


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[int]:
    captures[stream] = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[int, int]:
    captured = captures.pop(stream)
    return (CAPTURED, 0) if captured is None else _make("graph", captured)


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[int, int]:
    return _make("executable", list(made["graph", graph]))


def cudaGraphLaunch(graph: int, stream: int) -> tuple[int]:
    launches.append(graph)
    made["stream", stream].extend(made["executable", graph])
    return (OK,)
