"""What nobody reads goes."""

from __future__ import annotations

import onnx


def prune(graph: onnx.GraphProto) -> None:
    """Drop, in place, the nodes and constants that no output of ``graph`` needs."""
    read = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read.update(node.input)
    constants = [each for each in graph.initializer if each.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
