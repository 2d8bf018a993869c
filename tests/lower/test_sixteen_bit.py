"""Which parts become 16-bit, and that the result still computes the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.errors import EdgeError
from edge.lower import lower, reference
from edge.lower.sixteen_bit import FLOAT16, sixteen_bit

Run = Callable[[onnx.ModelProto, np.ndarray], list[np.ndarray]]
HALF = ("stem", "pool", "block", "block.conv1", "block.conv2", "last", "pooled")  # layers of the backbones


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Value name → element type."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {each.name: each.type.tensor_type.elem_type for each in [*graph.value_info, *graph.input, *graph.output]}
    return known | {each.name: each.data_type for each in graph.initializer}


def test_backbones_are_half_and_the_island_is_float(canonical: onnx.ModelProto) -> None:
    model = sixteen_bit(canonical, float16="fp16")
    onnx.checker.check_model(model, full_check=True)
    known = types(model)
    for node in model.graph.node:
        stream, layer = node.name.split("/")[0], node.name.split("/")[1] if "/" in node.name else ""
        if stream not in ("global", "local") or node.op_type == "Cast" or known[node.output[0]] == TensorProto.INT64:
            continue
        expected = TensorProto.FLOAT16 if layer in HALF else TensorProto.FLOAT
        assert {known[name] for name in node.output if known[name] != TensorProto.INT64} == {expected}, node.name
    assert known["regions"] == known["scores"] == TensorProto.FLOAT


def test_values_are_cast_where_they_cross_and_nowhere_else(canonical: onnx.ModelProto) -> None:
    casts = [node.input[0] for node in sixteen_bit(canonical, float16="fp16").graph.node if node.op_type == "Cast"]
    assert casts == ["image", "global/pooled/out", "global/last/relu/out", "local/crops/out", "local/pooled/out"]


def test_streams_still_share_their_weights(canonical: onnx.ModelProto) -> None:
    before = sum(each.ByteSize() for each in canonical.graph.initializer)
    model = sixteen_bit(canonical, float16="bf16")
    assert len({each.name for each in model.graph.initializer}) == len(model.graph.initializer)
    assert sum(each.ByteSize() for each in model.graph.initializer) < 0.6 * before


def test_half_gives_the_reference_up_to_its_rounding(canonical: onnx.ModelProto, image: np.ndarray, run: Run) -> None:
    exact = run(reference(canonical), image)
    half = run(lower(canonical, backend="openvino", precision="fp16", float16="fp16"), image)
    np.testing.assert_allclose(half[0], exact[0], atol=5e-3)
    np.testing.assert_array_equal(half[4], exact[4])


def test_bfloat16_constants_round_to_nearest_even(canonical: onnx.ModelProto) -> None:
    floats = {each.name: numpy_helper.to_array(each) for each in canonical.graph.initializer}
    model = sixteen_bit(canonical, float16="bf16")
    narrow = {each.name.removesuffix("/bf16"): each for each in model.graph.initializer if each.data_type == TensorProto.BFLOAT16}
    assert {"stem.weight", "stem.bias", "high"} <= narrow.keys()
    for name, tensor in narrow.items():
        bits = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
        np.testing.assert_allclose(bits.view(np.float32).reshape(floats[name].shape), floats[name], rtol=2**-8)
    assert "classifier.weight" not in narrow


@pytest.mark.parametrize("float16", FLOAT16)
def test_scales_follow_their_backbone(quantised: onnx.ModelProto, float16: str) -> None:
    model = sixteen_bit(quantised, float16=float16)
    constants = {each.name: each for each in model.graph.initializer}
    scales = [(node.name, constants[node.input[1]].data_type) for node in model.graph.node if node.op_type.endswith("QuantizeLinear")]
    scales += [(node.name, constants[node.input[1]].data_type) for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(scales) == 22
    assert {kind for _, kind in scales} == {FLOAT16[float16]}
    assert all(constants[n.input[0]].data_type == TensorProto.INT8 for n in model.graph.node if n.name.endswith("/weight"))


def test_quantised_half_gives_what_quantised_float_gives(quantised: onnx.ModelProto, image: np.ndarray, run: Run) -> None:
    exact = run(lower(quantised, backend="standard-nodes", precision="int8"), image)
    half = run(lower(quantised, backend="standard-nodes", precision="int8", float16="fp16"), image)
    # A rounded activation may fall on the next of 255 steps.
    np.testing.assert_allclose(half[1], exact[1], atol=3e-2)


def test_a_quantised_image_enters_without_a_cast() -> None:
    floats = {"scale": np.float32(0.02), "w1": np.ones((4, 3, 1, 1), np.float32), "w2": np.ones((2, 4, 1, 1), np.float32)}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in floats.items()]
    constants.append(numpy_helper.from_array(np.zeros((), np.int8), "zero"))
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("Conv", ["dq", "w1"], ["features"]),
        helper.make_node("Conv", ["features", "w2"], ["logits"]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 4, 4]) for n, c in (("image", 3), ("logits", 2))]
    graph = helper.make_graph(nodes, "small", infos[:1], infos[1:], constants)
    model = sixteen_bit(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), float16="fp16")
    onnx.checker.check_model(model, full_check=True)
    known = types(model)
    assert [known[name] for name in ("image", "dq", "features", "logits")] == [1, 10, 10, 1]


def test_features_as_an_output_keep_their_type(canonical: onnx.ModelProto, image: np.ndarray, run: Run) -> None:
    canonical.graph.output.append(helper.make_tensor_value_info("global/block/relu/out", TensorProto.FLOAT, None))
    lowered = lower(canonical, backend="openvino", precision="fp16", float16="fp16")
    assert run(lowered, image)[-1].dtype == np.float32


def test_constants_beyond_fp16_are_refused(canonical: onnx.ModelProto) -> None:
    bias = next(each for each in canonical.graph.initializer if each.name == "stem.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, 1e5, np.float32), "stem.bias"))
    with pytest.raises(EdgeError, match=r"stem\.bias contains .* fp16"):
        sixteen_bit(canonical, float16="fp16")


def test_an_unknown_float_is_refused(canonical: onnx.ModelProto) -> None:
    with pytest.raises(EdgeError, match="fp16 or bf16"):
        sixteen_bit(canonical, float16="fp8")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_boxes_and_crops_run_in_float_on_openvino_in_every_precision(canonical: onnx.ModelProto, precision: str) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    if precision == "fp16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    lowered = lower(canonical, backend="openvino", precision=precision, float16="bf16" if precision == "fp16" else None)
    hint = {"fp16": "dynamic", "fp32": "f32"}[precision]
    compiled = core.compile_model(core.read_model(lowered.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    ran = {
        (
            op.get_friendly_name().split("/")[0],
            str(op.get_rt_info()["layerType"].astype(str)),
            str(op.get_rt_info()["runtimePrecision"].astype(str)),
        )
        for op in compiled.get_runtime_model().get_ops()
    }
    # Borders are crossed by Reorder and Convert; masks are u8, shapes and indices integers.
    exempt = {"Reorder", "Convert", "Const"}
    kinds = {precision for part, layer, precision in ran if part in ("boxes", "crop") and layer not in exempt}
    assert "f32" in kinds
    assert kinds <= {"f32", "u8", "i32"}
    backbones = {precision for part, layer, precision in ran if part in ("global", "local") and layer == "Convolution"}
    assert ("bf16" in backbones) == (precision == "fp16")
