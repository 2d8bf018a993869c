"""The floor: an engine's own backbone, cut out of the graph its backend parsed, once per stream.

1. A stream's backbone ends at its pooling (``global/reducemean``, ``local/reducemean`` …): what comes out is small, so that
   writing a feature map to memory weighs on nobody.
2. It begins at the image, the second one at the crops (the value ``crop``).
3. Casts and Q/DQ on the way belong to it: it computes in exactly the engine's precision, with the engine's scales.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

POOLINGS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool")
STREAMS = {"global": "image", "local": "crop"}


def backbones(lowered: onnx.ModelProto, size: int, batch: int, regions: int, folder: Path) -> dict[str, Path]:
    """Write ``global.onnx`` and ``local.onnx``, batches fixed to B and B·K.

    Args:
        lowered: the graph in a bundle's ``lowered.onnx``.
        size: S; regions: K.

    Raises:
        LookupError: the graph has no pooling in one of the streams.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for stream, source in STREAMS.items():
        count = batch * (regions if stream == "local" else 1)
        paths[stream] = folder / f"{stream}.onnx"
        onnx.save(cut(lowered, stream, source, (count, 3, size, size)), str(paths[stream]))
    return paths


def cut(model: onnx.ModelProto, stream: str, source: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The part of ``model`` between the value ``source`` and the pooling of ``stream``."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    poolings = [node for node in graph.node if node.op_type in POOLINGS and node.name.startswith(f"{stream}/")]
    above = {node.name: _above(node, makers, source) for node in poolings}
    # Behind the classifier there is a maximum over the regions: it is no pooling of the backbone.
    ends = [node for node in poolings if not any(other.name in above[node.name] for other in poolings if other is not node)]
    if not ends:
        raise LookupError(f"no pooling in stream {stream}")
    needed = {name for node in ends for name in above[node.name]}
    nodes = [node for node in graph.node if node.name in needed]
    kept = [value for value in graph.initializer if any(value.name in node.input for node in nodes)]
    outputs = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [None] * 4) for node in ends]
    inputs = [helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, shape)]
    made = helper.make_graph(nodes, f"{stream} backbone", inputs, outputs, kept)
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def _above(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], source: str) -> set[str]:
    """Names of the node and of all nodes between the value ``source`` and it."""
    found, waiting = {node.name}, list(node.input)
    while waiting:
        value = waiting.pop()
        if value and value != source and value in makers and makers[value].name not in found:
            found.add(makers[value].name)
            waiting.extend(makers[value].input)
    return found
