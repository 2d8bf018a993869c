"""Clean-up pass: names a person can read, ``<stream>/<layer>/<operation>``.

1. A node's place is the module path the exporter recorded for it (``features.6.5.conv2``); the
   longest matching prefix in ``layer_names`` is replaced (``features.6`` → ``layer3``), numbers are
   joined by a dot, names by a slash: ``layer3.5/conv2``.
2. A node that is not all its module does adds its operation: ``layer3.5/add``, ``stem/clip``.
3. The stream is ``global`` until the crop and ``local`` behind it. What joins both is ``fuse``; our
   operators are named by ``edge.ops.OPS``: ``boxes``, ``crop``.
4. A name taken already gets ``_1``, ``_2`` …
5. A value is named after the node that makes it (``:1`` behind a second output); graph inputs and
   outputs, weights and biases keep their names, other constants become ``constant_<n>`` in order of
   first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from edge.ops import DOMAIN, OPS

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_nodes(model: onnx.ModelProto, layer_names: Mapping[str, str]) -> onnx.ModelProto:
    """Rename all nodes and values of a freshly traced model, in place."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    weights = {value.name for value in graph.initializer}
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    streams = _streams(graph)
    for node, stream in zip(graph.node, streams, strict=True):
        place = _place(node, layer_names)
        base = f"{stream}/{place}" if node.domain != DOMAIN else stream
        name, count = base, 0
        while name in taken:  # rule 4
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
        for index, output in enumerate(node.output):  # rule 5
            if output and output not in kept:
                renamed[output] = name if index == 0 else f"{name}:{index}"
    for node in graph.node:
        for used in node.input:
            if used in weights and used not in renamed and not _is_parameter(used):
                renamed[used] = f"constant_{sum(name.startswith('constant_') for name in renamed.values())}"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.value_info):
        value.name = renamed.get(value.name, value.name)
    return model


def nodes_of(model: onnx.ModelProto, modules: Sequence[str]) -> list[str]:
    """Names of the nodes that came from these modules (paths) or their parts."""
    return [node.name for node in model.graph.node if any(f"{_module(node)}.".startswith(f"{path}.") for path in modules)]


def _module(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    path = [part.strip().strip("'\"") for part in scopes.strip("[]").split(",")]
    return next((part for part in reversed(path[:-1]) if part), "")


def _place(node: onnx.NodeProto, layer_names: Mapping[str, str]) -> str:
    module = _module(node)
    # Rule 1: the longest alias wins; a whole part must match.
    prefix = max((prefix for prefix in layer_names if f"{module}.".startswith(f"{prefix}.")), key=len, default="")
    rest = module[len(prefix) :].strip(".").split(".") if len(module) > len(prefix) else []
    place = layer_names.get(prefix, "")
    for part in rest:
        place += f".{part}" if part.isdigit() and place else f"/{part}"
    place = place.strip("/")
    operation = node.op_type.lower()
    if node.op_type in _LAYERS or place.rpartition("/")[2] == operation:
        return place or operation
    return f"{place}/{operation}" if place else operation  # rule 2


# Operations that are all their module does, in every backbone.
_LAYERS = frozenset({"Conv", "Gemm"})


def _streams(graph: onnx.GraphProto) -> list[str]:
    """Rule 3: the stream of each node, in order."""
    of_value: dict[str, str] = {}
    streams = []
    for node in graph.node:
        inputs = {of_value[name] for name in node.input if name in of_value}
        if node.domain == DOMAIN:
            _, stream = OPS[node.op_type]
        elif not inputs & {"crop", "local", "fuse"}:
            stream = "global"
        elif inputs <= {"crop", "local"}:
            stream = "local"
        else:
            stream = "fuse"
        streams.append(stream)
        of_value.update(dict.fromkeys(node.output, stream))
    return streams


def _is_parameter(name: str) -> bool:
    return name.endswith((".weight", ".bias"))
