"""Plays TensorRT's Python module: exactly the names recorded for one version, with the numbers
recorded for it.

A name that version lacks raises AttributeError; a recorded method that is not played does nothing.
Engines are the ONNX graph in a pickle; they run on ONNX Runtime, on the memory that ``fake_cudart``
holds. The environment chooses the version (EDGE_FAKE_TENSORRT) and the fate of a build
(EDGE_FAKE_BUILD).
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
import onnx
import onnxruntime

sys.modules["cuda.bindings.runtime"] = fake_cudart

FOLDER = Path(__file__).parent.parent
SURFACE = json.loads((FOLDER / "surfaces" / f"{os.environ['EDGE_FAKE_TENSORRT']}.json").read_text())
INSPECTED = FOLDER / "inspected" / "tensorrt-8.6-mobilenetv2-256-fp32.json.gz"
__version__ = os.environ.get("EDGE_FAKE_VERSION", SURFACE["version"] + ".0.30")

ENUMS = {
    name: enum.IntEnum(name, {member: 500 + index if number is None else number for index, (member, number) in enumerate(members.items())})
    for name, members in SURFACE["enums"].items()
}
globals().update(ENUMS)
KINDS = {"Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Relu": "ACTIVATION", "Cast": "CAST"}
TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 7: "INT64", 6: "INT32", 9: "BOOL"}


class Played:
    """Has the names recorded for its class and no other; attributes with a leading underscore are
    the fake's own."""

    def __init_subclass__(cls) -> None:
        recorded = cls._recorded = set(SURFACE["classes"].get(cls.__name__, ()))
        for name in [name for name in vars(cls) if not name.startswith("_") and name not in recorded]:
            delattr(cls, name)

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._recorded:
            raise AttributeError(f"TensorRT {__version__} has no {type(self).__name__}.{name}")
        return lambda *_, **__: True

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._recorded:
            raise AttributeError(f"TensorRT {__version__} has no {type(self).__name__}.{name}")
        object.__setattr__(self, name, value)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.ready = True


class IProfiler: ...


class IPluginRegistry(Played):
    def load_library(self, plugin_path: str) -> None:
        if Path(plugin_path).read_bytes().startswith(b"edge plugin"):
            self._creators.update({("RegionBoxes", "1", "edge"), ("RoiResize", "1", "edge")})

    def _find(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        return object() if (type, version, plugin_namespace) in self._creators else None

    get_creator = get_plugin_creator = _find


_registry = IPluginRegistry(_creators=set())


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


class ITensor(Played): ...


class ILayer(Played):
    num_outputs = 1

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._held = dtype.name

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition(Played):
    _layers: tuple[ILayer, ...] = ()

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class ParserError(Played):
    def desc(self) -> str:
        return self._words


class OnnxParser(Played):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger.ready, "TensorRT's constructor was not called"
        self._network, self._errors = network, []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_from_string(model)
        for node in proto.graph.node:
            if node.domain == "edge" and _registry._find(node.op_type, "1", "edge") is None:
                words = f"Plugin not found, are the plugin name, version, and namespace correct? {node.op_type}"
                self._errors = [ParserError(_words=words)]
                return False
        graph = onnx.shape_inference.infer_shapes(proto).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}

        def tensors(names: Any) -> list[ITensor]:
            return [ITensor(name=name, dtype=_dtype(kinds.get(name, 1))) for name in names]

        self._network._layers = [
            ILayer(
                name=n.name,
                type=ENUMS["LayerType"][KINDS.get(n.op_type, "ELEMENTWISE")],
                _inputs=tensors(n.input),
                _outputs=tensors(n.output),
            )
            for n in graph.node
        ]
        self._network._inputs = [ITensor(name=value.name, shape=_shape(value)) for value in graph.input]
        self._network._model = model
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


def _dtype(kind: int) -> Any:
    """TensorRT 8 has no 64-bit integers: its parser makes them 32-bit."""
    names = ENUMS["DataType"].__members__
    return names[TYPES[kind] if TYPES[kind] in names else "INT32"]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(each.dim_value or -1 for each in value.type.tensor_type.shape.dim)


class IOptimizationProfile(Played):
    def __init__(self) -> None:
        self._ranges: dict[str, Any] = {}

    def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:
        self._ranges[input] = (min, opt, max)


class ITimingCache(Played):
    def serialize(self) -> bytes:
        return self._blob + b"timed;"


class IBuilderConfig(Played):
    def set_flag(self, flag: int) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: int) -> None:
        self._flags.discard(flag.name)

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = tactic_sources
        return True

    def set_memory_pool_limit(self, pool: int, pool_size: int) -> None:
        self._workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> None:
        self._profiles.append(profile)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(_blob=serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> None:
        self._timings = cache

    def get_timing_cache(self) -> ITimingCache:
        return self._timings


class Builder(Played):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        kinds, major = ENUMS["NetworkDefinitionCreationFlag"].__members__, int(__version__.split(".")[0])
        wanted = 1 << kinds["EXPLICIT_BATCH" if major == 8 else "STRONGLY_TYPED"]
        assert flags == wanted, "a flag by number became another flag"
        return INetworkDefinition(_strong=major > 8)

    def create_builder_config(self) -> IBuilderConfig:
        sources = sum(1 << source for source in ENUMS["TacticSource"])
        return IBuilderConfig(_flags={"TF32"}, _profiles=[], _workspace=1 << 60, _sources=sources)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        fate, _, limit = os.environ.get("EDGE_FAKE_BUILD", "").partition(" above ")
        failing = config._workspace > int(limit or 0)
        if fate == "abort":
            print("terminate called without an active exception", file=sys.stderr, flush=True)
            os.abort()
        if fate == "kill" and failing:
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "none" and failing:
            self._logger.log(ILogger.ERROR, "Error Code 10: Could not find any implementation for node conv1.")
            return None
        if fate == "sleep":
            time.sleep(60)
        names = {value.name for value in network._inputs}
        assert all(set(profile._ranges) == names for profile in config._profiles), "a profile must say the shape of every input"
        assert not (network._strong and config._flags & {"FP16", "INT8"}), "strongly typed networks refuse precision flags"
        # Bytes stand for an IHostMemory: both have a buffer, which a class cannot give before
        # Python 3.12.
        return pickle.dumps(
            {
                "version": __version__,
                "model": network._model,
                "profiles": [profile._ranges for profile in config._profiles],
                "flags": config._flags,
                "sources": [source.name for source in ENUMS["TacticSource"] if config._sources >> source & 1],
                "held": [layer.name for layer in network._layers if vars(layer).get("_held") == "FLOAT"],
                "kernels": sorted(OPERATIONS),  # an engine that carries its kernels needs no plugin beside it
            }
        )


class Runtime(Played):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            plan = pickle.loads(serialized_engine)
        except pickle.UnpicklingError:
            return self._refuse("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag does not match)")
        if b"plugin_namespace" in plan["model"] and not plan["kernels"] and _registry._find("RoiResize", "1", "edge") is None:
            return self._refuse("IPluginRegistry::getCreator: Error Code 4: Cannot find plugin: RoiResize")
        return ICudaEngine(plan)

    def _refuse(self, words: str) -> None:
        self._logger.log(ILogger.ERROR, words)


class ICudaEngine(Played):
    def __init__(self, plan: dict[str, Any]) -> None:
        from edge import lower

        model = onnx.load_from_string(plan["model"])
        if any(node.domain == "edge" for node in model.graph.node):
            model = lower.reference(model)
        self._profiles = plan["profiles"]
        self._inputs = {value.name for value in model.graph.input}
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._values = {value.name: value for value in [*model.graph.input, *model.graph.output]}

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return ENUMS["TensorIOMode"]["INPUT" if name in self._inputs else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        return _dtype(self._values[name].type.tensor_type.elem_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self._values[name])

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        return IExecutionContext(_engine=self, _addresses={}, _shapes={}, _strategy=strategy)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector()


class EngineInspector(Played):
    def get_engine_information(self, format: Any) -> str:
        """What a real one answered, of another engine."""
        assert format.name == "JSON"
        return os.environ.get("EDGE_FAKE_INSPECTED") or gzip.decompress(INSPECTED.read_bytes()).decode()


class IExecutionContext(Played):
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = self._engine._profiles[profile_index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        least, _, most = self._profile[name]
        return all(low <= here <= high for low, here, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        def sizes(of: str) -> Any:
            return self._engine._values[of].type.tensor_type.shape.dim

        known = {each.dim_param: here for of, shape in self._shapes.items() for each, here in zip(sizes(of), shape, strict=True)}
        return tuple(each.dim_value or known[each.dim_param] for each in sizes(name))

    def set_tensor_address(self, name: str, memory: int) -> None:
        self._addresses[name] = memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        return fake_cudart.enqueue(stream_handle, self._run)

    def _run(self) -> None:
        session = self._engine._session
        names, given = [output.name for output in session.get_outputs()], {}
        for name, shape in self._shapes.items():
            dtype = onnx.helper.tensor_dtype_to_np_dtype(self._engine._values[name].type.tensor_type.elem_type)
            data = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(self._addresses[name])
            given[name] = np.array(data, np.uint8).view(dtype).reshape(shape)
        values = session.run(names, given)
        for name, value in zip(names, map(np.ascontiguousarray, values), strict=True):
            if "INT64" not in ENUMS["DataType"].__members__ and value.dtype == np.int64:
                value = value.astype(np.int32)
            ctypes.memmove(self._addresses[name], value.ctypes.data, value.nbytes)
