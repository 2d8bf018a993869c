"""Plays TensorRT's Python module: exactly the names recorded for one version, with the numbers recorded for it.

A name that version lacks raises AttributeError, a recorded one that is not played raises NotImplementedError. Engines are
the ONNX graph in a pickle; they run on ONNX Runtime, on the memory that ``fake_cudart`` holds. The environment chooses the
version (EDGE_FAKE_TENSORRT) and the fate of a build (EDGE_FAKE_BUILD).
"""

from __future__ import annotations

import ctypes
import enum
import gzip
import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_cudart
import numpy as np

sys.modules["cuda.bindings.runtime"] = fake_cudart

SURFACE = json.loads((Path(__file__).parent.parent / "surfaces" / f"{os.environ['EDGE_FAKE_TENSORRT']}.json").read_text())
__version__ = os.environ.get("EDGE_FAKE_VERSION", SURFACE["version"] + ".0.30")
MAJOR = int(__version__.split(".")[0])
INSPECTED = Path(__file__).parent.parent / "inspected" / "tensorrt-8.6-mobilenetv2-256-fp32.json.gz"

for _name, _members in SURFACE["enums"].items():
    _known = {member: number for member, number in _members.items() if number is not None}
    _rest = {member: 500 + index for index, member in enumerate(m for m, number in _members.items() if number is None)}
    globals()[_name] = enum.IntEnum(_name, {**_known, **_rest})


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        self.ready = True


class IPluginRegistry:
    def __init__(self) -> None:
        self._creators: set[tuple[str, str, str]] = set()

    def load_library(self, plugin_path: str) -> object | None:
        if not Path(plugin_path).read_bytes().startswith(b"edge plugin") or self._creators:
            return None
        self._creators = {("RegionBoxes", "1", "edge"), ("RoiResize", "1", "edge")}
        return object()

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        return object() if (type, version, plugin_namespace) in self._creators else None


_registry = IPluginRegistry()


def get_plugin_registry() -> IPluginRegistry:
    return _registry


OPERATIONS: dict[str, dict[str, Any]] = {}  # what tensorrt.plugin was given: operation → decorator → function


def _decorator(kind: str) -> Any:
    def named(operation: str) -> Any:
        def decorate(function: Any) -> Any:
            OPERATIONS.setdefault(operation, {})[kind] = function
            _registry._creators.add((operation.removeprefix("edge::"), "1", "edge"))
            return function

        return decorate

    return named


# Dimensions are plain numbers here; TensorRT's symbolic ones can be multiplied and added too.
PLUGIN = {
    **{kind: _decorator(kind) for kind in ("register", "autotune", "aot_impl")},
    "TensorDesc": SimpleNamespace,
    "KernelLaunchParams": type("KernelLaunchParams", (SimpleNamespace,), {}),
    "SymInt32": int,
    "SymIntExprs": type("SymIntExprs", (list,), {"from_tuple": classmethod(lambda cls, values: cls(values))}),
    "AutoTuneCombination": lambda types, layouts: (types, layouts),
    "from_shape_expr": lambda shape, dtype: SimpleNamespace(shape_expr=shape, dtype=dtype),
}
sys.modules["tensorrt.plugin"] = None  # type: ignore[assignment]
if SURFACE["plugin"]:
    sys.modules["tensorrt.plugin"] = ModuleType("tensorrt.plugin")
    vars(sys.modules["tensorrt.plugin"]).update({name: PLUGIN[name] for name in PLUGIN if name in SURFACE["plugin"]})

KINDS = {"Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Relu": "ACTIVATION", "Cast": "CAST"}
TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 7: "INT64", 6: "INT32", 9: "BOOL"}


class ITensor:
    def __init__(self, name: str, kind: int, shape: tuple[int, ...] = ()) -> None:
        self.name, self.dtype, self.shape = name, DataType[TYPES.get(kind, "FLOAT")], shape  # noqa: F821


class ILayer:
    def __init__(self, node: Any, kinds: dict[str, int]) -> None:
        self.type = LayerType[KINDS.get(node.op_type, "ELEMENTWISE")]  # noqa: F821
        self._inputs = [ITensor(name, kinds.get(name, 1)) for name in node.input]
        self._outputs = [ITensor(name, kinds.get(name, 1)) for name in node.output]

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        strong = NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")  # noqa: F821
        assert flags == 0 or flags == 1 << strong, "a flag by number became another flag"
        self._strong = MAJOR >= 11 or flags != 0
        self._layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_input(self, index: int) -> ITensor:
        return self._input


class ParserError:
    def __init__(self, words: str) -> None:
        self._words = words

    def desc(self) -> str:
        return self._words


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger.ready
        self._network, self._errors = network, []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        proto = onnx.load_from_string(model)
        for node in proto.graph.node:
            if node.domain == "edge" and _registry.get_creator(node.op_type, "1", "edge") is None:
                self._errors = [ParserError(f"Plugin not found, are the plugin name, version, and namespace correct? {node.op_type}")]
                return False
        graph = onnx.shape_inference.infer_shapes(proto).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}
        self._network._layers = [ILayer(node, kinds) for node in graph.node]
        shape = tuple(each.dim_value or -1 for each in graph.input[0].type.tensor_type.shape.dim)
        self._network._input = ITensor(graph.input[0].name, 1, shape)
        self._network._model = model
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple] = {}

    def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:
        self._shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def serialize(self) -> bytes:
        return self._blob + b"timed;"


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = {BuilderFlag["TF32"]}  # noqa: F821
        self._profiles: list[IOptimizationProfile] = []
        self._pools: dict[int, int] = {}

    def set_flag(self, flag: int) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: int) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: int, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._timings


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        fate = os.environ.get("EDGE_FAKE_BUILD", "")
        workspace = config._pools.get(MemoryPoolType["WORKSPACE"], 1 << 60)  # noqa: F821
        if fate == "abort":
            print("terminate called without an active exception", file=sys.stderr, flush=True)
            os.abort()
        if fate.startswith("kill above ") and workspace > int(fate.split()[-1]):
            os.kill(os.getpid(), signal.SIGKILL)
        if fate.startswith("none above ") and workspace > int(fate.split()[-1]):
            self._logger.log(ILogger.ERROR, "Error Code 10: Could not find any implementation for node conv1.")
            return None
        if fate == "sleep":
            time.sleep(60)
        reduced = {flag.name for flag in config._flags} & {"FP16", "INT8"}
        assert not (network._strong and reduced), "strongly typed networks refuse precision flags"
        profiles = [tuple(profile._shapes.items()) for profile in config._profiles]
        plan = {"version": __version__, "model": network._model, "profiles": profiles, "flags": sorted(f.name for f in config._flags)}
        plan["kernels"] = sorted(OPERATIONS)  # an engine that carries its kernels needs no plugin beside it
        # Bytes stand for an IHostMemory: both have a buffer, which a class cannot give before Python 3.12.
        return pickle.dumps(plan)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            plan = pickle.loads(serialized_engine)
        except Exception:
            self._logger.log(ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag does not match)")
            return None
        if plan["version"] != __version__:
            self._logger.log(ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 6: The engine plan file is of another version")
            return None
        if b"plugin_namespace" in plan["model"] and not plan["kernels"] and _registry.get_creator("RoiResize", "1", "edge") is None:
            self._logger.log(ILogger.ERROR, "IPluginRegistry::getCreator: Error Code 4: Cannot find plugin: RoiResize")
            return None
        return ICudaEngine(plan)


class ICudaEngine:
    def __init__(self, plan: dict[str, Any]) -> None:
        import onnx
        import onnxruntime

        model = onnx.load_from_string(plan["model"])
        if any(node.domain == "edge" for node in model.graph.node):
            from edge import lower

            model = lower.reference(model)
        self._plan = plan
        self._graph = model.graph
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._values = {value.name: value for value in [*model.graph.input, *model.graph.output]}

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode["INPUT" if name == self._graph.input[0].name else "OUTPUT"]  # noqa: F821

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[TYPES[self._values[name].type.tensor_type.elem_type]]  # noqa: F821

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(each.dim_value or -1 for each in self._values[name].type.tensor_type.shape.dim)

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        return IExecutionContext(self)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class IRuntimeConfig:
    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        """What a real one answered, of another engine."""
        assert format.name == "JSON"
        return os.environ.get("EDGE_FAKE_INSPECTED") or gzip.decompress(INSPECTED.read_bytes()).decode()


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._profile: dict[str, tuple] | None = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = dict(self._engine._plan["profiles"][profile_index])
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        least, _, most = self._profile[name]
        self._shape = shape
        return all(low <= here <= high for low, here, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        static = self._engine.get_tensor_shape(name)
        return tuple(self._shape[0] if each == -1 else each for each in static)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        addresses, shape = dict(self._addresses), self._shape
        return fake_cudart.enqueue(stream_handle, lambda: self._run(addresses, shape))

    def _run(self, addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        source = self._engine._graph.input[0].name
        data = (ctypes.c_float * int(np.prod(shape))).from_address(addresses[source])
        session = self._engine._session
        names = [output.name for output in session.get_outputs()]
        for name, value in zip(names, session.run(names, {source: np.array(data, np.float32).reshape(shape)}), strict=True):
            flat = np.ascontiguousarray(value)
            ctypes.memmove(addresses[name], flat.ctypes.data, flat.nbytes)
        profiler = self.__dict__.get("profiler")
        if profiler is not None:
            profiler.report_layer_time("conv1", 0.25)


def _played(cls: type) -> None:
    """The class reduced to what is recorded for it; attributes with a leading underscore are the fake's own."""
    recorded = set(SURFACE["classes"][cls.__name__])
    for name in [name for name in vars(cls) if not name.startswith("_")]:
        if name not in recorded:
            delattr(cls, name)

    def missing(self: Any, name: str) -> Any:
        if name in recorded:
            raise NotImplementedError(f"{cls.__name__}.{name} is recorded but not played")
        raise AttributeError(f"TensorRT {__version__} has no {cls.__name__}.{name}")

    def put(self: Any, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in recorded:
            raise AttributeError(f"TensorRT {__version__} has no {cls.__name__}.{name}")
        object.__setattr__(self, name, value)

    cls.__getattr__ = missing
    cls.__setattr__ = put


for _name in SURFACE["classes"]:
    if _name in globals():
        _played(globals()[_name])
