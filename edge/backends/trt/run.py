"""Running an engine of TensorRT or TensorRT-RTX for lowest latency."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from edge import cache
from edge.atomic import write_atomically
from edge.backends.base import DeviceArray, Facts, Form, Native, Runner, engine_file
from edge.backends.trt.arrays import View, view
from edge.backends.trt.cuda import LEGACY_STREAM, Device, open_cuda
from edge.backends.trt.lane import MODES, NUMPY, Lane
from edge.backends.trt.layers import read_layers
from edge.backends.trt.plan import quiet_logger, unpacked_plan
from edge.backends.trt.plugin import PLUGIN, find_creator, register_plugin
from edge.errors import EdgeError
from edge.graph import BOXES, INPUT
from edge.manifest import REBUILD, digest_json
from edge.spec import TargetSpec


class TensorRTRunner(Runner):
    """One stage of a loaded engine. Every call has a lane to itself: a context with its stream and
    buffers, for one batch.

    Lanes that no call uses wait in a pool, so that there are as many as calls at once, however many
    threads come and go; with device arrays that a whole graph takes, as threads that call. *closer*
    has no lanes of its own: it runs beside the lane of *look* that holds the images, one lane for
    each number of regions.

    Attributes:
        memory: how images reach the GPU: ``pinned`` (page-locked memory, copied) or ``mapped`` (the
            GPU reads the host's memory in place). On GPUs that share the CPU's memory the quicker
            one is found by timing both (of two stages *look*), else ``pinned``.
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

    def run(self, inputs: Mapping[str, Native]) -> dict[str, np.ndarray]:
        """As every runner's; ``image`` of *closer* must come from ``hold``."""
        images = inputs[INPUT]
        if not isinstance(images, Lane):
            with self.hold(images) as held:
                return self.run({**inputs, INPUT: held})
        others = {name: value for name, value in inputs.items() if name != INPUT}
        with self._cuda.current():
            lane = self._beside(images, others) if others else images
            return lane.run(others)

    @contextmanager
    def hold(self, images: Native) -> Iterator[Lane]:
        """The lane of a call, its images on the GPU; back in the pool when the context ends, unless
        something failed in it."""
        with self._cuda.current():
            on_host = isinstance(images, np.ndarray)
            if on_host and not self.memory:
                self._choose_memory()
            batch, mode = (images.shape[0], self.memory) if on_host else (self._batch(images), "pinned")
            lane = self._take(batch, mode)
            try:
                source: np.ndarray | View = images if on_host else view(images, lane.stream)
                lane.load(source)
                yield lane
            except BaseException:
                with suppress(EdgeError):  # what failed before is worth more
                    self._free(lane)
                raise
            self._idle[batch, mode].append(lane)

    def on_device(self, images: Native) -> dict[str, DeviceArray]:
        """images: a device array (B, 3, S, S) float32, B at most the largest batch → the outputs,
        left on the device.

        Nothing passes through the host. The outputs are overwritten by this thread's next call.
        """
        with self._cuda.current():
            batch = self._batch(images)
            loans: dict[str, _Loan] = self._loans.__dict__
            name = str(batch)
            if name not in loans:
                loans[name] = _Loan(self._take(batch, "pinned"), self._idle[batch, "pinned"])
            lane = loans[name].lane
            source = view(images, lane.stream)  # kept until the call ends
            lane.load(source)
            return lane.run_on_device(loans[name])

    def _batch(self, images: Native) -> int:
        """The batch that takes a device array."""
        found = view(images, LEGACY_STREAM)
        shape, kind = self._images(1)[1:], self._type()
        if len(found.shape) != 4 or found.shape[1:] != shape or found.dtype != kind or not found.contiguous:
            got = f"{found.shape} {found.dtype}{'' if found.contiguous else ', strided'}"
            raise EdgeError("infer", f"The device array is {got}", f"Make it (B, {', '.join(map(str, shape))}) {kind.name}, contiguous")
        count = found.shape[0]
        if not 1 <= count <= self._target.max_batch:
            problem = f"The batch has {count} images; the engine takes 1 to {self._target.max_batch}"
            raise EdgeError("infer", problem, "Split it, or build with a larger `batch`")
        return next(each for each in self._target.batches if each >= count)

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
            lane = self._made({INPUT: self._images(batch)}, batch, mode)
            self._lanes.add(lane)
            return lane

    def _beside(self, images: Lane, inputs: Mapping[str, np.ndarray]) -> Lane:
        """The lane for that many regions beside the one that holds their images."""
        size = len(inputs[BOXES])
        if size not in images.beside:
            shapes = {INPUT: images.shape, **{name: value.shape for name, value in inputs.items()}}
            with self._lock:
                images.beside[size] = self._made(shapes, size, images.mode, beside=images)
        return images.beside[size]

    def _choose_memory(self) -> None:
        with self._lock:
            if not self.memory:
                self.memory = self._quicker_memory() if self._integrated else "pinned"

    def _quicker_memory(self) -> str:
        """Copying the image once, or reading it in place, in a whole graph several times: which
        costs less, this GPU says."""
        batch = self._target.batches[0]
        images = np.zeros(self._images(batch), self._type())
        lanes: dict[str, Lane] = {}
        taken: dict[str, list[float]] = {mode: [] for mode in MODES}
        try:
            for mode in MODES:
                lanes[mode] = self._made({INPUT: images.shape}, batch, mode)
            for _ in range(30):  # interleaved: clocks change meanwhile
                for mode, lane in lanes.items():
                    start = time.perf_counter()
                    lane.load(images)
                    lane.run({})
                    taken[mode].append(time.perf_counter() - start)
        finally:
            for lane in lanes.values():
                lane.close()
        return min(taken, key=lambda mode: float(np.median(taken[mode][10:])))

    def _images(self, batch: int) -> tuple[int, ...]:
        """The shape of so many images."""
        return (batch, *tuple(self._engine.get_tensor_shape(INPUT))[1:])

    def _type(self) -> np.dtype:
        """Of images."""
        return np.dtype(NUMPY[self._engine.get_tensor_dtype(INPUT).name])

    def _made(self, shapes: Mapping[str, tuple[int, ...]], size: int, mode: str, *, beside: Lane | None = None) -> Lane:
        """A new lane for inputs of those shapes, by the profile for ``size``."""
        index = next((i for i, (least, _, most) in enumerate(self._profiles) if least <= size <= most), None)
        if index is None:
            raise EdgeError("infer", f"The engine has no profile for {size} {'regions' if beside else 'images'}", REBUILD)
        # Memory for the lane's own profile; in TensorRT 8, which cannot, every lane takes what the
        # largest one needs.
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        how = self._config or (strategies.ON_PROFILE_CHANGE if strategies else None)
        context = self._engine.create_execution_context(how) if how else self._engine.create_execution_context()
        if context is None:
            problem = f"The GPU has too little memory for the engine's activations: {self._logger.said or 'TensorRT gives no reason'}"
            raise EdgeError("load", problem, "Close other programs, or build with a smaller `batch`")
        cuda = beside.cuda if beside else open_cuda(self._cuda.name)  # of its own: what it made is freed with it
        try:
            lane = Lane(self._trt, self._engine, context, cuda, index, shapes, mode, self._logger, beside)
            if self._graphs:
                self.graphless = lane.capture()
        except BaseException:
            if beside is None:
                cuda.release()
            raise
        return lane

    def _free(self, lane: Lane) -> None:
        self._lanes.discard(lane)
        lane.close()

    def forms(self) -> dict[str, Form]:
        """What the engine takes and gives, by name; whole numbers it gives are widened to int64,
        which TensorRT 8 lacks."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        found = {}
        for name in names:
            kind = self._engine.get_tensor_dtype(name).name
            if kind == "INT32" and self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT:
                kind = "INT64"
            shape = tuple(None if size < 0 else size for size in self._engine.get_tensor_shape(name))
            found[name] = Form(np.dtype(NUMPY[kind]).name if kind in NUMPY else kind, shape)
        return found

    def _register_plugin(self, name: str, payload: Mapping[str, bytes]) -> None:
        """Load the plugin from its bytes, unless the process has one: TensorRT takes a path, where
        the bundle may hold another by now."""
        registry = self._trt.get_plugin_registry()
        if find_creator(registry, "RoiResize") is not None:
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
            raise EdgeError("load", f"{vendor} refuses the engine: {said}", fix)
        self._runtime = runtime  # must outlive the engine
        return engine

    def _diagnosis(self, runtime: Native, plan: bytes) -> list[str]:
        """Why a plan is invalid here, where the library (TensorRT-RTX) can tell: VERSION_MISMATCH,
        UNSUPPORTED_CC and so on."""
        if not hasattr(runtime, "get_engine_validity"):  # TensorRT has no such method
            return []
        _, found = runtime.get_engine_validity(plan)
        return [name for name, bit in self._trt.EngineInvalidityDiagnostics.__members__.items() if int(bit) & int(found)]

    def _runtime_config(self, device: Device, facts: Facts) -> Native:
        """For TensorRT-RTX: kernels made for the exact batch, at once, and kept on disk between
        runs. None for TensorRT."""
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

    It goes back when the thread has ended and the last output is gone; by an append, since the
    collector may call this anywhere.
    """

    def __init__(self, lane: Lane, idle: deque[Lane]) -> None:
        self.lane, self._idle = lane, idle

    def __del__(self) -> None:
        self._idle.append(self.lane)
