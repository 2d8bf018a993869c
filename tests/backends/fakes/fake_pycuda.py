"""Plays the part of ``pycuda.driver`` that edge calls, over ``fake_cudart``; contexts are a stack
of each thread, as PyCUDA has them."""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import fake_cudart as cudart
import numpy as np

host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
device_attribute = SimpleNamespace(INTEGRATED=18)
_stacks = threading.local()


class Error(Exception):
    pass


def _stack() -> list[Context]:
    if not hasattr(_stacks, "all"):
        _stacks.all = []
    return _stacks.all


def _need_context() -> None:
    if not _stack():
        raise Error("invalid device context - no currently active context?")


class Context:
    @staticmethod
    def get_current() -> Context | None:
        return _stack()[-1] if _stack() else None

    @staticmethod
    def get_device() -> Any:
        _need_context()
        return SimpleNamespace(name=lambda: "Orin", compute_capability=lambda: (8, 7), get_attribute=lambda which: 0)

    @staticmethod
    def synchronize() -> None:
        _need_context()

    def push(self) -> None:
        _stack().append(self)

    @staticmethod
    def pop() -> None:
        _need_context()
        _stack().pop()


class Stream:
    def __init__(self, flags: int = 0) -> None:
        _need_context()
        self.handle = cudart.cudaStreamCreateWithFlags(flags)[1]

    def synchronize(self) -> None:
        _need_context()
        cudart.cudaStreamSynchronize(self.handle)

    def wait_for_event(self, event: Event) -> None:
        _need_context()

    def __del__(self) -> None:
        cudart.made.pop(("stream", self.handle), None)


class Event:
    def record(self, stream: Stream | None = None) -> Event:
        _need_context()
        return self


class _Allocation(int):
    def free(self) -> None:
        cudart.cudaFree(self)


def mem_alloc(size: int) -> _Allocation:
    _need_context()
    return _Allocation(cudart.cudaMalloc(size)[1])


def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    _need_context()
    return np.empty(shape, dtype)


def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
    _need_context()
    cudart.enqueue(stream.handle, lambda: ctypes.memmove(dest, src, size))


def get_driver_version() -> int:
    return 12060


def get_version() -> tuple[int, int, int]:
    return 12, 6, 0
