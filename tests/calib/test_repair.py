"""Bias correction against convolutions that are carried out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration
from calib.placement import quantize
from calib.repair import bias_shift
from calib.scales import quantise_weights, weight_scales
from edge.backends.onnxruntime import Session
from edge.graph import Graph


@pytest.mark.parametrize(("outputs", "inputs", "groups"), [(6, 4, 1), (8, 8, 8), (6, 4, 2)])
def test_the_shift_is_that_of_the_mean_output(outputs: int, inputs: int, groups: int) -> None:
    random = np.random.default_rng(1)
    weights = random.normal(size=(outputs, inputs // groups, 3, 3)).astype(np.float32)
    scales = weight_scales(weights)
    rounded = quantise_weights(weights, scales) * scales.reshape(-1, 1, 1, 1).astype(np.float64)
    image = random.normal(size=(inputs, 3, 3)) + random.normal(size=(inputs, 1, 1))
    image += (random.normal(size=(inputs, 1, 1)) - image.mean((1, 2), keepdims=True)) * 0.5
    # On a 3 × 3 image a 3 × 3 convolution has one output: with every tap at its channel's mean it
    # is the mean output.
    flat = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)

    def convolved(kernel: np.ndarray) -> np.ndarray:
        size = inputs // groups
        return np.array(
            [(kernel[o] * flat[(o // (outputs // groups)) * size : (o // (outputs // groups) + 1) * size]).sum() for o in range(outputs)]
        )

    expected = convolved(rounded) - convolved(weights.astype(np.float64))
    np.testing.assert_allclose(bias_shift(weights, rounded, image.mean((1, 2)), groups), expected, atol=1e-12)


def channel_means(graph: Graph, value: str, images: np.ndarray) -> np.ndarray:
    model = graph.parse()
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))
    return Session(model.SerializeToString(), outputs=[value])(images)[value].mean((0, 2, 3))


def test_corrected_channels_keep_their_means(graph: Graph, calibration: Calibration, images: np.ndarray) -> None:
    errors = {}
    exact = channel_means(graph, "global/last", images)
    for corrected in (False, True):
        errors[corrected] = np.abs(
            channel_means(quantize(graph, calibration, bias_correction=corrected), "global/last", images) - exact
        ).mean()
    assert errors[True] < 0.9 * errors[False]


def test_each_stream_has_corrected_biases_of_its_own_and_without_correction_they_are_shared(graph: Graph, calibration: Calibration) -> None:
    def biases(corrected: bool) -> list[np.ndarray]:
        model = quantize(graph, calibration, bias_correction=corrected).parse()
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        return [constants[nodes[f"{stream}/depthwise"].input[2]] for stream in ("global", "local")]

    one, other = biases(True)
    assert one.dtype == np.float32
    assert np.abs(one - other).max() > 0
    one, other = biases(False)
    np.testing.assert_array_equal(one, other)


def test_a_convolution_without_bias_gets_one(graph: Graph, calibration: Calibration) -> None:
    model = graph.parse()
    for node in model.graph.node:
        if node.name == "global/expand":
            del node.input[2:]
    bare = replace(graph, proto=model.SerializeToString())
    found = quantize(bare, replace(calibration, graph=bare.digest), bias_correction=True).parse()
    node = next(node for node in found.graph.node if node.name == "global/expand")
    assert node.input[2] == "global/expand/corrected_bias"
