"""Take pixels as they come out of a resize: (B, S, S, 3) uint8 RGB, normalised inside the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.graph import INPUT
from edge.spec import ImageSpec

NORMALISED = f"{INPUT}/normalised"


def uint8_input(model: onnx.ModelProto, image: ImageSpec, *, prefix: str = "") -> onnx.ModelProto:
    """Rewrite a lowered ``model`` in place and return it.

    1. Its input becomes (batch, S, S, 3) uint8; a Cast comes first, as TensorRT asks of bytes.
    2. ``(value / 255 - mean) / std`` is one product and one sum per channel, behind the Transpose
       to (batch, 3, S, S). They are not folded into the first convolution: that pads with zeros
       after normalising, and pixels have no value that means so.
    3. What read the image reads that.

    Args:
        image: the normalisation.
        prefix: of the names of the new nodes.
    """
    graph = model.graph
    for node in graph.node:  # 3
        node.input[:] = [NORMALISED if name == INPUT else name for name in node.input]
    scale = 1 / (255 * np.asarray(image.std, np.float64))
    shift = -np.asarray(image.mean, np.float64) / np.asarray(image.std, np.float64)
    constants = {f"{INPUT}/normalise/scale": scale, f"{INPUT}/normalise/shift": shift}  # image/scale is that of a quantised image
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32).reshape(1, 3, 1, 1), name) for name, value in constants.items()
    )
    steps: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("Cast", (INPUT,), f"{INPUT}/float"),
        ("Transpose", (f"{INPUT}/float",), f"{INPUT}/planes"),
        ("Mul", (f"{INPUT}/planes", f"{INPUT}/normalise/scale"), f"{INPUT}/scaled"),
        ("Add", (f"{INPUT}/scaled", f"{INPUT}/normalise/shift"), NORMALISED),
    )
    attributes: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}, "Transpose": {"perm": [0, 3, 1, 2]}}
    nodes = [helper.make_node(op, inputs, [output], name=prefix + output, **attributes.get(op, {})) for op, inputs, output in steps]  # 1, 2
    rest = list(graph.node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*nodes, *rest])
    for value in graph.input:
        if value.name == INPUT:  # 1
            batch = value.type.tensor_type.shape.dim[0]
            size = batch.dim_param or batch.dim_value
            value.CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [size, image.size, image.size, 3]))
    return model
