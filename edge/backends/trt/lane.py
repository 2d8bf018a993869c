"""One context of an engine with what it needs to run alone: a stream, buffers, and a CUDA graph
where one can be captured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge.backends.base import DeviceArray, Native
from edge.backends.trt.arrays import View
from edge.backends.trt.cuda import Bindings
from edge.errors import EdgeError
from edge.graph import INPUT

NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
ALIGNMENT = 256  # bytes, as cudaMalloc aligns
MODES = ("pinned", "mapped")


class Arena:
    """Arrays side by side in one buffer of the host and one of the GPU, so that one copy moves them
    all.

    Attributes:
        arrays: those of the host, by name; zeros at first.
        addresses: those of the GPU.
    """

    def __init__(self, cuda: Bindings, forms: Mapping[str, tuple[tuple[int, ...], np.dtype]], *, mapped: bool) -> None:
        places, end = {}, 0
        for name, (shape, dtype) in forms.items():
            size = int(np.prod(shape)) * dtype.itemsize
            places[name] = slice(end, end + size)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        self._cuda, self._bytes = cuda, end
        self._host = cuda.allocate_host(end, mapped=mapped)
        self._host.array[:] = 0
        self._device = self._host.mapped or cuda.allocate(end)
        self.arrays = {name: self._host.array[places[name]].view(dtype).reshape(shape) for name, (shape, dtype) in forms.items()}
        self.addresses = {name: self._device + place.start for name, place in places.items()}

    def send(self, stream: int) -> None:
        """To the GPU."""
        if not self._host.mapped:
            self._cuda.copy(self._device, self._host.array.ctypes.data, self._bytes, stream)

    def fetch(self, stream: int) -> None:
        """To the host."""
        if not self._host.mapped:
            self._cuda.copy(self._host.array.ctypes.data, self._device, self._bytes, stream)


class Lane:
    """One context with stream, buffers and, where it can be captured, a CUDA graph.

    A lane holds the images of one call: ``load`` brings them to the GPU, ``run`` computes. A lane
    beside it reads the same images on the same stream, and copies only its other inputs.

    Attributes:
        stream: on which all of its work goes.
        cuda: what is made by it is freed with the lane.
        shape: of its images.
        beside: the lanes beside this one, by what their owner tells them apart. They end with it.

    Args:
        shapes: of the inputs, by name.
        images: the lane whose images this one reads, made with the same ``cuda``.
    """

    def __init__(
        self,
        trt: Native,
        engine: Native,
        context: Native,
        cuda: Bindings,
        profile: int,
        shapes: Mapping[str, tuple[int, ...]],
        mode: str,
        logger: Native,
        images: Lane | None = None,
    ) -> None:
        self.context, self.mode, self.cuda, self._logger = context, mode, cuda, logger
        self.shape = shapes[INPUT]
        self.beside: dict[int, Lane] = {}
        self.stream: int = images.stream if images else cuda.stream()
        self._beside_another = images is not None
        self._graph = self._count = 0
        self._require(context.set_optimization_profile_async(profile, self.stream), "select the profile")
        for name, shape in shapes.items():
            self._require(context.set_input_shape(name, shape), f"take {name} {shape}")

        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        types = {name: np.dtype(NUMPY[engine.get_tensor_dtype(name).name]) for name in names}
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT}
        inputs = {name: shape for name, shape in shapes.items() if images is None or name != INPUT}
        self._in, self._out = (
            Arena(cuda, {name: (shape, types[name]) for name, shape in each.items()}, mapped=mode == "mapped") for each in (inputs, outputs)
        )
        self._images: int = images._images if images else self._in.addresses[INPUT]
        for name, address in {INPUT: self._images, **self._in.addresses, **self._out.addresses}.items():
            context.set_tensor_address(name, address)

    def capture(self) -> str:
        """Record one ``run`` as a graph; returns why that was not possible, or nothing."""
        self._in.send(self.stream)
        self._enqueue()  # once outside: the library allocates on its first call
        self.cuda.synchronize(self.stream)
        asked = hasattr(self.context, "is_stream_capturable")  # not every version can be
        if asked and not self.context.is_stream_capturable(self.stream):
            return "the engine says that it cannot be captured"
        try:
            self.cuda.begin_capture(self.stream)
            try:
                self._enqueue()
            finally:
                graph = self.cuda.end_capture(self.stream)
            self._graph = graph
            self.cuda.launch(graph, self.stream)
            self.cuda.synchronize(self.stream)
        except EdgeError as error:
            self._graph = 0
            return error.problem
        return ""

    def load(self, images: np.ndarray | View) -> None:
        """Copy images (B, 3, S, S) float32 to the GPU, or there, B at most the lane's batch; rows
        beyond keep what they held.

        An array on the GPU must live until the next ``run`` has ended.
        """
        self._count = images.shape[0]
        if isinstance(images, np.ndarray):
            self._in.arrays[INPUT][: self._count] = images
            self._in.send(self.stream)
        else:
            if images.stream is not None:
                self.cuda.wait(self.stream, images.stream)
            self.cuda.copy(self._images, images.address, int(np.prod(images.shape)) * images.dtype.itemsize, self.stream)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs other than the images, by name → outputs by name, as many rows as were loaded; of
        a lane beside another all rows."""
        for name, value in inputs.items():
            np.copyto(self._in.arrays[name], value)
        if self._graph:
            self.cuda.launch(self._graph, self.stream)
        else:
            self._enqueue()
        self.cuda.synchronize(self.stream)
        return {name: _kept(value[: self._count or None]) for name, value in self._out.arrays.items()}

    def run_on_device(self, owner: object) -> dict[str, DeviceArray]:
        """Runs without the graph, which would fetch the outputs, and leaves them on the GPU.

        ``owner``: what the outputs keep alive.
        """
        self._require(self.context.execute_async_v3(self.stream), "run")
        self.cuda.synchronize(self.stream)
        return {
            name: DeviceArray(self._out.addresses[name], (self._count, *value.shape[1:]), value.dtype, owner)
            for name, value in self._out.arrays.items()
        }

    def close(self) -> None:
        """Free what is its own, and the lanes beside it; it cannot run any more."""
        self.beside.clear()
        del self.context, self._in, self._out
        self.cuda.release()

    def _enqueue(self) -> None:
        if self._beside_another:
            self._in.send(self.stream)
        self._require(self.context.execute_async_v3(self.stream), "run")
        self._out.fetch(self.stream)

    def _require(self, done: bool, what: str) -> None:
        if not done:
            said = self._logger.said or "it does not say why"
            raise EdgeError("infer", f"The engine failed to {what}: {said}", "Rebuild the bundle here")


def _kept(output: np.ndarray) -> np.ndarray:
    """A copy; whole numbers as int64, which TensorRT 8 lacks."""
    return output.astype(np.int64 if output.dtype == np.int32 else output.dtype)
