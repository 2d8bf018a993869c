"""Small graphs, and TensorRT, CUDA and PyCUDA as fakes that know what each version has."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge import backends
from edge.bundle import Bundle, write_bundle
from edge.graph import WHOLE, Graph
from edge.spec import ImageSpec, ModelSpec, TargetSpec

FAKES = Path(__file__).parent / "fakes"
FAKED = ("tensorrt", "tensorrt.plugin", "fake_cudart", "fake_pycuda")


def make_small_graph(precision: str = "fp32", *, regions: bool = False, size: int = 32) -> bytes:
    """image (batch, 3, size, size) → convolution, mean → scores (batch, 4); with ``regions`` also
    boxes found and crops averaged."""
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    float_type = np.float16 if precision == "fp16" else np.float32
    weights = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    constants, nodes = {}, []
    if precision == "int8":
        constants |= {"step": np.float32(0.02), "zero": np.int8(0), "w": np.clip(np.rint(weights * 40), -127, 127).astype(np.int8)}
        constants |= {"w_step": np.full(16, 1 / 40, np.float32), "w_zero": np.zeros(16, np.int8)}
        nodes += [
            helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["w", "w_step", "w_zero"], ["weights"], axis=0),
        ]
    else:
        constants["weights"] = weights.astype(float_type)
        nodes.append(helper.make_node("Cast", ["image"], ["x"], to=kind))
    nodes += [
        helper.make_node("Conv", ["x", "weights"], ["maps"], name="global/conv1", pads=[1, 1, 1, 1], strides=[8, 8]),
        helper.make_node("Cast", ["maps"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["wide"], ["cams"]),
        helper.make_node("GlobalMaxPool", ["cams"], ["peaks"]),
        helper.make_node("Flatten", ["peaks"], ["scores"]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 16])]
    if regions:
        plugin = {"plugin_version": "1", "plugin_namespace": "edge", "domain": "edge", "size": size}
        constants |= {"first": np.array([0]), "second": np.array([2]), "channels": np.array([1])}
        nodes += [
            helper.make_node("Slice", ["cams", "first", "second", "channels"], ["top"]),
            helper.make_node("RegionBoxes", ["top"], ["regions"], threshold=0.5, **plugin),
        ]
        outputs.append(helper.make_tensor_value_info("regions", TensorProto.FLOAT, ["batch", 2, 4]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid("edge", 1)] if regions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.fixture(scope="session")
def small_graph():
    return make_small_graph


@pytest.fixture(scope="session")
def two_passes():
    """A function (precision) → the miniature of a canonical graph with two passes: 5 classes, 2
    regions, 64 pixels."""
    path = Path(__file__).parents[1] / "lower" / "conftest.py"
    location = importlib.util.spec_from_file_location("lower_conftest", path)
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return lambda precision="fp32": module.Streams(quantised=precision == "int8").build()


@pytest.fixture(scope="session")
def staged(two_passes):
    """A function (folder, target) → the bundle of that graph, its engine in two stages."""
    from edge.lower import lower_stages, reference

    def write(folder: Path, target: TargetSpec) -> Bundle:
        backend, support, model = backends.backend(target.backend), backends.probe(target.backend), two_passes(target.precision)
        graph = Graph.of(model, ModelSpec("mcar-mobilenetv2", tuple("abcde"), {"regions": 2}), ImageSpec(64), {})
        lowered = lower_stages(model, target, row=backends.lowering(target.backend), in_stages=True)
        return write_bundle(
            folder,
            graph=graph,
            reference=reference(model).SerializeToString(),
            lowered=lowered,
            target=target,
            stages=backends.stages_of(backend, lowered, graph.model, target),
            build_engine=backend.build,
            facts={"tools": {target.backend: support.version}},
        )

    return write


@pytest.fixture(scope="session")
def bundled():
    """A function (folder, graph as bytes, target, what builds the engine, facts) → the small
    graph's bundle."""

    def write(folder: Path, proto: bytes, target: TargetSpec, build_engine=None, **facts) -> Bundle:
        return write_bundle(
            folder,
            graph=Graph(proto, ModelSpec("mcar-mobilenetv2", tuple("abcdefghijklmnop")), ImageSpec(32)),
            reference=proto,
            lowered={WHOLE: proto},
            target=target,
            stages=None,
            build_engine=build_engine or backends.backend(target.backend).build,
            facts={"tools": {target.backend: backends.probe(target.backend).version}, **facts},
        )

    return write


@pytest.fixture
def fake_tensorrt(monkeypatch, tmp_path):
    """A function (version as recorded) → the fake modules, installed in this process and for its
    children."""

    def install(version: str, **environment: str) -> SimpleNamespace:
        pytest.importorskip("onnxruntime")
        for name in (*FAKED, "cuda.bindings.runtime", "pycuda.driver"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setenv("EDGE_FAKE_TENSORRT", version)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(FAKES))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.syspath_prepend(str(FAKES))
        import fake_cudart  # type: ignore[import-not-found]
        import fake_pycuda  # type: ignore[import-not-found]

        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cudart)
        monkeypatch.setitem(sys.modules, "pycuda.driver", fake_pycuda)
        import tensorrt  # type: ignore[import-not-found]

        return SimpleNamespace(tensorrt=tensorrt, cudart=fake_cudart, pycuda=fake_pycuda)

    yield install
    for name in FAKED:
        sys.modules.pop(name, None)
