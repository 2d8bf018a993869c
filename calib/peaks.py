"""The largest value of each channel: what equalisation needs to know of the activations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import rounded
from edge import lower
from edge.backends.onnxruntime import Session
from edge.graph import Graph
from edge.lower.backbone import observed

IMAGES = 64  # a channel's peak is a maximum over thousands of pixels of each


def peaks(graph: Graph, images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Value → (channels,) float32, largest |x| of each channel, as a calibration table can hold it.

    Args:
        graph: canonical, fp32.
        images: batches (b, 3, S, S) float32.
    """
    values = observed(graph.parse())
    model = lower.reference(graph.parse())
    _add_peaks(model, values)
    session = Session(model.SerializeToString(), outputs=[f"{value}/peak" for value in values])
    found: dict[str, np.ndarray] = {}
    for batch in images:
        outputs = session(batch)
        for value in values:
            peak = outputs[f"{value}/peak"]
            found[value] = np.maximum(found[value], peak) if value in found else peak
    session.close()
    return {value: rounded(peak).astype(np.float32) for value, peak in found.items()}


def _add_peaks(model: onnx.ModelProto, values: list[str]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "peak_maps"))
    for value in reversed(values):  # the order in which the runtime frees a tensor once it is observed: ``calib.ranges``
        model.graph.node.append(helper.make_node("Abs", [value], [f"{value}/magnitude"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{value}/magnitude", "peak_maps"], [f"{value}/peak"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(f"{value}/peak", TensorProto.FLOAT, [None]))
