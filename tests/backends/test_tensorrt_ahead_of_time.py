"""Ahead-of-time plugins: the kernels as PTX, and what TensorRT is told to launch, by the fake and
by its own Python module."""

from __future__ import annotations

import enum
import os
import re
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge import backends
from edge.backends.trt import aot
from edge.errors import EdgeError
from edge.graph import WHOLE
from edge.spec import TargetSpec

BATCH, REGIONS, SIZE, GRID = 8, 4, 448, 14
IMAGE, MAPS = (BATCH, 3, SIZE, SIZE), (BATCH, REGIONS, GRID, GRID)
OWNED = [(5, 4), (5,)]  # boxes of any images, and the owner of each
PTX = b"// PTX"


def bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]


# The PTX.


@pytest.fixture(scope="module")
def ptx() -> str:
    pytest.importorskip("cuda.bindings.nvrtc")
    try:
        return aot.compile_kernels((8, 7)).decode()
    except (EdgeError, RuntimeError) as missing:  # cuda-bindings raises RuntimeError where the library is absent
        pytest.skip(str(missing))


def test_the_kernels_compile_where_the_engine_is_built(ptx):
    assert ".target sm_87" in ptx
    assert not ptx.endswith("\0")


def test_a_compute_capability_that_the_compiler_does_not_know_is_one_line(ptx):
    with pytest.raises(EdgeError, match=r"NVRTC cannot compile the kernels: nvrtcCompileProgram.*compute capability 1\.7") as refused:
        aot.compile_kernels((1, 7))
    assert "\n" not in str(refused.value)


# What is launched. Both functions: operation, shapes and types of its inputs, attributes → launches
# by types and format.


def by_the_fake(fake_tensorrt):
    trt = fake_tensorrt("11.1").tensorrt
    aot.register(trt, PTX)
    named = {"FP32": trt.DataType.FLOAT, "FP16": trt.DataType.HALF, "INT32": trt.DataType.INT32}
    words = {kind: word for word, kind in named.items()}

    def launches(operation, shapes, types, attributes):
        functions = trt.OPERATIONS[operation]
        inputs = [SimpleNamespace(shape_expr=shape, dtype=named[word]) for shape, word in zip(shapes, types, strict=True)]
        output = functions["register"](*inputs, *attributes.values())
        own = [*types, words[output.dtype]]
        offered = functions["autotune"](*inputs, [output]) if "autotune" in functions else [(", ".join(own), "LINEAR")]
        found = {"shape": output.shape_expr}
        for combinations, layouts in offered:
            columns = [each.split("|") for each in combinations.split(", ")]
            if own not in [[column[index % len(column)] for column in columns] for index in range(max(map(len, columns)))]:
                continue  # a strongly typed network asks for its own types only
            layout = layouts.split(", ")[-1]
            output.format = trt.TensorFormat[layout]
            kernel, ptx, launch, numbers = functions["aot_impl"](*inputs, *attributes.values(), [output], 0)
            assert ptx == PTX
            sizes = [tuple(vars(launch).get(f"{what}_{axis}", 1) for axis in "xyz") for what in ("grid", "block")]
            found[f"{' '.join(own)} / {layout}"] = (kernel, *sizes, numbers)
        return found

    return launches


def real_modules() -> list[Path]:
    """``tensorrt.plugin`` as TensorRT has it, where TENSORRT_INCLUDE_DIR names the headers of a
    checkout of its repository."""
    named = [Path(folder).parent for folder in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if folder]
    found = [folder / "python" / "packaging" / "bindings_wheel" / "tensorrt" / "plugin" for folder in named]
    return [folder for folder in found if (folder / "__init__.py").is_file()]


@pytest.fixture(params=["fake", "real"])
def launches(request, fake_tensorrt, monkeypatch):
    if request.param != "real":
        return [by_the_fake(fake_tensorrt)]
    if not real_modules():
        pytest.skip("TensorRT's Python sources are absent: TENSORRT_INCLUDE_DIR=<checkout of github.com/NVIDIA/TensorRT>/include")
    return [by_the_real_module(folder, monkeypatch) for folder in real_modules()]


def test_a_box_finding_is_two_blocks_per_region(launches):
    for launched in launches:
        found = launched("edge::RegionBoxes", [MAPS], ["FP32"], {"size": SIZE, "threshold": 0.3})
        assert found.pop("shape") == (BATCH, REGIONS, 4)
        numbers = [GRID, SIZE, bits(0.3)]
        assert found == {"FP32 FP32 / LINEAR": ("edge_region_boxes", (2 * BATCH * REGIONS, 1, 1), (512, 1, 1), numbers)}


@pytest.mark.parametrize("size", [SIZE, 64])
def test_crops_have_an_entry_for_every_type_and_format(launches, size):
    def grid(columns: int) -> tuple[int, int, int]:
        return -(-(size // columns * (size // 8)) // 128), 5, 1

    numbers, image = [BATCH, size, size, size], (BATCH, 3, size, size)
    for launched in launches:
        found = launched("edge::RoiResize", [image, *OWNED], ["FP16", "FP32", "INT32"], {"size": size})
        assert found.pop("shape") == (5, 3, size, size)
        assert found == {
            "FP16 FP32 INT32 FP16 / LINEAR": ("edge_roi_resize_fp16_fp16_linear", grid(2), (128, 1, 1), numbers),
            "FP16 FP32 INT32 FP16 / HWC8": ("edge_roi_resize_fp16_fp16_hwc8", grid(1), (128, 1, 1), numbers),
        }
        found = launched("edge::RoiResize", [image, *OWNED], ["FP32", "FP32", "INT32"], {"size": size})
        del found["shape"]
        assert found == {"FP32 FP32 INT32 FP32 / LINEAR": ("edge_roi_resize_fp32_fp32_linear", grid(1), (128, 1, 1), numbers)}


def test_entries_take_inputs_then_numbers_then_the_output(ptx, fake_tensorrt):
    launched = by_the_fake(fake_tensorrt)
    entries = {name: re.findall(r"\.param \.(u64|u32)", body) for name, body in re.findall(r"\.entry (\w+)\((.*?)\)", ptx, re.DOTALL)}
    asked = {
        **launched("edge::RegionBoxes", [MAPS], ["FP32"], {"size": SIZE, "threshold": 0.5}),
        **launched("edge::RoiResize", [IMAGE, *OWNED], ["FP16", "FP32", "INT32"], {"size": SIZE}),
        **launched("edge::RoiResize", [IMAGE, *OWNED], ["FP32", "FP32", "INT32"], {"size": SIZE}),
    }
    del asked["shape"]
    assert len(asked) == 4
    for types, (kernel, _, _, numbers) in asked.items():
        inputs = len(types.split(" / ")[0].split()) - 1
        assert entries[kernel] == ["u64"] * inputs + ["u32"] * len(numbers) + ["u64"], kernel


def test_block_sizes_are_those_the_kernels_are_compiled_for(ptx):
    bounds = dict(re.findall(r"\.entry (\w+)\(.*?\)\s*\.maxntid (\d+)", ptx, re.DOTALL))
    assert bounds.pop("edge_region_boxes") == str(aot.BOX_THREADS)
    assert set(bounds.values()) == {str(aot.CROP_THREADS)}


# In a build.


@pytest.mark.parametrize("version", ["10.16", "11.1"])
def test_an_engine_carries_its_kernels(ptx, fake_tensorrt, small_graph, monkeypatch, tmp_path, version):
    fake_tensorrt(version)
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", "aot")
    assert backends.backend("tensorrt").probe().lowering == ""
    target = TargetSpec("tensorrt", "fp32", (1, 3))
    backend = backends.backend("tensorrt")
    facts = backend.build({WHOLE: small_graph(regions=True)}, target, None, tmp_path)
    assert (facts["regions"], facts["plugin"]) == ("plugin, ahead of time", None)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("engine.")] == ["engine.plan"]
    monkeypatch.delenv("EDGE_TENSORRT_PLUGIN")  # the runtime is not asked for anything
    boxes = backends.open_built(backend, tmp_path, target, facts)[WHOLE](np.zeros((3, 3, 32, 32), np.float32))["regions"]
    assert boxes.shape == (3, 2, 4)


# TensorRT's own module over the few names of the library that it needs.


class Expression(int):
    """A dimension expression whose value is known."""

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return int(self)


class Expressions:
    """The builder of expressions."""

    constant = Expression

    def operation(self, op: Any, first: Expression, second: Expression) -> Expression:
        return Expression({"SUM": first + second, "PROD": first * second}[op.name])


class Launch(list):
    """Receives launch parameters as attributes, and numbers as items."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "nbSymExprs":
            self.extend([None] * value)
        else:
            object.__setattr__(self, name, value.expr)


class Library(ModuleType):
    """The library's side of ``tensorrt.plugin``: names that it asks for and that nobody plays are
    empty classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (SimpleNamespace,), {}))
        return getattr(self, name)


ENUMERATIONS = {
    "DataType": "FLOAT HALF BF16 FP8 INT4 INT8 INT32 INT64",
    "TensorFormat": "LINEAR HWC8",
    "DimensionOperation": "SUM SUB PROD MAX MIN EQUAL LESS FLOOR_DIV CEIL_DIV",
    "QuickPluginCreationRequest": "UNKNOWN PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT",
    "PluginFieldType": "UNKNOWN CHAR INT8 INT16 INT32 INT64 FLOAT16 FLOAT32 FLOAT64",
    "PluginArgType": "INT",
    "PluginArgDataType": "INT8 INT16 INT32",
}


def library() -> Library:
    trt = Library("tensorrt")
    vars(trt).update({name: enum.IntEnum(name, members) for name, members in ENUMERATIONS.items()})
    trt.float32, trt.float16, trt.int32, trt.int64 = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT32, trt.DataType.INT64
    trt.IDimensionExpr, trt.PluginFieldCollection, trt.DimsExprs = Expression, list, lambda count: [None] * count
    trt.PluginField = lambda name, data, type: SimpleNamespace(name=name, data=data, type=type)
    trt.Dims = type("Dims", (tuple,), {"MAX_DIMS": 8})
    trt.Logger = type("Logger", (), {"WARNING": 1, "log": lambda *_: None})
    creators: dict[tuple[str, str], Any] = {}
    trt.get_plugin_registry = lambda: SimpleNamespace(
        register_creator=lambda creator, namespace: creators.update({(creator.name, namespace): creator}),
        get_creator=lambda name, version, namespace: creators[name, namespace],
    )
    return trt


def by_the_real_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers with that module and plays the builder: every step that TensorRT takes with a
    plugin until it is launched."""
    trt: Any = library()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for name in [name for name in sys.modules if name.startswith("tensorrt.")]:
        monkeypatch.delitem(sys.modules, name)
    trt.__path__ = [str(folder.parent)]
    aot.register(trt, PTX)
    for name in [name for name in sys.modules if name.startswith("tensorrt.")]:
        monkeypatch.delitem(sys.modules, name)

    def described(shape: tuple[int, ...], kind: Any, form: Any) -> Any:
        desc = trt.PluginTensorDesc(dims=trt.Dims(shape), type=kind, format=form, scale=-1.0)
        return trt.DynamicPluginTensorDesc(desc=desc)

    def launches(operation: str, shapes: list[tuple[int, ...]], types: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
        named = {"FP32": trt.DataType.FLOAT, "FP16": trt.DataType.HALF, "INT32": trt.DataType.INT32}
        words = {kind: word for word, kind in named.items()}
        # The parser hands an attribute over as int32 or float32, whatever type the creator
        # declares.
        fields = [SimpleNamespace(name=name, data=np.float32(v) if isinstance(v, float) else np.int32(v)) for name, v in attributes.items()]
        namespace, name = operation.split("::")
        creator = trt.get_plugin_registry().get_creator(name, "1", namespace)
        plugin = creator.create_plugin(name, namespace, fields, None, trt.QuickPluginCreationRequest.UNKNOWN)
        inputs = [named[word] for word in types]
        (output,) = plugin.get_output_data_types(inputs, [len(shape) for shape in shapes])
        (made,) = plugin.get_output_shapes([[Expression(n) for n in shape] for shape in shapes], [], Expressions())
        shape = tuple(made)
        linear = [described(s, k, trt.TensorFormat.LINEAR) for s, k in zip([*shapes, shape], [*inputs, output], strict=True)]
        offered = plugin.get_supported_format_combinations(linear, len(inputs))
        found: dict[str, Any] = {"shape": shape}
        for start in range(0, len(offered), len(linear)):
            chosen = offered[start : start + len(linear)]
            if [each.type for each in chosen] != [*inputs, output]:
                continue
            tensors = [described(s, each.type, each.format) for s, each in zip([*shapes, shape], chosen, strict=True)]
            plugin.configure_plugin(tensors[:-1], tensors[-1:])
            assert plugin.get_valid_tactics() == []
            plugin.set_tactic(0)
            launch = Launch()
            plugin.get_launch_params(None, tensors, len(inputs), launch, launch, Expressions())
            kernel, ptx = plugin.get_kernel([each.desc for each in tensors[:-1]], [tensors[-1].desc])
            assert ptx == PTX
            sizes = [tuple(getattr(launch, f"{what}_{axis}") for axis in "xyz") for what in ("grid", "block")]
            key = f"{' '.join(words[each.type] for each in chosen)} / {chosen[-1].format.name}"
            found[key] = (kernel, *sizes, [number.expr for number in launch])
        return found

    return launches
