"""CUDA through one small interface: memory, streams, copies and captured graphs; here by NVIDIA's cuda-bindings."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from edge.errors import EdgeError, UnavailableError

LEGACY_STREAM = 1  # the stream that CUDA libraries use unless told otherwise; 0 may mean another one


@dataclass(frozen=True)
class Device:
    """A GPU. ``integrated``: it shares its memory with the CPU (Jetson). ``memory``: bytes in all."""

    name: str
    compute_capability: tuple[int, int]
    integrated: bool
    memory: int
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
    """Page-locked host memory: ``array`` (n,) uint8 over it, and its address for the GPU if it is mapped, else 0."""

    array: np.ndarray
    mapped: int
    owner: Any


class Cuda(Protocol):
    """What the runners need of CUDA. Addresses and handles are plain integers; every failure is an ``EdgeError``."""

    name: str

    def device(self) -> Device: ...
    def enter(self) -> None:
        """Make the context current in this thread."""

    def leave(self) -> None:
        """Undo ``enter``."""

    def stream(self) -> int: ...
    def synchronize(self, stream: int) -> None: ...
    def wait(self, stream: int, producer: int) -> None:
        """Let ``stream`` wait for what ``producer`` holds now."""

    def allocate(self, size: int) -> int: ...
    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer: ...
    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Between any two of host and device; asynchronous where the host side is page-locked."""

    def begin_capture(self, stream: int) -> None: ...
    def end_capture(self, stream: int) -> int:
        """The captured work as a launchable graph."""

    def launch(self, graph: int, stream: int) -> None: ...
    def release(self) -> None:
        """Free everything this object made."""


def present() -> tuple[Device | None, str, str]:
    """The GPU here; or None, why there is none, and what would change that. Makes no CUDA context."""
    try:
        cuda = Bindings()
    except EdgeError as error:
        return None, error.problem, error.fix
    try:
        return cuda.device(), "", ""
    except EdgeError as error:
        return None, f"no GPU answers ({error.problem})", "Run it on a machine with an NVIDIA GPU and driver, or use another backend"


class Bindings:
    """cuda-bindings (12.6 and later, or the older module ``cuda.cudart``), in the primary context of device 0."""

    name = "bindings"

    def __init__(self) -> None:
        self._cudart = _cudart()
        self._streams: list[int] = []
        self._memory: list[int] = []
        self._host: list[int] = []
        self._graphs: list[int] = []

    def _call(self, name: str, *arguments: Any) -> Any:
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
            facts.totalGlobalMem,
            version(self._call("cudaDriverGetVersion")),
            version(self._call("cudaRuntimeGetVersion")),
        )

    def free_memory(self) -> int:
        """Bytes of the GPU that nobody holds."""
        return int(self._call("cudaMemGetInfo")[0])

    def enter(self) -> None:
        self._call("cudaSetDevice", 0)

    def leave(self) -> None:
        pass  # the primary context stays current: that is how the runtime works

    def stream(self) -> int:
        # Non-blocking: the default stream of another library must not hold ours up.
        return self._kept(self._streams, self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def wait(self, stream: int, producer: int) -> None:
        event = self._call("cudaEventCreateWithFlags", self._cudart.cudaEventDisableTiming)
        try:
            self._call("cudaEventRecord", event, producer)
            self._call("cudaStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cudaEventDestroy", event)

    def allocate(self, size: int) -> int:
        return self._kept(self._memory, self._call("cudaMalloc", size))

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        flags = self._cudart.cudaHostAllocMapped if mapped else self._cudart.cudaHostAllocDefault
        address = self._kept(self._host, self._call("cudaHostAlloc", size, flags))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return HostBuffer(array, int(self._call("cudaHostGetDevicePointer", address, 0)) if mapped else 0, self)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", to, source, size, self._cudart.cudaMemcpyKind.cudaMemcpyDefault, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: another thread may allocate meanwhile.
        self._call("cudaStreamBeginCapture", stream, self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cudaStreamEndCapture", stream)
        if not int(graph):
            raise EdgeError("cuda", "The CUDA graph could not be captured", "Run without a graph")
        try:
            return self._kept(self._graphs, self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def release(self) -> None:
        for made, free in (
            (self._graphs, "cudaGraphExecDestroy"),
            (self._streams, "cudaStreamDestroy"),
            (self._memory, "cudaFree"),
            (self._host, "cudaFreeHost"),
        ):
            while made:
                self._call(free, made.pop())

    def _kept(self, made: list[int], handle: Any) -> int:
        made.append(int(handle))
        return int(handle)


def _cudart() -> Any:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):  # the second until 12.6
        try:
            return import_module(name)
        except ImportError as error:
            reason = error
    raise UnavailableError(
        "cuda",
        f"The package cuda-bindings does not import: {reason}",
        'pip install "cuda-bindings==12.9.*" for CUDA 12 (JetPack 6), or "cuda-bindings==13.*" for CUDA 13 (JetPack 7)',
    )


def _text(words: bytes | str) -> str:
    return words.decode() if isinstance(words, bytes) else str(words)


def version(number: int) -> str:
    """12060 → 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"
