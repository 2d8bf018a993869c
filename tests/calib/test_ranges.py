"""Observation against the values themselves, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib.calibration import Calibration
from calib.ranges import observe
from edge.backends.onnxruntime import Session
from edge.errors import EdgeError
from edge.graph import Graph


def batches(images: np.ndarray, batch: int = 4) -> Iterator[tuple[list[str], np.ndarray]]:
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield [f"{start + index}.png" for index in range(len(part))], part


def test_extremes_and_means_are_those_of_the_activations(graph: Graph, values: list[str], images: np.ndarray) -> None:
    found = observe(graph, batches(images), data={}, coverage={})  # 4 + 2 images: the last batch weighs less
    model = graph.parse()
    model.graph.output.extend(onnx.helper.make_tensor_value_info(value, 1, None) for value in values if value != "image")
    truth = {"image": images, **Session(model.SerializeToString(), outputs=[v for v in values if v != "image"])(images)}
    assert set(found.ranges) == set(values)
    for value in values:
        range_ = found.ranges[value]
        assert (range_.minimum, range_.maximum) == pytest.approx((truth[value].min(), truth[value].max()), rel=1e-5, abs=1e-6), value
        mean = truth[value].astype(np.float64).mean((0, 2, 3))
        np.testing.assert_allclose(found.means[value], mean, rtol=1 / 128, atol=1e-5 * np.abs(truth[value]).max())
        assert range_.counts.sum() == pytest.approx(truth[value].size, rel=0.01), value  # small tensors are counted whole


def test_the_streams_are_observed_apart(calibration: Calibration) -> None:
    assert calibration.ranges["local/zoomed"].largest == pytest.approx(2 * calibration.ranges["image"].largest)


def test_a_saved_table_serves_as_the_one_in_memory(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded.digest == calibration.digest
    assert loaded.coverage == {"a": 4, "b": 0, "c": 9}
    assert loaded.missing_classes() == ["b"]
    for value, range_ in calibration.ranges.items():
        np.testing.assert_array_equal(loaded.ranges[value].counts, range_.counts)
        np.testing.assert_array_equal(loaded.means[value], calibration.means[value])


def broken(content: dict, how: str) -> object:
    value = next(iter(content["ranges"]))
    if how == "schema":
        content["schema"] = 99
    elif how == "a list":
        return [content]
    elif how == "no ranges":
        del content["ranges"]
    elif how == "infinite limit":
        content["ranges"][value]["limit"] = float("inf")
    elif how == "short counts":
        content["ranges"][value]["counts"] = content["means"]["image"]
    elif how in ("limit 0", "limit -1", "limit 1e-320"):
        content["ranges"][value]["limit"] = float(how.split()[1])
    elif how == "extremes beyond the limit":
        content["ranges"][value]["maximum"] = 1e300
    elif how == "a number without a float":
        content["ranges"][value]["minimum"] = 10**400
    elif how == "no base64":
        content["ranges"][value]["counts"] = "!!!"
    return content


@pytest.mark.parametrize(
    "how",
    [
        "schema",
        "a list",
        "no ranges",
        "infinite limit",
        "short counts",
        "no base64",
        "limit 0",
        "limit -1",
        "limit 1e-320",
        "extremes beyond the limit",
        "a number without a float",
    ],
)
def test_a_damaged_table_is_refused_in_one_line(calibration: Calibration, tmp_path: Path, how: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(broken(json.loads(calibration.text), how)))
    with pytest.raises(EdgeError, match=r"\[calib\] Cannot read .*no calibration.json of ours"):
        Calibration.load(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="No such file"):
        Calibration.load(tmp_path / "none.json")


def test_no_images_are_refused(graph: Graph) -> None:
    with pytest.raises(EdgeError, match="Calibration needs images"):
        observe(graph, iter(()), data={}, coverage={})


def test_an_image_of_one_colour_is_refused_by_name(graph: Graph, images: np.ndarray) -> None:
    images = images.copy()
    images[5] = np.array([0.1, -2.0, 0.5], np.float32).reshape(3, 1, 1)
    with pytest.raises(EdgeError, match=r"image 5\.png has only one colour"):
        observe(graph, batches(images), data={}, coverage={})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_naming_the_first(graph: Graph, images: np.ndarray, bad: float) -> None:
    model = graph.parse()
    bias = next(each for each in model.graph.initializer if each.name == "depthwise.bias")
    values = numpy_helper.to_array(bias).copy()
    values[2] = bad
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(EdgeError, match=r"global/depthwise/relu contains NaN or infinity, for 0\.png"):
        observe(replace(graph, proto=model.SerializeToString()), batches(images), data={}, coverage={})
