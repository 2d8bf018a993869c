"""The smallest graph that TensorRT refuses: of a plan that could not be built, cut from its end and
then from its beginning.

The first prefix that is refused is found by halving, then the latest beginning that is refused
still. A build that is not refused at once counts as taken: fusions fail within seconds, kernels are
timed for minutes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.place import Answer, Found, Place, Save

if TYPE_CHECKING:
    import onnx

TAKEN_S, REFUSED = 20.0, 9
LARGEST = 12_000_000  # bytes of a graph that is kept among the results


def run(place: Place, found: Found, save: Save) -> None:
    """For the first plan that was asked for and not built: the full log, and the smallest refused
    graph."""
    stages = {file.stem: json.loads(file.read_text()) for file in sorted((place.work / "found").glob("*.json"))}
    asked = {stage: told["bundle"] for stage, told in stages.items() if "attempts" in told}
    refused = [stage for stage in asked if place.rehearse or not (place.plan(stage) / "manifest.json").is_file()]
    if not refused:
        found["nothing"] = "every plan was built"
        return
    name = asked[min(refused, key=lambda stage: "mobilenetv2" not in stage)]
    bundle = place.bundle(name)
    found["bundle"] = name
    for graph in sorted(bundle.glob("lowered*.onnx")):
        told: Found = {}
        found[graph.name] = told
        search(place, graph, "int8" in bundle.name, told, save)


def search(place: Place, file: Path, int8: bool, told: Found, save: Save) -> None:
    """Cut one graph down; ``told`` gets the log of the whole, and the smallest refused one with its
    log."""
    import onnx

    from edge.ops import register_schemas

    register_schemas()
    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    count, tries = len(model.graph.node), told.setdefault("tries", [])

    def refuses(first: int, last: int) -> Answer | None:
        """The answer to nodes first … last, where they are refused with the words that the whole is
        refused with."""
        path = place.work / "cut.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(cut(model, first, last), path)
        answer = try_build(place, path, int8)
        tries.append([first, last, answer.code, answer.seconds])
        save()
        same = not told.get("log") or complaint(told["log"]) == complaint(answer.tail)
        return answer if (answer.code == REFUSED or answer.code < -1) and same else None  # below: a signal ended it

    whole = refuses(0, count - 1)
    if whole is None:
        told["taken"] = f"all {count} nodes"
        return
    told["log"] = whole.tail
    last = first_true(0, count - 1, lambda place_: refuses(0, place_) is not None)
    first = last - first_true(0, last, lambda length: refuses(last - length, last) is not None)
    small = cut(model, first, last)
    answer = refuses(first, last)
    told["smallest"] = {
        "first": first,
        "last": last,
        "nodes": [f"{node.op_type} {node.name}: {', '.join(node.input)} -> {', '.join(node.output)}" for node in small.graph.node],
        "log": answer.tail if answer else ["not refused when tried again"],
    }
    if small.ByteSize() < LARGEST:
        onnx.save(small, place.out / f"refused-{file.parent.name}-{file.stem}.onnx")
    save()


def complaint(log: list[str]) -> str:
    """What a log complains of, without names and numbers: a cut may be refused for reasons of its
    own."""
    said = [line for line in log if "Assertion" in line] or [line for line in log if "Error" in line]
    return re.sub(r"\[.*?\]|\d+", "", said[0])[:160] if said else ""


def first_true(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number in low … high that a test holds for, where it holds for ``high`` and all
    after the first."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def cut(model: onnx.ModelProto, first: int, last: int) -> onnx.ModelProto:
    """Nodes first … last as a graph of their own: what they read from before is input, what is read
    of them after, or by nobody, output."""
    import onnx

    graph = model.graph
    kept = list(graph.node[first : last + 1])
    made = {name for node in kept for name in node.output}
    read = {name for node in kept for name in node.input if name}
    after = {name for node in graph.node[last + 1 :] for name in node.input}
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = [each for each in graph.initializer if each.name in read]
    inputs = sorted(read - made - {each.name for each in constants})
    outputs = sorted(name for name in made if name in after or name not in read)

    def value(name: str) -> onnx.ValueInfoProto:
        return known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)

    piece = onnx.helper.make_graph(kept, "cut", [value(name) for name in inputs], [value(name) for name in outputs], constants)
    return onnx.helper.make_model(piece, opset_imports=model.opset_import, ir_version=model.ir_version)


def try_build(place: Place, graph: Path, int8: bool) -> Answer:
    """Exit code ``REFUSED``, or ended by a signal: refused. Built, or still building after
    ``TAKEN_S``: another."""
    if place.rehearse:
        return place.call([sys.executable, "-m", "benchmarks.gpu.try_build", graph, "rehearsal"], TAKEN_S)
    words = [graph, "int8" if int8 else "fp16", place.work / "tools" / "lib" / "libedge_plugin.so"]
    return place.call([*place.python, "benchmarks/gpu/try_build.py", *words], TAKEN_S, {"PYTHONPATH": str(place.work)})
