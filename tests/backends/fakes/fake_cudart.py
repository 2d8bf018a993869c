"""Plays the part of ``cuda.bindings.runtime`` that edge calls, in host memory.

Work on a stream happens when the stream is synchronised, not before: a missing synchronisation shows as a wrong result.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from types import SimpleNamespace

cudaStreamNonBlocking = 1
cudaEventDisableTiming = 2
cudaHostAllocDefault, cudaHostAllocMapped = 0, 2
cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

OK, INVALID, CAPTURED = 0, 1, 900
Work = Callable[[], None]


class State:
    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.host: dict[int, ctypes.Array] = {}
        self.streams: dict[int, list[Work]] = {}
        self.captures: dict[int, list[Work] | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.events: set[int] = set()
        self.next = 1000
        self.launches = 0

    def handle(self) -> int:
        self.next += 1
        return self.next


state = State()


def reset() -> None:
    global state
    state = State()


def holds() -> int:
    """Things made and not freed."""
    return len(state.memory) + len(state.host) + len(state.streams) + len(state.graphs) + len(state.events)


def enqueue(stream: int, work: Work) -> bool:
    """Put work on a stream, as the library does; false where the stream may not take it."""
    if stream not in state.streams:
        raise AssertionError(f"work on stream {stream}, which is not ours: the default stream holds everything up")
    if stream in state.captures:
        if os.environ.get("EDGE_FAKE_CAPTURE") == "refused":
            state.captures[stream] = None
            return False
        captured = state.captures[stream]
        assert captured is not None
        captured.append(work)
    else:
        state.streams[stream].append(work)
    return True


def cudaGetDeviceCount() -> tuple[int, int]:
    return OK, 1


def cudaGetErrorString(code: int) -> tuple[int, bytes]:
    return OK, {INVALID: b"invalid argument", CAPTURED: b"operation not permitted when stream is capturing"}[code]


def cudaGetDeviceProperties(device: int) -> tuple[int, SimpleNamespace]:
    integrated = int(os.environ.get("EDGE_FAKE_INTEGRATED", "0"))
    return OK, SimpleNamespace(name=b"Orin", major=8, minor=7, integrated=integrated, totalGlobalMem=8 << 30)


def cudaDriverGetVersion() -> tuple[int, int]:
    return OK, 12060


def cudaRuntimeGetVersion() -> tuple[int, int]:
    return OK, 12060


def cudaMemGetInfo() -> tuple[int, int, int]:
    return OK, 4 << 30, 8 << 30


def cudaSetDevice(device: int) -> tuple[int]:
    return (OK,)


def cudaStreamCreateWithFlags(flags: int) -> tuple[int, int]:
    assert flags == cudaStreamNonBlocking
    handle = state.handle()
    state.streams[handle] = []
    return OK, handle


def cudaStreamDestroy(stream: int) -> tuple[int]:
    del state.streams[stream]
    return (OK,)


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    if stream in state.captures:
        state.captures[stream] = None
        return (CAPTURED,)
    while state.streams[stream]:
        state.streams[stream].pop(0)()
    return (OK,)


def cudaMalloc(size: int) -> tuple[int, int]:
    block = (ctypes.c_uint8 * size)(*([0xFF] * min(size, 64)))
    state.memory[ctypes.addressof(block)] = block
    return OK, ctypes.addressof(block)


def cudaFree(address: int) -> tuple[int]:
    del state.memory[address]
    return (OK,)


def cudaHostAlloc(size: int, flags: int) -> tuple[int, int]:
    block = (ctypes.c_uint8 * size)()
    state.host[ctypes.addressof(block)] = block
    return OK, ctypes.addressof(block)


def cudaHostGetDevicePointer(address: int, flags: int) -> tuple[int, int]:
    return OK, address


def cudaFreeHost(address: int) -> tuple[int]:
    del state.host[address]
    return (OK,)


def cudaMemcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
    return (OK if enqueue(stream, lambda: ctypes.memmove(to, source, size)) else CAPTURED,)


def cudaEventCreateWithFlags(flags: int) -> tuple[int, int]:
    handle = state.handle()
    state.events.add(handle)
    return OK, handle


def cudaEventRecord(event: int, stream: int) -> tuple[int]:
    return (OK,)


def cudaStreamWaitEvent(stream: int, event: int, flags: int) -> tuple[int]:
    return (OK if event in state.events and stream in state.streams else INVALID,)


def cudaEventDestroy(event: int) -> tuple[int]:
    state.events.remove(event)
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[int]:
    state.captures[stream] = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[int, int]:
    captured = state.captures.pop(stream)
    if captured is None:
        return CAPTURED, 0
    handle = state.handle()
    state.graphs[handle] = captured
    return OK, handle


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[int, int]:
    handle = state.handle()
    state.graphs[handle] = list(state.graphs[graph])
    return OK, handle


def cudaGraphDestroy(graph: int) -> tuple[int]:
    del state.graphs[graph]
    return (OK,)


def cudaGraphExecDestroy(graph: int) -> tuple[int]:
    del state.graphs[graph]
    return (OK,)


def cudaGraphLaunch(graph: int, stream: int) -> tuple[int]:
    state.launches += 1
    state.streams[stream].extend(state.graphs[graph])
    return (OK,)
