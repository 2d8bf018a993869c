"""Weights and biases fitted through the rounded network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration, Fitted
from calib.fit import fit, images_for
from calib.placement import quantize
from calib.scales import weight_scales
from edge import lower
from edge.backends.onnxruntime import Session
from edge.errors import EdgeError
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
    sizes = {each.name: numpy_helper.to_array(each).size for each in graph.parse().graph.initializer}
    layers = ("stem", "expand", "depthwise", "project", "last")
    assert {name: len(steps) for name, steps in fitted.steps.items()} == {f"{layer}.weight": sizes[f"{layer}.weight"] for layer in layers}
    assert fitted.shifts.keys() == {f"{stream}/{layer}" for stream in ("global", "local") for layer in layers}
    assert any(steps.any() for steps in fitted.steps.values())
    assert any((fitted.shifts[f"global/{layer}"] != fitted.shifts[f"local/{layer}"]).any() for layer in layers)


def test_rounded_weights_may_keep_the_scales_of_those_they_come_from(
    graph: Graph, calibration: Calibration, fitted: Fitted, seen: np.ndarray
) -> None:
    def largest(found: Fitted) -> dict[str, np.ndarray]:
        """Of the integers of each output."""
        weights = {each.name: numpy_helper.to_array(each) for each in graph.parse().graph.initializer if each.name in found.steps}
        integers = {name: np.round(each / weight_scales(each).reshape(-1, 1, 1, 1)) for name, each in weights.items()}
        return {name: np.abs(each + found.steps[name].reshape(each.shape)).max((1, 2, 3)) for name, each in integers.items()}

    keeping = fit(graph, calibration, [seen[:12], seen[12:]], method="mse", keep_scales=True)
    assert all((each == 127).all() for each in largest(keeping).values())
    assert not all((each == 127).all() for each in largest(fitted).values())


def test_a_table_brings_what_was_fitted(graph: Graph, calibration: Calibration, fitted: Fitted, tmp_path: Path) -> None:
    whole = replace(calibration, fitted=fitted)
    whole.save(tmp_path / "calibration.json")
    table = Calibration.load(tmp_path / "calibration.json")
    assert table.digest == whole.digest
    assert table.fitted is not None
    assert table.fitted.method == "mse"
    assert quantize(graph, table, fitted=table.fitted).proto == quantize(graph, whole, fitted=fitted).proto


@pytest.mark.parametrize("what", ["steps", "shifts"])
def test_what_was_fitted_for_another_graph_is_refused(graph: Graph, calibration: Calibration, fitted: Fitted, what: str) -> None:
    wrong = {name: value[1:] for name, value in getattr(fitted, what).items()}
    with pytest.raises(EdgeError, match="What was fitted is not for"):
        quantize(graph, calibration, fitted=replace(fitted, **{what: wrong}))


def test_a_table_of_more_weights_than_a_network_has_is_refused(
    calibration: Calibration, fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(calibration, fitted=fitted).save(tmp_path / "calibration.json")
    monkeypatch.setattr("calib.calibration.MAX_WEIGHTS", sum(map(len, fitted.steps.values())) - 1)
    with pytest.raises(EdgeError, match="more numbers than there may be"):
        Calibration.load(tmp_path / "calibration.json")


def test_the_same_images_give_the_same(graph: Graph, calibration: Calibration, seen: np.ndarray, fitted: Fitted) -> None:
    steps: list[tuple[int, int]] = []
    again = fit(graph, calibration, [seen[:12], seen[12:]], method="mse", progress=lambda *step: steps.append(step))
    for name, value in fitted.steps.items():
        np.testing.assert_array_equal(again.steps[name], value)
    for name, shift in fitted.shifts.items():
        np.testing.assert_array_equal(again.shifts[name], shift)
    assert steps[-1] == (10, 10)


def test_large_images_are_fewer() -> None:
    assert (images_for(64), images_for(256), images_for(512), images_for(4096)) == (32, 32, 8, 4)
