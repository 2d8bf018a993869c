"""One context of an engine with what it needs to run alone: a stream, buffers, and a CUDA graph where one can be captured."""

from __future__ import annotations

import numpy as np

from edge.backends.base import DeviceArray, Native
from edge.backends.trt.arrays import view
from edge.backends.trt.cuda import Bindings
from edge.errors import EdgeError
from edge.graph import INPUT

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "INT8": np.int8, "BOOL": np.bool_}
ALIGNMENT = 256  # bytes, as cudaMalloc aligns
MODES = ("pinned", "mapped")


class Lane:
    """One context with stream, buffers and, where it can be captured, a CUDA graph of copy in, run, copy out.

    All outputs lie in one arena, so that one copy brings them back.
    """

    def __init__(
        self, trt: Native, engine: Native, context: Native, cuda: Bindings, profile: int, batch: int, mode: str, logger: Native
    ) -> None:
        self.context, self._cuda, self._logger = context, cuda, logger
        self._stream = cuda.stream()
        self._graph = 0
        shape = (batch, *tuple(engine.get_tensor_shape(INPUT))[1:])
        self._require(context.set_optimization_profile_async(profile, self._stream), "select the profile")
        self._require(context.set_input_shape(INPUT, shape), f"take a batch of {batch}")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._forms: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}  # output → offset in the arena, shape, type
        end = 0
        for name in outputs:
            form, dtype = tuple(context.get_tensor_shape(name)), np.dtype(NUMPY[engine.get_tensor_dtype(name).name])
            self._forms[name] = (end, form, dtype)
            end += -(-int(np.prod(form)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._arena_bytes, self._input_bytes = end, int(np.prod(shape)) * 4

        self._mapped = mode == "mapped"
        self._host_in = cuda.allocate_host(self._input_bytes, mapped=self._mapped)
        self._host_out = cuda.allocate_host(end, mapped=self._mapped)
        self._images = self._host_in.array.view(np.float32).reshape(shape)
        self._images[:] = 0
        self._device_in = self._host_in.mapped or cuda.allocate(self._input_bytes)
        self._device_out = self._host_out.mapped or cuda.allocate(end)
        context.set_tensor_address(INPUT, self._device_in)
        for name, (offset, _, _) in self._forms.items():
            context.set_tensor_address(name, self._device_out + offset)

    def capture(self) -> str:
        """Record one call as a graph; returns why that was not possible, or nothing."""
        self._enqueue()  # once outside: the library allocates on its first call
        self._cuda.synchronize(self._stream)
        asked = hasattr(self.context, "is_stream_capturable")  # not every version can be
        if asked and not self.context.is_stream_capturable(self._stream):
            return "the engine says that it cannot be captured"
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                graph = self._cuda.end_capture(self._stream)
            self._graph = graph
            self._cuda.launch(graph, self._stream)
            self._cuda.synchronize(self._stream)
        except EdgeError as error:
            self._graph = 0
            return error.problem
        return ""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        np.copyto(self._images, images)
        if self._graph:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        arena = self._host_out.array
        return {
            name: arena[offset : offset + int(np.prod(form)) * dtype.itemsize].view(dtype).reshape(form).copy()
            for name, (offset, form, dtype) in self._forms.items()
        }

    def run_on_device(self, images: Native, count: int, owner: object) -> dict[str, DeviceArray]:
        """Runs without the graph, which would fetch the host's images; rows beyond ``count`` keep what they held.

        ``owner``: what the outputs keep alive.
        """
        found = view(images, self._stream)
        if found.stream is not None:
            self._cuda.wait(self._stream, found.stream)
        self._cuda.copy(self._device_in, found.address, int(np.prod(found.shape)) * 4, self._stream)
        self._execute()
        self._cuda.synchronize(self._stream)
        return {
            name: DeviceArray(self._device_out + offset, (count, *form[1:]), dtype, owner)
            for name, (offset, form, dtype) in self._forms.items()
        }

    def close(self) -> None:
        """Free what is its own; it cannot run any more."""
        del self.context, self._images, self._host_in, self._host_out
        self._cuda.release()

    def _enqueue(self) -> None:
        if not self._mapped:
            self._cuda.copy(self._device_in, self._host_in.array.ctypes.data, self._input_bytes, self._stream)
        self._execute()
        if not self._mapped:
            self._cuda.copy(self._host_out.array.ctypes.data, self._device_out, self._arena_bytes, self._stream)

    def _execute(self) -> None:
        self._require(self.context.execute_async_v3(self._stream), "run")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            said = self._logger.said or "it does not say why"
            raise EdgeError("infer", f"The engine does not {what}: {said}", "Rebuild the bundle here")
