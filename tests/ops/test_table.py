"""The table of ops, and what reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import helper

from edge.errors import EdgeError
from edge.lower.replace_ops import DECOMPOSITIONS, replace_ops
from edge.ops import DOMAIN, OPS, region_boxes, register_schemas
from export.name_nodes import name_nodes


def test_every_op_has_its_row_everywhere(repository: Path) -> None:
    files = {f"edge.ops.{path.stem}" for path in (repository / "edge" / "ops").glob("*.py")} - {"edge.ops.__init__", "edge.ops.nodes"}
    assert {module for module, _ in OPS.values()} == files
    assert {name: import_module(module).NAME for name, (module, _) in OPS.items()} == {name: name for name in OPS}
    assert set(DECOMPOSITIONS) == set(OPS)
    register_schemas()
    assert all(onnx.defs.has(name, DOMAIN) for name in OPS)


@pytest.fixture
def with_a_third_op(monkeypatch: pytest.MonkeyPatch) -> tuple[onnx.ModelProto, list[str]]:
    """A graph with an op that only the table knows, and what was done with its module."""
    done: list[str] = []
    monkeypatch.setitem(sys.modules, "edge.ops.third", SimpleNamespace(register_schema=lambda: done.append("registered")))
    monkeypatch.setitem(OPS, "Third", ("edge.ops.third", "third"))
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("image", "scores")]
    nodes = [
        helper.make_node("Relu", ["image"], ["a"]),
        helper.make_node("Third", ["a"], ["b"], domain=DOMAIN),
        helper.make_node("Relu", ["b"], ["scores"]),
    ]
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(helper.make_graph(nodes, "three", values[:1], values[1:]), opset_imports=opsets), done


def test_a_new_row_is_enough_to_register_and_to_name(with_a_third_op: tuple[onnx.ModelProto, list[str]]) -> None:
    model, done = with_a_third_op
    register_schemas()
    assert done == ["registered"]
    assert [node.name for node in name_nodes(model, {}).graph.node] == ["global/relu", "third", "global/relu_1"]


def test_an_op_without_a_decomposition_is_not_taken_for_another(with_a_third_op: tuple[onnx.ModelProto, list[str]]) -> None:
    with pytest.raises(EdgeError, match=r"Third has no decomposition; RegionBoxes or RoiResize"):
        replace_ops(with_a_third_op[0], crop="matmul")


def test_the_kernels_limit_is_the_headers(repository: Path) -> None:
    header = (repository / "kernels" / "region_boxes" / "region_boxes.cuh").read_text()
    size, grid = (int(re.search(rf"constexpr int kMax{name} = (\d+);", header)[1]) for name in ("Size", "Grid"))  # type: ignore[index]
    assert size == region_boxes.KERNEL_MAX_SIZE
    assert size <= 32 * grid, "maps of stride 32 must fit too"


def test_schemas_are_gone_before_the_interpreter_ends() -> None:
    """onnx would call into Python when its own tables are destroyed, and the process would end with
    a crash."""
    code = (
        "import atexit, onnx; from edge.ops import DOMAIN, OPS, register_schemas\n"
        "atexit.register(lambda: print([onnx.defs.has(name, DOMAIN) for name in OPS]))\n"  # runs after what is registered later
        "register_schemas(); print([onnx.defs.has(name, DOMAIN) for name in OPS])"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == ["[True, True]", "[False, False]"]
