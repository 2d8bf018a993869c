"""Plays ``tensorrt.plugin``: operations are registered by decorated functions, and launched on shapes that are known.

A shape's dimensions can be multiplied and added, as TensorRT's symbolic ones can, and not turned into numbers.
"""

from __future__ import annotations

import inspect
import sys
import typing
from types import SimpleNamespace
from typing import Any

OPERATIONS: dict[str, SimpleNamespace] = {}


class SymInt32:
    def __init__(self, value: Any = None) -> None:
        self._value = value._value if isinstance(value, SymInt32) else value

    def __mul__(self, other: Any) -> SymInt32:
        return SymInt32(self._value * SymInt32(other)._value)

    def __add__(self, other: Any) -> SymInt32:
        return SymInt32(self._value + SymInt32(other)._value)


class SymIntExprs:
    @classmethod
    def from_tuple(cls, values: Any) -> SymIntExprs:
        made = cls()
        made._values = [value._value for value in values]  # type: ignore[attr-defined]
        return made


class KernelLaunchParams:
    def __init__(self, **given: Any) -> None:
        names = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
        assert set(given) <= {*names, "shared_mem"}
        self._sizes = [SymInt32(given.get(name, 1))._value for name in names]


class TensorDesc:
    def __init__(self, shape_expr: Any, dtype: Any, format: Any = None) -> None:
        self.shape_expr, self.dtype, self.format = shape_expr, dtype, format


class AutoTuneCombination:
    def __init__(self, io_types: str, layouts: str) -> None:
        types = [each.strip().split("|") for each in io_types.split(",")]
        formats = [each.strip() for each in layouts.split(",")]
        formats = formats * len(types) if len(formats) == 1 else formats
        count = max(map(len, types))
        self._combinations = [([each[index % len(each)] for each in types], formats) for index in range(count)]


def from_shape_expr(shape_expr: tuple, dtype: Any) -> TensorDesc:
    return TensorDesc([SymInt32(each) for each in shape_expr], dtype)


def register(plugin_id: str) -> Any:
    def decorate(function: Any) -> Any:
        assert plugin_id not in OPERATIONS
        parameters = inspect.signature(function).parameters.values()
        assert all(issubclass(each.annotation, (TensorDesc, int, float)) for each in parameters), "annotations must be values"
        tensors = [each.name for each in parameters if issubclass(each.annotation, TensorDesc)]
        numbers = {each.name: each.annotation for each in parameters if each.name not in tensors}
        OPERATIONS[plugin_id] = SimpleNamespace(shapes=function, tensors=tensors, numbers=numbers, formats=None, launch=None)
        namespace, name = plugin_id.split("::")
        sys.modules["tensorrt"].get_plugin_registry()._creators |= {(name, "1", namespace)}
        return function

    return decorate


def autotune(plugin_id: str) -> Any:
    def decorate(function: Any) -> Any:
        operation = OPERATIONS[plugin_id]
        assert [*inspect.signature(function).parameters] == [*operation.tensors, "outputs"]
        operation.formats = function
        return function

    return decorate


def aot_impl(plugin_id: str) -> Any:
    def decorate(function: Any) -> Any:
        operation, signature = OPERATIONS[plugin_id], inspect.signature(function)
        assert [*signature.parameters] == [*operation.tensors, *operation.numbers, "outputs", "tactic"]
        kinds = typing.get_args(signature.return_annotation)
        assert kinds == (str, bytes, KernelLaunchParams, SymIntExprs)
        operation.launch = function
        return function

    return decorate


def launches(plugin_id: str, shapes: list[tuple[int, ...]], types: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
    """What would be launched for those inputs: ``types / formats`` → (kernel, grid, block, numbers), and the output's shape."""
    trt = sys.modules["tensorrt"]
    operation = OPERATIONS[plugin_id]
    numbers = [kind(attributes[name]) for name, kind in operation.numbers.items()]
    named = {"FP32": trt.DataType["FLOAT"], "FP16": trt.DataType["HALF"]}
    inputs = [TensorDesc([SymInt32(n) for n in shape], named[kind]) for shape, kind in zip(shapes, types, strict=True)]
    output = operation.shapes(*inputs, *numbers)
    kinds = [*types, next(name for name, kind in named.items() if kind == output.dtype)]
    offered = operation.formats(*inputs, [output]) if operation.formats else []
    combinations = [pair for each in offered for pair in each._combinations] or [(kinds, ["LINEAR"] * len(kinds))]
    found: dict[str, Any] = {"shape": tuple(each._value for each in output.shape_expr)}
    for own, formats in combinations:
        if own != kinds:  # a strongly typed network asks for its own types only
            continue
        output.format = trt.TensorFormat[formats[-1]]
        kernel, ptx, launch, extra = operation.launch(*inputs, *numbers, [output], 0)
        assert ptx
        found[f"{' '.join(own)} / {formats[-1]}"] = (kernel, tuple(launch._sizes[:3]), tuple(launch._sizes[3:]), extra._values)
    return found


RECORDED = ("SymInt32", "SymIntExprs", "KernelLaunchParams", "TensorDesc", "AutoTuneCombination", "from_shape_expr", "register")
RECORDED += ("autotune", "aot_impl")
