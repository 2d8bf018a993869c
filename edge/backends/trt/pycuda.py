"""CUDA by PyCUDA, for an application that already lives in a PyCUDA context."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from edge.backends.trt.cuda import LEGACY_STREAM, Bindings, Device, HostBuffer, version
from edge.errors import EdgeError, UnavailableError


class PyCuda:
    """PyCUDA, in the context that was current when the engine was loaded.

    PyCUDA has no captured graphs; where cuda-bindings is installed too, it captures on PyCUDA's streams.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            self._driver: Any = import_module("pycuda.driver")
        except ImportError as error:
            raise UnavailableError("cuda", f"PyCUDA does not import: {error}", "Install it: pip install pycuda") from error
        self._context = self._try("get_current", self._driver.Context.get_current)
        if self._context is None:
            raise EdgeError(
                "cuda",
                "No PyCUDA context is current in the thread that loads the engine",
                'Import pycuda.autoinit first, or load with cuda="bindings"',
            )
        try:
            self._graphs: Bindings | None = Bindings()
        except EdgeError:
            self._graphs = None
        self._streams: dict[int, Any] = {}
        self._memory: list[Any] = []

    def _try(self, what: str, call: Any, *arguments: Any, **options: Any) -> Any:
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
            device.total_memory(),
            version(self._driver.get_driver_version()),
            ".".join(map(str, self._driver.get_version())),
        )

    def enter(self) -> None:
        self._try("push", self._context.push)

    def leave(self) -> None:
        self._try("pop", self._driver.Context.pop)

    def stream(self) -> int:
        stream = self._try("Stream", self._driver.Stream, 1)  # 1: CU_STREAM_NON_BLOCKING
        self._streams[stream.handle] = stream
        return stream.handle

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
        self._capturing().begin_capture(stream)

    def end_capture(self, stream: int) -> int:
        return self._capturing().end_capture(stream)

    def launch(self, graph: int, stream: int) -> None:
        self._capturing().launch(graph, stream)

    def _capturing(self) -> Bindings:
        if self._graphs is None:
            raise EdgeError("cuda", "PyCUDA alone cannot capture CUDA graphs", "Install cuda-bindings too")
        return self._graphs

    def release(self) -> None:
        if self._graphs is not None:
            self._graphs.release()
        while self._memory:
            self._memory.pop().free()
        self._streams.clear()
