"""Who may import whom. The tables are the law (docs/architecture.md draws them); the checker walks
imports with ast."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# A module may use any lower layer.
LAYERS = {
    **dict.fromkeys(["edge", "edge.atomic", "edge.errors", "edge.exchange", "edge.folder", "edge.lock", "edge.reading", "edge.shown"], 0),
    **dict.fromkeys(
        ["edge.cache", "edge.cpu", "edge.events", "edge.labels", "edge.manifest", "edge.plain", "edge.process", "edge.spec"], 1
    ),
    **dict.fromkeys(["edge.charts", "edge.graph", "edge.ops", "edge.image", "edge.prediction", "edge.draw", "edge.effort"], 2),
    **dict.fromkeys(["edge.engine", "edge.fit", "edge.stages", "edge.bundle", "edge.lower", "edge.models"], 3),
    **dict.fromkeys(["edge.data", "edge.backends", "edge.measure"], 3),
    **dict.fromkeys(["export", "calib", "edge.training", "edge.video"], 4),
    **dict.fromkeys(
        ["edge.options", "edge.adaptive", "edge.packages", "edge.pipeline", "edge.quantisation", "edge.report", "edge.tuning"], 5
    ),
    **dict.fromkeys(
        ["edge.command", "edge.build", "edge.bench", "edge.predict", "edge.train", "edge.tune", "edge.doctor", "edge.watch", "edge.triton"],
        6,
    ),
}
# Within a layer, this and nothing else.
WITHIN = {
    ("edge.atomic", "edge.errors"),
    ("edge.errors", "edge.shown"),
    ("edge.atomic", "edge.exchange"),
    ("edge.atomic", "edge.lock"),
    ("edge.lock", "edge.exchange"),
    ("edge.draw", "edge.prediction"),
    ("edge.effort", "edge.graph"),
    ("edge.bundle", "edge.backends"),
    ("edge.training", "calib"),  # for int8
    ("edge.training", "export"),
    ("edge.engine", "edge.bundle"),
    ("edge.engine", "edge.fit"),
    ("edge.fit", "edge.bundle"),
    ("edge.fit", "edge.backends"),
    ("edge.engine", "edge.stages"),
    ("edge.stages", "edge.backends"),
    ("edge.engine", "edge.backends"),
    ("edge.backends", "edge.lower"),
    ("edge.measure", "edge.engine"),
    ("edge.measure", "edge.bundle"),
    ("edge.measure", "edge.data"),
    ("edge.quantisation", "edge.options"),
    ("edge.adaptive", "edge.options"),
    ("edge.pipeline", "edge.adaptive"),
    ("edge.pipeline", "edge.options"),
    ("edge.pipeline", "edge.packages"),
    ("edge.pipeline", "edge.quantisation"),
    ("edge.measure", "edge.backends"),
    ("edge.tuning", "edge.adaptive"),
    ("edge.tuning", "edge.options"),
    ("edge.tuning", "edge.packages"),
    ("edge.tuning", "edge.pipeline"),
    ("edge.tuning", "edge.report"),
    *((name, "edge.command") for name, layer in LAYERS.items() if layer == 6),
}
COMMANDS = frozenset(name for name, layer in LAYERS.items() if layer == 6)

# Packages a unit may import: anywhere, or inside functions only (so that importing the module costs
# nothing).
ARRAYS = frozenset({"numpy", "PIL"})
ANYWHERE: dict[str, frozenset[str]] = {
    **{name: ARRAYS for name, layer in LAYERS.items() if layer >= 2},
    "edge.lower": ARRAYS | {"onnx", "ml_dtypes"},
    "edge.models": ARRAYS | {"torch", "torchvision"},
    "edge.training": ARRAYS | {"torch", "torchvision"},
    "export": ARRAYS | {"torch", "torchvision", "onnx", "onnxscript"},
    "calib": ARRAYS | {"onnx", "ml_dtypes"},
}
IN_FUNCTIONS: dict[str, frozenset[str]] = {
    **dict.fromkeys(["edge.graph", "edge.ops", "edge.image"], frozenset({"onnx"})),
    **dict.fromkeys(COMMANDS, frozenset({"tqdm", "torch"})),
    "edge.measure": frozenset({"psutil", "onnx"}),
    "edge.training": frozenset({"onnx"}),
    "edge.video": frozenset({"av"}),
}
# A vendor library is reached only through its backend; finer than the unit, by module.
VENDORS: dict[str, frozenset[str]] = {
    "edge.backends.onnxruntime": frozenset({"onnxruntime"}),
    "edge.backends.openvino": frozenset({"openvino"}),
    "edge.backends.trt": frozenset({"tensorrt", "tensorrt_rtx"}),
    "edge.backends.trt.cuda": frozenset({"cuda", "pycuda"}),
    "edge.backends.trt.aot": frozenset({"cuda"}),
}
# Imports by a name that is computed, which nobody can check by reading: each is a table of the
# module's own, or argued here.
COMPUTED = frozenset(
    {
        ("edge", "_HOMES[name]"),
        ("edge.ops", "module"),
        ("edge.models", "module"),
        ("edge.data.sources", "module"),
        ("edge.backends", "BACKENDS[name]"),
        ("edge.backends.trt.aot", "f'{trt.__name__}.plugin'"),  # a part of the library it is given
    }
)
# From layer 5 on these are imported inside the function that needs them: a device has none of them.
HOST_ONLY = frozenset({"export", "calib", "edge.training"})
OWN = ("edge", "export", "calib")


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, the line, and whether it costs anything when the file is
    imported.

    ``computed``: the target is an expression, not a name.
    """

    target: str
    line: int
    deferred: bool
    computed: bool = False


def imports_of(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a file, also inside functions and TYPE_CHECKING, and by ``import_module``.

    Its names are read where they are literal, be it in the tuple that a loop runs over.
    """
    loops: dict[str, list[ast.expr]] = {}

    def walk(node: ast.AST, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, deferred)
            elif isinstance(child, ast.ImportFrom):
                package = module if is_package else module.rpartition(".")[0]
                base = child.module or ""
                if child.level:
                    stem = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*stem, *filter(None, [child.module])])
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, deferred)
            elif isinstance(child, ast.Call) and _name(child.func) in ("import_module", "__import__"):
                given = (child.args or [keyword.value for keyword in child.keywords])[0]
                for name in loops.get(ast.unparse(given), [given]):
                    if isinstance(name, ast.Constant):
                        yield Import(str(name.value), child.lineno, deferred)
                    else:
                        yield Import(ast.unparse(name), child.lineno, deferred, computed=True)
                yield from walk(child, deferred)
            elif isinstance(child, ast.For) and isinstance(child.iter, ast.Tuple):
                loops[ast.unparse(child.target)] = child.iter.elts
                yield from walk(child, deferred)
                loops.pop(ast.unparse(child.target), None)
            elif isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
                for statement in child.body:
                    yield from walk(ast.Module([statement], []), True)
                for statement in child.orelse:
                    yield from walk(ast.Module([statement], []), deferred)
            else:
                yield from walk(child, deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from walk(ast.parse(source), False)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def unit_of(module: str) -> str:
    """The row of the table a module belongs to: ``edge.lower.sixteen_bit`` → ``edge.lower``; ''
    when it has none."""
    parts = module.split(".")
    unit = ".".join(parts[:2]) if parts[0] == "edge" else parts[0]
    return unit if unit in LAYERS else ""


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a file imports against the tables, one sentence each."""
    unit = unit_of(module)
    if not unit:
        return [f"{module}: has no layer; give it a row in LAYERS"]
    found = []
    for imported in imports_of(source, module, is_package):
        if imported.computed:
            problem = (
                ""
                if (module, imported.target) in COMPUTED
                else f"imports {imported.target}, a computed name: write it out, or add it to COMPUTED"
            )
        elif imported.target.split(".")[0] in OWN:
            problem = _own(unit, imported)
        else:
            problem = _foreign(unit, module, imported)
        if problem:
            found.append(f"{module}:{imported.line}: {problem}")
    return found


def _own(unit: str, imported: Import) -> str:
    if unit == "edge":  # names its public classes, loads them when asked
        return "" if imported.deferred else f"`import edge` must not load {imported.target}"
    if imported.target == "edge.__version__":
        return ""
    target = unit_of(imported.target)
    if not target or target == "edge":
        return f"imports {imported.target}, which has no layer"
    if target == unit:
        return ""
    if target in HOST_ONLY and LAYERS[unit] > LAYERS[target] and not imported.deferred:
        return f"imports {target} at module level; do it inside the function that needs it"
    if LAYERS[target] > LAYERS[unit]:
        return f"layer {LAYERS[unit]} imports {target} of layer {LAYERS[target]}"
    if LAYERS[target] == LAYERS[unit] and (unit, target) not in WITHIN:
        return f"{unit} imports {target} of the same layer"
    return ""


def _foreign(unit: str, module: str, imported: Import) -> str:
    package = imported.target.split(".")[0]
    if package in sys.stdlib_module_names:
        return ""
    anywhere = ANYWHERE.get(unit, frozenset()) | VENDORS.get(module, frozenset())
    if package in anywhere:
        return ""
    if package in IN_FUNCTIONS.get(unit, frozenset()):
        return "" if imported.deferred else f"imports {package} at module level; do it inside the function that needs it"
    return f"{unit} must not import {package}"


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    for package in OWN:
        for path in sorted((root / package).rglob("*.py")):
            if "_native" in path.parts:
                continue
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_import_keeps_the_layers(repository: Path) -> None:
    modules = list(_modules(repository))
    assert {"edge", "edge.errors", "edge.build", "export"} <= {name for name, _ in modules}, "the walk lost modules"
    found = [
        line for name, path in modules for line in violations(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_kernels_holds_no_python(repository: Path) -> None:
    assert list((repository / "kernels").rglob("*.cuh")), "the kernels are not where this test looks"
    assert not list((repository / "kernels").rglob("*.py"))


@pytest.mark.parametrize("unit", sorted(LAYERS))
def test_every_row_of_the_table_is_a_module(repository: Path, unit: str) -> None:
    path = repository.joinpath(*unit.split("."))
    assert path.with_suffix(".py").is_file() or path.is_dir()


PLANTED = {
    "upward": ("edge.spec", "from edge.graph import Graph", "layer 1 imports edge.graph of layer 2"),
    "upward in a function": ("edge.engine", "def f():\n    import calib.ranges", "layer 3 imports calib of layer 4"),
    "a command": ("edge.engine", "from edge import command", "layer 3 imports edge.command of layer 6"),
    "the report from below": ("edge.measure.quality", "from edge.report.result import Result", "layer 3 imports edge.report of layer 5"),
    "the report a command": ("edge.report.bench", "from edge import command", "layer 5 imports edge.command of layer 6"),
    "one command another": ("edge.bench", "from edge.build import ENGINES", "edge.bench imports edge.build of the same layer"),
    "sideways": ("edge.models.source", "from edge.data import open_dataset", "edge.models imports edge.data of the same layer"),
    "sideways, reversed": ("edge.lower", "import edge.backends", "edge.lower imports edge.backends of the same layer"),
    "spec and manifest": ("edge.manifest", "from edge.spec import ImageSpec", "of the same layer"),
    "export and calib": ("calib.ranges", "from export import export_graph", "calib imports export of the same layer"),
    "relative": ("edge.ops.roi_resize", "from ..lower import lower", "layer 2 imports edge.lower of layer 3"),
    "type-only is an import too": (
        "edge.spec",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edge.engine import Engine",
        "layer 1 imports edge.engine",
    ),
    "by a literal name": ("edge.image", "def f():\n    import_module('edge.engine')", "layer 2 imports edge.engine"),
    "by a computed name": ("edge.image", "def f(name):\n    import_module(name)", "imports name, a computed name"),
    "by a computed keyword": ("edge.image", "import_module(name=which)", "imports which, a computed name"),
    "by a loop over names": ("edge.backends.trt.run", "for name in ('cuda.cudart',):\n    import_module(name)", "must not import cuda"),
    "by a loop's name after the loop": ("edge.spec", "for n in ('json',):\n    pass\nimport_module(n)", "a computed name"),
    "the lazy package": ("edge", "from edge.engine import Engine", "`import edge` must not load edge.engine.Engine"),
    "through the package": ("edge.bench", "from edge import Engine", "imports edge.Engine, which has no layer"),
    "a module without a row": ("edge.helpers", "", "has no layer; give it a row"),
    "torch on the device": ("edge.engine", "import torch", "edge.engine must not import torch"),
    "torch on the device, in a function": ("edge.measure.latency", "def f():\n    import torch.nn", "edge.measure must not import torch"),
    "torch in calib": ("calib", "from torch import Tensor", "calib must not import torch"),
    "torch in a command": ("edge.train", "import torch", "imports torch at module level"),
    "a command below": ("edge.pipeline", "from edge import command", "layer 5 imports edge.command of layer 6"),
    "torch in the pipeline": ("edge.pipeline", "def f():\n    import torch", "edge.pipeline must not import torch"),
    "calib in the pipeline": ("edge.quantisation", "from calib.trials import Trials", "imports calib at module level"),
    "export in a command": ("edge.build", "import export", "imports export at module level"),
    "onnx in layer 2": ("edge.graph", "import onnx", "imports onnx at module level"),
    "onnx in try": ("edge.ops.nodes", "try:\n    import onnx\nexcept ImportError:\n    pass", "imports onnx at module level"),
    "onnx in layer 3": ("edge.engine", "def f():\n    import onnx", "edge.engine must not import onnx"),
    "numpy in layer 1": ("edge.spec", "import numpy as np", "edge.spec must not import numpy"),
    "tqdm below the commands": ("calib.ranges", "def f():\n    from tqdm import tqdm", "calib must not import tqdm"),
    "psutil at import": ("edge.measure.memory", "import psutil", "imports psutil at module level"),
    "psutil elsewhere": ("edge.engine", "def f():\n    import psutil", "edge.engine must not import psutil"),
    "onnxruntime past its backend": ("calib.ranges", "import onnxruntime", "calib must not import onnxruntime"),
    "another backend's library": (
        "edge.backends.openvino",
        "def f():\n    import onnxruntime",
        "edge.backends must not import onnxruntime",
    ),
    "a vendor in the common part": ("edge.backends.trt.vendor", "import tensorrt", "edge.backends must not import tensorrt"),
    "inside a class": ("edge.errors", "class A:\n    import numpy", "edge.errors must not import numpy"),
    "an unknown package": ("edge.data", "import cv2", "edge.data must not import cv2"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_the_checker_finds_what_is_planted(case: str) -> None:
    module, source, expected = PLANTED[case]
    found = violations(source, module)
    assert len(found) == 1
    assert expected in found[0]


ALLOWED = {
    "downward": (
        "edge.engine",
        "from edge.errors import EdgeError\nfrom edge.bundle import Bundle\nimport numpy as np\nfrom PIL import Image",
    ),
    "engine to backends": ("edge.engine", "from edge import backends"),
    "the version": ("edge.bundle", "from edge import __version__"),
    "own unit": ("edge.lower.replace_ops", "from edge.lower import lower\nfrom . import sixteen_bit\nimport onnx"),
    "host packages in a function": (
        "edge.build",
        "from edge import command\ndef f():\n    import torch\n    from export import export_graph",
    ),
    "onnx in a function": ("edge.graph", "def f():\n    import onnx"),
    "onnx for types": ("edge.ops.nodes", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
    "lazy names": ("edge", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edge.engine import Engine"),
    "the vendor of a backend": ("edge.backends.onnxruntime", "def f():\n    import onnxruntime"),
    "a table of its own": ("edge.backends", "import_module(BACKENDS[name])"),
    "a loop over names": ("edge.backends.trt.cuda", "for name in ('cuda.bindings.runtime', 'cuda.cudart'):\n    import_module(name)"),
    "standard library": ("edge.errors", "import xml.etree.ElementTree\nfrom concurrent.futures import ThreadPoolExecutor"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_the_checker_lets_pass_what_is_allowed(case: str) -> None:
    module, source = ALLOWED[case]
    assert violations(source, module) == []


def test_a_package_resolves_its_own_relative_imports() -> None:
    assert violations("from . import localisation", "edge.models", is_package=True) == []
    assert violations("from .. import data", "edge.models", is_package=True) != []
