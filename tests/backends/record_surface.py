"""Record which names TensorRT's Python module has, from the public sources of its bindings: facts only, no code.

    python tests/backends/record_surface.py CHECKOUT 10.3 v10.3.0     # CHECKOUT of github.com/NVIDIA/TensorRT, version, tag

Writes ``surfaces/<version>.json`` beside this file: methods and properties by class, members by enumeration with the
numbers of the header where the header states them, and the public names of ``tensorrt.plugin``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

SOURCES = (
    *(f"infer/{name}.cpp" for name in ("pyCore", "pyGraph", "pyFoundationalTypes", "pyPlugin", "pyInt8")),
    "parsers/pyOnnx.cpp",
)
HEADERS = ("NvInfer.h", "NvInferRuntime.h", "NvInferRuntimeBase.h")
CLASSES = frozenset(
    {"Builder", "IBuilderConfig", "INetworkDefinition", "IOptimizationProfile", "ITimingCache", "ITensor", "ILayer", "IHostMemory"}
    | {"Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector", "IRuntimeConfig", "IPluginRegistry", "OnnxParser", "ParserError"}
)
ENUMS = frozenset(
    {"BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "ProfilingVerbosity", "LayerInformationFormat", "TensorIOMode"}
    | {
        "QuickPluginCreationRequest",
        "TensorFormat",
        "LayerType",
        "DataType",
        "TacticSource",
        "ExecutionContextAllocationStrategy",
        "HardwareCompatibilityLevel",
    }
)
BOUND = re.compile(r'py::(class_|enum_)<\s*([\w:]+)[^"]{0,200}"(\w+)"', re.S)
MEMBER = re.compile(r'\.(?:def|def_property|def_property_readonly|def_static|def_readonly|def_readwrite)\(\s*"(\w+)"')
PUBLIC = re.compile(r"^ *@public_api\(\)\n *(?:class|def) (\w+)", re.M)  # of the module tensorrt.plugin
PLUGIN = "python/packaging/bindings_wheel/tensorrt/plugin"
VALUE = re.compile(r'\.value\(\s*"(\w+)"')


def record(checkout: Path, version: str, tag: str) -> dict[str, object]:
    classes: dict[str, list[str]] = {}
    enums: dict[str, dict[str, int | None]] = {}
    numbers = _numbers("\n".join(_show(checkout, tag, f"include/{name}") for name in HEADERS))
    for name in SOURCES:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", _show(checkout, tag, f"python/src/{name}"), flags=re.S)
        starts = [*BOUND.finditer(text)]
        for index, found in enumerate(starts):
            body = text[found.end() : starts[index + 1].start() if index + 1 < len(starts) else len(text)]
            kind, native, bound = found.groups()
            if kind == "class_" and bound in CLASSES:
                classes[bound] = sorted({*classes.get(bound, ()), *MEMBER.findall(body)})
            elif kind == "enum_" and bound in ENUMS:
                known = numbers.get(native.split("::")[-1], {})
                enums[bound] = {member: known.get(member) for member in VALUE.findall(body)}
    modules = (f"{PLUGIN}/{name}.py" for name in ("_tensor", "_autotune", "_lib", "_top_level"))
    plugin = sorted({name for module in modules for name in PUBLIC.findall(_show(checkout, tag, module))})
    known = {"classes": dict(sorted(classes.items())), "enums": dict(sorted(enums.items())), "plugin": plugin}
    return {"version": version, "tag": tag, **known}


def _numbers(headers: str) -> dict[str, dict[str, int]]:
    """Enumeration → member without its k → number; members without a stated number go on from the last."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", headers, flags=re.S)
    found: dict[str, dict[str, int]] = {}
    for name, body in re.findall(r"enum class (\w+)[^{;]*\{(.*?)\};", text, re.S):
        following = 0
        members = found.setdefault(name, {})
        for member, number in re.findall(r"\bk(\w+)(?:\s+TRT_DEPRECATED_ENUM)?\s*(?:=\s*(\w+))?\s*(?:,|$|\n)", body):
            if number:
                following = int(number) if number.isdigit() else members.get(number[1:], -1)
            members[member] = following
            following += 1
    return found


def _show(checkout: Path, tag: str, path: str) -> str:
    shown = subprocess.run(["git", "-C", str(checkout), "show", f"{tag}:{path}"], capture_output=True, text=True)
    return shown.stdout if shown.returncode == 0 else ""


if __name__ == "__main__":
    source, wanted, at = sys.argv[1:]
    target = Path(__file__).parent / "surfaces" / f"{wanted}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(record(Path(source), wanted, at), indent=1) + "\n", encoding="utf-8")
