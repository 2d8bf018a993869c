"""CUDA through one small interface: memory, streams, copies and captured graphs; by one of two
adapters.

``bindings`` is NVIDIA's cuda-bindings, in the device's primary context. ``pycuda`` is for an
application that already lives in a PyCUDA context: its context is used, in whichever thread calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Native
from edge.errors import EdgeError, UnavailableError, one_of

Result = TypeVar("Result")

LEGACY_STREAM = 1  # the stream that CUDA libraries use unless told otherwise; 0 may mean another one


@dataclass(frozen=True)
class Device:
    """A GPU. ``integrated``: it shares its memory with the CPU (Jetson)."""

    name: str
    compute_capability: tuple[int, int]
    integrated: bool
    driver: str
    runtime: str

    def plain(self) -> dict[str, str]:
        """What a manifest says of the GPU."""
        return {
            "gpu": self.name,
            "compute_capability": ".".join(map(str, self.compute_capability)),
            "driver": self.driver,
            "cuda": self.runtime,
        }


@dataclass
class HostBuffer:
    """Page-locked host memory: ``array`` (n,) uint8 over it, and its address for the GPU if it is
    mapped, else 0."""

    array: NDArray[np.uint8]
    mapped: int
    owner: Native


def present() -> tuple[Device | None, str, str]:
    """The GPU here; or None, why there is none, and what would change that. Makes no CUDA
    context."""
    try:
        cuda = Bindings()
    except EdgeError as error:
        return None, error.problem, error.fix
    try:
        return cuda.device(), "", ""
    except EdgeError as error:
        return None, f"no GPU answers ({error.problem})", "Run it on a machine with an NVIDIA GPU and driver, or use another backend"


class Bindings:
    """cuda-bindings (12.6 and later, or the older module ``cuda.cudart``), in the primary context
    of device 0.

    Addresses and handles are plain integers; every failure is an ``EdgeError``.
    """

    name = "bindings"
    _cudart: Native = None

    def __init__(self) -> None:
        self._made: list[tuple[str, int]] = []  # what frees it, and the handle
        self._cudart = _cudart()

    def _call(self, name: str, *arguments: int) -> Native:
        code, *results = getattr(self._cudart, name)(*arguments)  # by name, to say which call failed
        if int(code):
            _, text = self._cudart.cudaGetErrorString(code)
            raise EdgeError("cuda", f"CUDA's {name} failed: {_text(text)}", "See what works here: python -m edge.doctor")
        return results[0] if len(results) == 1 else results

    def device(self) -> Device:
        if not self._call("cudaGetDeviceCount"):
            raise EdgeError("cuda", "There is no NVIDIA GPU", "Use another `backend`")
        facts = self._call("cudaGetDeviceProperties", 0)
        return Device(
            _text(facts.name).rstrip("\0"),
            (facts.major, facts.minor),
            bool(facts.integrated),
            version(self._call("cudaDriverGetVersion")),
            version(self._call("cudaRuntimeGetVersion")),
        )

    def free_memory(self) -> int:
        """Bytes of the GPU that nobody holds."""
        return int(self._call("cudaMemGetInfo")[0])

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context made current in this thread; the primary one stays so, for that is how the
        runtime works."""
        self._call("cudaSetDevice", 0)
        yield

    def stream(self) -> int:
        # Non-blocking: the default stream of another library must not hold ours up.
        return self._kept("cudaStreamDestroy", self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def wait(self, stream: int, producer: int) -> None:
        """Let ``stream`` wait for what ``producer`` holds now."""
        event = self._call("cudaEventCreateWithFlags", self._cudart.cudaEventDisableTiming)
        try:
            self._call("cudaEventRecord", event, producer)
            self._call("cudaStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cudaEventDestroy", event)

    def allocate(self, size: int) -> int:
        return self._kept("cudaFree", self._call("cudaMalloc", size))

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        flags = self._cudart.cudaHostAllocMapped if mapped else self._cudart.cudaHostAllocDefault
        address = self._kept("cudaFreeHost", self._call("cudaHostAlloc", size, flags))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return HostBuffer(array, int(self._call("cudaHostGetDevicePointer", address, 0)) if mapped else 0, self)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Between any two of host and device; asynchronous where the host side is page-locked."""
        self._call("cudaMemcpyAsync", to, source, size, self._cudart.cudaMemcpyKind.cudaMemcpyDefault, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: another thread may allocate meanwhile.
        self._call("cudaStreamBeginCapture", stream, self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> int:
        """The captured work as a launchable graph."""
        graph = self._call("cudaStreamEndCapture", stream)
        if not int(graph):
            raise EdgeError("cuda", "The CUDA graph could not be captured", "Run without a graph")
        try:
            return self._kept("cudaGraphExecDestroy", self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def release(self) -> None:
        """Free everything this object made."""
        while self._made:
            self._call(*self._made.pop())

    def _kept(self, free: str, handle: Native) -> int:
        self._made.append((free, int(handle)))
        return int(handle)


class PyCuda(Bindings):
    """PyCUDA, in the context that was current when the engine was loaded.

    PyCUDA has no captured graphs; where cuda-bindings is installed too, it captures on PyCUDA's
    streams.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            self._driver: Native = import_module("pycuda.driver")
        except ImportError as error:
            raise UnavailableError("cuda", f"PyCUDA cannot be imported: {error}", "Install it: pip install pycuda") from error
        self._context = self._try("get_current", self._driver.Context.get_current)
        if self._context is None:
            raise EdgeError(
                "cuda",
                "The thread that loads the engine has no current PyCUDA context",
                'Import pycuda.autoinit first, or load with cuda="bindings"',
            )
        with suppress(EdgeError):
            super().__init__()
        self._streams: dict[int, Native] = {}
        self._memory: list[Native] = []

    def _try(self, what: str, call: Callable[..., Result], *arguments: Native, **options: Native) -> Result:
        try:
            return call(*arguments, **options)
        except self._driver.Error as error:
            said = " ".join(str(error).split())
            raise EdgeError("cuda", f"PyCUDA's {what} failed: {said}", "Check the application's CUDA context") from error

    def device(self) -> Device:
        device = self._try("get_device", self._driver.Context.get_device)
        attribute = self._driver.device_attribute
        return Device(
            device.name(),
            tuple(device.compute_capability()),
            bool(device.get_attribute(attribute.INTEGRATED)),
            version(self._driver.get_driver_version()),
            ".".join(map(str, self._driver.get_version())),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        self._try("push", self._context.push)
        try:
            yield
        finally:
            self._try("pop", self._driver.Context.pop)

    def stream(self) -> int:
        stream = self._try("Stream", self._driver.Stream, 1)  # 1: CU_STREAM_NON_BLOCKING
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def synchronize(self, stream: int) -> None:
        self._try("synchronize", self._streams[stream].synchronize)

    def wait(self, stream: int, producer: int) -> None:
        if producer in (0, LEGACY_STREAM):
            event = self._try("record", self._driver.Event().record)
            self._try("wait_for_event", self._streams[stream].wait_for_event, event)
        else:  # PyCUDA cannot take a foreign stream
            self._try("synchronize", self._driver.Context.synchronize)

    def allocate(self, size: int) -> int:
        self._memory.append(self._try("mem_alloc", self._driver.mem_alloc, size))
        return int(self._memory[-1])

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._try("pagelocked_empty", self._driver.pagelocked_empty, size, np.uint8, mem_flags=flags)
        return HostBuffer(array, int(array.base.get_device_pointer()) if mapped else 0, array.base)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        # With unified addresses the driver tells host from device by the address.
        self._try("memcpy", self._driver.memcpy_dtod_async, to, source, size, self._streams[stream])

    def begin_capture(self, stream: int) -> None:
        if self._cudart is None:
            raise EdgeError("cuda", "PyCUDA alone cannot capture CUDA graphs", "Install cuda-bindings too")
        super().begin_capture(stream)

    def release(self) -> None:
        super().release()
        while self._memory:
            self._memory.pop().free()
        self._streams.clear()


def _cudart() -> Native:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):  # the second until 12.6
        try:
            return import_module(name)
        except ImportError as error:
            reason = error
    raise UnavailableError(
        "cuda",
        f"The package cuda-bindings cannot be imported: {reason}",
        'pip install "cuda-bindings==12.9.*" for CUDA 12 (JetPack 6), or "cuda-bindings==13.*" for CUDA 13 (JetPack 7)',
    )


def _text(words: bytes | str) -> str:
    return words.decode() if isinstance(words, bytes) else str(words)


def version(number: int) -> str:
    """12060 → 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


ADAPTERS: dict[str, Callable[[], Bindings]] = {"bindings": Bindings, "pycuda": PyCuda}


def open_cuda(name: str = "bindings") -> Bindings:
    """The adapter of that name: ``bindings`` or ``pycuda``."""
    if name not in ADAPTERS:
        raise EdgeError("cuda", f"There is no CUDA adapter {name!r}", f"Change `cuda` to {one_of(ADAPTERS)}")
    return ADAPTERS[name]()
