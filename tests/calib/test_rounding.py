"""Rounding for the output rather than for each weight."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from calib.rounding import patches, round_weights
from edge.backends.onnxruntime import Session


def inputs_of(count: int, random: np.random.Generator) -> np.ndarray:
    """(1, count, samples) that go together: a few causes, many signs of them."""
    return (random.normal(size=(count, 4)) @ random.normal(size=(4, 500)) + 0.1 * random.normal(size=(count, 500)))[None]


def test_the_output_comes_nearer_than_by_rounding_each_weight() -> None:
    random = np.random.default_rng(0)
    values, weights = inputs_of(96, random), random.normal(size=(1, 8, 96))
    scales = np.abs(weights).max(2) / 7
    covariance = np.stack([np.cov(each, bias=True) for each in values])
    integers = round_weights(weights, covariance, scales)
    assert integers.dtype == np.int8
    nearest = np.round(weights / scales[..., None])

    def error(found: np.ndarray) -> float:
        return float(((found * scales[..., None] - weights) @ values).var(2).mean())

    assert error(integers) < 0.5 * error(nearest)
    assert np.abs(integers - nearest).max() <= 3


def test_inputs_without_anything_in_common_are_rounded_each_to_the_nearest() -> None:
    random = np.random.default_rng(1)
    weights, scales = random.normal(size=(3, 1, 9)), np.full((3, 1), 0.05)
    np.testing.assert_array_equal(round_weights(weights, np.stack([np.eye(9)] * 3), scales), np.clip(np.round(weights / 0.05), -127, 127))


def test_a_dead_input_is_no_trouble() -> None:
    weights, covariance = np.ones((1, 2, 3)), np.diag([1.0, 0.0, 2.0])[None]
    assert np.isin(round_weights(weights, covariance, np.full((1, 2), 0.3)), (3, 4)).all()
    assert (round_weights(weights, np.zeros((1, 3, 3)), np.full((1, 2), 0.5)) == 2).all()


@pytest.mark.parametrize(("groups", "stride", "pad"), [(1, 1, 0), (1, 2, 1), (6, 1, 1), (2, 2, 1)])
def test_patches_are_what_a_convolution_reads(groups: int, stride: int, pad: int) -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(2, 6, 8, 8)).astype(np.float32)
    weights = random.normal(size=(12, 6 // groups, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[pad] * 4, group=groups)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "conv", infos[:2], infos[2:]), opset_imports=[helper.make_opsetid("", 19)], ir_version=10
    )
    exact = Session(model.SerializeToString()).run({"x": values, "w": weights})["y"]
    positions = np.array([[0, 0], [1, 2], [2, 2]])
    read = patches(values, positions, kernel=(3, 3), stride=(stride,) * 2, dilation=(1, 1), pads=(pad,) * 4, groups=groups)
    found = weights.reshape(groups, 12 // groups, -1) @ read  # (groups, O, N · P)
    expected = exact[:, :, positions[:, 0], positions[:, 1]].transpose(1, 0, 2).reshape(groups, 12 // groups, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
