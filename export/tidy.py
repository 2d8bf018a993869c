"""Clean-up pass: what an engine builder does not need goes, what a reader needs comes back right.

1. The exporter's notes (module stacks, source lines) are dropped from nodes and values: they hold
   paths of the exporting machine.
2. Value shapes are inferred anew, so that every value has one; only the batch is symbolic.
3. Nodes whose outputs nobody reads, and constants nobody reads, are dropped.
"""

from __future__ import annotations

import onnx

from edge.graph import BATCH, prune


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Clean a traced model; returns the cleaned one."""
    graph = model.graph
    prune(graph)
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    graph.name = "mcar-edge"
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    del model.functions[:]
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_param = BATCH
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
