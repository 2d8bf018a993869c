"""Both inputs of residual Adds rounded, where the scale travels with the graph."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from edge.lower.replace_ops import replace_ops
from edge.lower.residual_adds import RESIDUAL_SCALES, residual_adds


def with_scales(model: onnx.ModelProto, scale: float = 0.04) -> onnx.ModelProto:
    branches = {f"{stream}/block.conv2/out": scale for stream in ("global", "local")}
    onnx.helper.set_model_props(model, {RESIDUAL_SCALES: json.dumps(branches)})
    return model


def adds(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.name.endswith("block/add")]


def test_the_branch_is_rounded_with_the_scale_that_travelled(quantised: onnx.ModelProto) -> None:
    residual_adds(with_scales(quantised))
    source = {name: node for node in quantised.graph.node for name in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in quantised.graph.initializer}
    assert len(adds(quantised)) == 2
    for add in adds(quantised):
        restore = source[add.input[0]]
        rounding = source[restore.input[0]]
        assert [restore.op_type, rounding.op_type] == ["DequantizeLinear", "QuantizeLinear"]
        assert rounding.input[0] == f"{add.name.split('/')[0]}/block.conv2/out"
        assert list(rounding.input[1:]) == list(restore.input[1:])
        assert constants[rounding.input[1]] == np.float32(0.04)
        assert constants[rounding.input[2]] == np.int8(0)
    onnx.checker.check_model(quantised, full_check=True)


def test_without_scales_or_without_a_rounded_shortcut_nothing_changes(quantised: onnx.ModelProto, canonical: onnx.ModelProto) -> None:
    for model in (quantised, with_scales(canonical)):
        before = model.SerializeToString()
        assert residual_adds(model).SerializeToString() == before


def test_an_add_of_other_values_is_left_alone(quantised: onnx.ModelProto) -> None:
    residual_adds(with_scales(quantised))
    spread = next(node for node in quantised.graph.node if node.name == "global/spread")
    assert list(spread.input) == ["global/chosen/out", "cells"]


def test_a_branch_that_is_rounded_already_is_read_from_there(quantised: onnx.ModelProto) -> None:
    once = residual_adds(with_scales(quantised))
    branch = "global/block.conv2/out/dq"
    add = adds(once)[0]
    add.input[0] = "global/block.conv2/out"
    before = len(once.graph.node)
    residual_adds(once)
    assert add.input[0] == branch
    assert len(once.graph.node) == before


def test_the_branch_moves_by_at_most_half_a_step(
    quantised: onnx.ModelProto, image: np.ndarray, run: Callable[[onnx.ModelProto, np.ndarray], list[np.ndarray]]
) -> None:
    def sums(model: onnx.ModelProto) -> np.ndarray:
        model = replace_ops(model, crop="matmul")
        model.graph.output.insert(0, onnx.helper.make_tensor_value_info("global/block/add/out", 1, None))
        return run(model, image)[0]

    copy = onnx.ModelProto()
    copy.CopyFrom(quantised)
    difference = np.abs(sums(residual_adds(with_scales(quantised))) - sums(copy))
    assert 0 < difference.max() <= 0.021
