"""Running an engine of TensorRT or TensorRT-RTX for lowest latency."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge import cache
from edge.atomic import write_atomically
from edge.backends.base import DeviceArray, Facts, Form, Native, Runner, engine_file
from edge.backends.trt.arrays import view
from edge.backends.trt.cuda import LEGACY_STREAM, Device, open_cuda
from edge.backends.trt.lane import MODES, NUMPY, Lane
from edge.backends.trt.layers import read_layers
from edge.backends.trt.plan import quiet_logger, unpacked_plan
from edge.backends.trt.plugin import PLUGIN, register_plugin
from edge.errors import EdgeError
from edge.graph import INPUT
from edge.manifest import digest_json
from edge.spec import TargetSpec


class TensorRTRunner(Runner):
    """A loaded engine. Every call has a lane to itself: a context with its stream and buffers, for one batch.

    Lanes that no call uses wait in a pool, so that there are as many as calls at once, however many threads come and go;
    with device arrays, as threads that call.

    Attributes:
        memory: how images reach the GPU: ``pinned`` (page-locked memory, copied) or ``mapped`` (the GPU reads the host's
            memory in place). On GPUs that share the CPU's memory the quicker one is found by timing both, else ``pinned``.
        graphless: why no CUDA graph is used; empty when one is.

    Args:
        vendor, trt: our name for the library, and its module.
        graphs: False does without CUDA graphs, to measure what they gain.
    """

    def __init__(
        self,
        vendor: str,
        trt: Native,
        payload: Mapping[str, bytes],
        target: TargetSpec,
        facts: Facts,
        cuda: str = "bindings",
        graphs: bool = True,
    ) -> None:
        self._graphs = graphs
        self._trt = trt
        self._cuda = open_cuda(cuda)
        self._target = target
        self._profiles = facts["profiles"]
        self._logger = quiet_logger(self._trt)
        self._lock = threading.Lock()
        self._lanes: set[Lane] = set()
        self._idle: dict[tuple[int, str], deque[Lane]] = {(batch, mode): deque() for batch in target.batches for mode in MODES}
        self._loans = threading.local()  # by batch: lanes that hold what this thread last computed on the device
        self._cache: tuple[Native, Path] | None = None
        self.memory = ""
        self.graphless = ""
        if facts.get("plugin"):  # before deserialising: the engine's plugin nodes are looked up there
            self._register_plugin(facts["plugin"]["file"], payload)
        with self._cuda.current():
            device = self._cuda.device()
            self._integrated = device.integrated
            self._engine = self._deserialised(vendor, payload, facts)
            self._config = self._runtime_config(device, facts)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = inputs[INPUT]
        with self._cuda.current():
            if not self.memory:
                self._choose_memory()
            batch, mode = images.shape[0], self.memory
            lane = self._take(batch, mode)
            try:
                return lane.run(images)
            finally:
                self._idle[batch, mode].append(lane)

    def on_device(self, images: Native) -> dict[str, DeviceArray]:
        """images: a device array (B, 3, S, S) float32, B at most the largest batch → the outputs, left on the device.

        Nothing passes through the host. The outputs are overwritten by this thread's next call.
        """
        with self._cuda.current():
            found = view(images, LEGACY_STREAM)
            size = self._engine.get_tensor_shape(INPUT)[2]
            if len(found.shape) != 4 or found.shape[1:] != (3, size, size) or found.dtype != np.float32 or not found.contiguous:
                got = f"{found.shape} {found.dtype}{'' if found.contiguous else ', strided'}"
                raise EdgeError("infer", f"The device array is {got}", f"Make it (B, 3, {size}, {size}) float32, contiguous")
            count = found.shape[0]
            if not 1 <= count <= self._target.max_batch:
                problem = f"The engine takes 1 to {self._target.max_batch} images at once, and these are {count}"
                raise EdgeError("infer", problem, "Split them, or build with a larger `batch`")
            batch = next(each for each in self._target.batches if each >= count)
            loans: dict[str, _Loan] = self._loans.__dict__
            name = str(batch)
            if name not in loans:
                loans[name] = _Loan(self._take(batch, "pinned"), self._idle[batch, "pinned"])
            return loans[name].lane.run_on_device(images, count, loans[name])

    def layers(self) -> Facts:
        return read_layers(self._trt, self._engine).plain()

    def close(self) -> None:
        """Free everything; keep the kernels that TensorRT-RTX made, for the next start."""
        with self._cuda.current():
            if self._cache is not None:
                with suppress(EdgeError):  # a cache that cannot be written costs time only
                    write_atomically(self._cache[1], bytes(self._cache[0].serialize()))
            while self._lanes:
                self._lanes.pop().close()
            self._config = self._cache = self._engine = None

    def _take(self, batch: int, mode: str) -> Lane:
        """A lane for this caller alone, until it is put back to the idle ones."""
        idle = self._idle[batch, mode]
        with suppress(IndexError):
            return idle.pop()
        with self._lock:
            with suppress(IndexError):  # another call may have ended meanwhile
                return idle.pop()
            return self._made(batch, mode, graph=self._graphs)

    def _choose_memory(self) -> None:
        with self._lock:
            if not self.memory:
                self.memory = self._quicker_memory() if self._integrated else "pinned"

    def _quicker_memory(self) -> str:
        """Copying the image once, or reading it in place several times (whole, then in crops): which costs less, this GPU says."""
        batch = self._target.batches[0]
        size = self._engine.get_tensor_shape(INPUT)[2]
        images = np.zeros((batch, 3, size, size), np.float32)
        lanes: dict[str, Lane] = {}
        taken: dict[str, list[float]] = {mode: [] for mode in MODES}
        try:
            for mode in MODES:
                lanes[mode] = self._made(batch, mode)
            for _ in range(30):  # interleaved: clocks change meanwhile
                for mode, lane in lanes.items():
                    start = time.perf_counter()
                    lane.run(images)
                    taken[mode].append(time.perf_counter() - start)
        finally:
            for lane in lanes.values():
                self._free(lane)
        return min(taken, key=lambda mode: float(np.median(taken[mode][10:])))

    def _made(self, batch: int, mode: str, *, graph: bool = True) -> Lane:
        index = next(i for i, (least, _, most) in enumerate(self._profiles) if least <= batch <= most)
        context = self._engine.create_execution_context(self._config) if self._config else self._engine.create_execution_context()
        if context is None:
            problem = f"The GPU has no memory for the engine's activations: {self._logger.said or 'TensorRT does not say why'}"
            raise EdgeError("load", problem, "Close other programs, or build with a smaller `batch`")
        cuda = open_cuda(self._cuda.name)  # of its own: what it made is freed with it
        try:
            lane = Lane(self._trt, self._engine, context, cuda, index, batch, mode, self._logger)
            if graph:
                self.graphless = lane.capture()
        except BaseException:
            cuda.release()
            raise
        self._lanes.add(lane)
        return lane

    def _free(self, lane: Lane) -> None:
        self._lanes.discard(lane)
        lane.close()

    def forms(self) -> dict[str, Form]:
        """What the engine takes and gives, by name."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        found = {}
        for name in names:
            kind = self._engine.get_tensor_dtype(name).name
            shape = tuple(None if size < 0 else size for size in self._engine.get_tensor_shape(name))
            found[name] = Form(np.dtype(NUMPY[kind]).name if kind in NUMPY else kind, shape)
        return found

    def _register_plugin(self, name: str, payload: Mapping[str, bytes]) -> None:
        """Load the plugin from its bytes, unless the process has one: TensorRT takes a path, where the bundle may hold another by now."""
        registry = self._trt.get_plugin_registry()
        if registry.get_creator("RoiResize", "1", "edge") is not None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PLUGIN
            path.write_bytes(engine_file(payload, name))
            register_plugin(registry, path)

    def _deserialised(self, vendor: str, payload: Mapping[str, bytes], facts: Facts) -> Native:
        plan = unpacked_plan(facts["payload"], engine_file(payload, facts["payload"]), facts["plan_bytes"])
        runtime = self._trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            said = " ".join([self._logger.said or "it does not say why", *self._diagnosis(runtime, plan)])
            fix = "Rebuild it here: python -m edge.build --from BUNDLE --force"
            raise EdgeError("load", f"The library of {vendor} refuses the engine: {said}", fix)
        self._runtime = runtime  # must outlive the engine
        return engine

    def _diagnosis(self, runtime: Native, plan: bytes) -> list[str]:
        """Why a plan is invalid here, where the library (TensorRT-RTX) can tell: VERSION_MISMATCH, UNSUPPORTED_CC and so on."""
        if not hasattr(runtime, "get_engine_validity"):  # TensorRT has no such method
            return []
        _, found = runtime.get_engine_validity(plan)
        return [name for name, bit in self._trt.EngineInvalidityDiagnostics.__members__.items() if int(bit) & int(found)]

    def _runtime_config(self, device: Device, facts: Facts) -> Native:
        """For TensorRT-RTX: kernels made for the exact batch, at once, and kept on disk between runs. None for TensorRT."""
        if not hasattr(self._engine, "create_runtime_config"):  # what a version has, it tells by name
            return None
        config = self._engine.create_runtime_config()
        if not hasattr(config, "create_runtime_cache"):  # TensorRT-RTX alone has it
            return None
        if hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):  # the first versions lack it
            # Lazily, a graph would be captured over the kernels for any shape.
            config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        key = digest_json([device.name, device.driver, str(self._trt.__version__), facts.get("network")])[:24]
        path = cache.folder("kernels") / f"{key}.cache"
        kernels = config.create_runtime_cache()
        if path.is_file():
            kernels.deserialize(path.read_bytes())  # refused by the library itself where it does not fit
        config.set_runtime_cache(kernels)
        self._cache = (kernels, path)
        return config


class _Loan:
    """A lane that a thread keeps between its calls with device arrays, for its outputs lie there.

    It goes back when the thread has ended and the last output is gone; by an append, since the collector may call this anywhere.
    """

    def __init__(self, lane: Lane, idle: deque[Lane]) -> None:
        self.lane, self._idle = lane, idle

    def __del__(self) -> None:
        self._idle.append(self.lane)
