"""A graph that takes bytes computes what it does with the same pixels normalised outside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edge.graph import FLOAT32_PREFIX
from edge.image import preprocess
from edge.lower import PASSES, lower, lower_stages
from edge.lower.uint8_input import NORMALISED
from edge.spec import ImageSpec, TargetSpec

SPEC = ImageSpec(64, input="uint8")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), np.uint8)


def answers(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    from edge.backends.onnxruntime import Session

    return Session(model.SerializeToString()).run({"image": image})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "standard-nodes"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_bytes_give_what_normalised_pixels_give(canonical, quantised, pixels, backend, precision):
    pytest.importorskip("onnxruntime")
    model = quantised if precision == "int8" else canonical
    floats = np.stack([preprocess(each, SPEC.normalised) for each in pixels])
    expected = answers(lower(model, backend=backend, precision=precision), floats)
    lowered = lower(model, backend=backend, precision=precision, image=SPEC)
    onnx.checker.check_model(lowered, full_check=True)
    found = answers(lowered, pixels)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("row", PASSES)
@pytest.mark.parametrize("float16", [None, "fp16"])
def test_in_every_row_the_first_node_makes_floats_of_the_bytes(canonical, row, float16):
    target = TargetSpec("tensorrt", "fp16" if float16 else "fp32", float16=float16)
    for data in lower_stages(canonical, target, row=row, in_stages=True, image=SPEC).values():
        graph = onnx.load_from_string(data).graph
        image = next(value for value in graph.input if value.name == "image").type.tensor_type
        assert image.elem_type == TensorProto.UINT8
        assert [each.dim_value for each in image.shape.dim][1:] == [64, 64, 3]
        readers = [node for node in graph.node if "image" in node.input]
        assert [node.op_type for node in readers] == ["Cast"]  # TensorRT takes bytes for nothing else
        own = [node for node in graph.node if any(name.startswith("image/") for name in node.output)]
        assert [node.op_type for node in own] == ["Cast", "Transpose", "Mul", "Add"]
        assert all(node.name.startswith(FLOAT32_PREFIX) == (row == "tensorrt-8" and float16 is not None) for node in own)


def test_float32_input_leaves_the_graph_as_it_was(canonical):
    plain = lower(canonical, backend="openvino", precision="fp32")
    assert lower(canonical, backend="openvino", precision="fp32", image=SPEC.normalised) == plain
    assert NORMALISED not in {name for node in plain.graph.node for name in node.input}


def test_its_names_are_not_those_of_a_quantised_image() -> None:
    """Calibration names the scale of the image `image/scale`."""
    from onnx import TensorProto, helper, numpy_helper

    from edge.lower.uint8_input import uint8_input

    nodes = [
        helper.make_node("QuantizeLinear", ["image", "image/scale", "image/zero"], ["image/q"]),
        helper.make_node("DequantizeLinear", ["image/q", "image/scale", "image/zero"], ["image/dq"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0.02), "image/scale"), numpy_helper.from_array(np.int8(0), "image/zero")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("image", "image/dq")]
    model = helper.make_model(helper.make_graph(nodes, "quantised", ends[:1], ends[1:], constants))
    graph = uint8_input(model, SPEC).graph
    names = [each.name for each in graph.initializer] + [name for node in graph.node for name in node.output]
    assert len(names) == len(set(names))
