"""Give every reader of a shared bias its own copy."""

from __future__ import annotations

from collections import Counter

import onnx

BIASED = {"Conv", "Gemm", "ConvTranspose"}


def stream_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite ``model`` in place and return it.

    1. An initializer read as the bias (third input) of a Conv or Gemm and by any other input is copied once per
       further such reader. OpenVINO fuses a bias, and the activation and quantisation after it, into the convolution
       only if the bias has a single reader; the two streams share theirs.
    2. Nothing else is copied: with weights or scales of their own, OpenVINO computes the convolutions in float.
    """
    initializers = {each.name: each for each in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in BIASED or len(node.input) < 3:
            continue
        bias = node.input[2]
        if bias not in initializers or readers[bias] < 2:
            continue
        if bias not in seen:  # the first reader keeps the original
            seen.add(bias)
            continue
        copy = onnx.TensorProto()
        copy.CopyFrom(initializers[bias])
        copy.name = f"{bias}@{node.name or node.output[0]}"
        model.graph.initializer.append(copy)
        node.input[2] = copy.name
    return model
