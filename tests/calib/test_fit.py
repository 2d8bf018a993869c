"""Weights and biases fitted through the rounded network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration
from calib.fit import Fitted, fit, images_for
from calib.placement import quantize
from calib.scales import quantise_weights, weight_scales
from edge import lower
from edge.backends.onnxruntime import Session
from edge.graph import Graph


@pytest.fixture(scope="module")
def seen(photographs_of: Callable[..., np.ndarray]) -> np.ndarray:
    return photographs_of(24, seed=4)


@pytest.fixture(scope="module")
def fitted(graph: Graph, calibration: Calibration, seen: np.ndarray) -> Fitted:
    return fit(graph, calibration, [seen[:12], seen[12:]], method="mse")


def errors(graph: Graph, int8: Graph, images: np.ndarray) -> tuple[float, float]:
    """Of the logits of the scores: largest shift of a class's mean, and mean square."""
    lowered = lower.lower(int8.parse(), backend="openvino", precision="int8")
    scores = [Session(each)(images)["scores"].astype(np.float64) for each in (lowered.SerializeToString(), graph.proto)]
    logits = [np.log(each / (1 - each)) for each in np.clip(scores, 1e-4, 1 - 1e-4)]
    difference = logits[0] - logits[1]
    return float(np.abs(difference.mean(0)).max()), float((difference**2).mean())


def test_what_comes_out_is_nearer_on_images_not_seen(
    graph: Graph, calibration: Calibration, fitted: Fitted, photographs_of: Callable[..., np.ndarray]
) -> None:
    others = photographs_of(40, seed=11)
    plain, better = (errors(graph, quantize(graph, calibration, fitted=each), others) for each in (None, fitted))
    assert better[0] < plain[0]
    assert better[1] < 0.9 * plain[1]


def test_streams_share_weights_and_have_biases_of_their_own(graph: Graph, fitted: Fitted) -> None:
    weights = {each.name: numpy_helper.to_array(each) for each in graph.parse().graph.initializer}
    layers = ("stem", "expand", "depthwise", "project", "last")
    assert fitted.weights.keys() == {f"{layer}.weight" for layer in layers}
    assert fitted.biases.keys() == {f"{stream}/{layer}" for stream in ("global", "local") for layer in layers}
    moved = 0
    for name, integers in fitted.weights.items():
        nearest = quantise_weights(weights[name], weight_scales(weights[name]))
        assert integers.shape == nearest.shape
        moved += int((integers != nearest).sum())
    assert moved > 0
    assert any((fitted.biases[f"global/{layer}"] != fitted.biases[f"local/{layer}"]).any() for layer in layers)


def test_the_same_images_give_the_same(graph: Graph, calibration: Calibration, seen: np.ndarray, fitted: Fitted) -> None:
    steps: list[tuple[int, int]] = []
    again = fit(graph, calibration, [seen[:12], seen[12:]], method="mse", progress=lambda *step: steps.append(step))
    for name, value in fitted.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    for name, bias in fitted.biases.items():
        np.testing.assert_array_equal(again.biases[name], bias)
    assert steps[-1] == (10, 10)


def test_large_images_are_fewer() -> None:
    assert (images_for(64), images_for(256), images_for(512), images_for(4096)) == (32, 32, 8, 4)
