"""What each backend is given: the tables, the structural pass and the compositions as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edge.errors import EdgeError
from edge.lower import CROPS, PASSES, lower, reference
from edge.lower.replace_ops import replace_ops
from edge.ops import DOMAIN, region_boxes, roi_resize

Run = Callable[[onnx.ModelProto, np.ndarray], list[np.ndarray]]
DATA_DEPENDENT = {"NonZero", "Loop", "If", "Scan", "CumSum", "NonMaxSuppression", "Unique", "Compress"}


def op_types(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("backend", [each for each in PASSES if not each.startswith("tensorrt")])
def test_other_backends_than_tensorrt_get_standard_nodes_of_fixed_shape(canonical: onnx.ModelProto, backend: str) -> None:
    lowered = lower(canonical, backend=backend, precision="fp32")
    onnx.checker.check_model(lowered, full_check=True)
    assert all(node.domain == "" for node in lowered.graph.node)
    assert [each.domain for each in lowered.opset_import] == [""]
    assert not DATA_DEPENDENT & op_types(lowered).keys()


@pytest.mark.parametrize("row", ["tensorrt", "tensorrt-8"])
def test_tensorrt_keeps_the_edge_ops(canonical: onnx.ModelProto, row: str) -> None:
    lowered = lower(canonical, backend=row, precision="fp32")
    assert [node.op_type for node in lowered.graph.node if node.domain == DOMAIN] == ["RegionBoxes", "RoiResize"]


def test_lowering_leaves_the_canonical_graph_alone(canonical: onnx.ModelProto) -> None:
    before = canonical.SerializeToString(deterministic=True)
    for backend in PASSES:
        lower(canonical, backend=backend, precision="fp16", float16="fp16")
    assert canonical.SerializeToString(deterministic=True) == before


def test_an_unknown_backend_is_refused_with_the_known_ones(canonical: onnx.ModelProto) -> None:
    with pytest.raises(EdgeError, match="onnxruntime, openvino, tensorrt, tensorrt-8 or standard-nodes"):
        lower(canonical, backend="cuda", precision="fp32")


@pytest.mark.parametrize("form", roi_resize.FORMS)
def test_the_replaced_graph_computes_what_the_references_say(canonical: onnx.ModelProto, image: np.ndarray, run: Run, form: str) -> None:
    model = replace_ops(canonical, crop=form)
    for name in ("global/cams/out", "local/crops/out"):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    *_, regions, _, cams, crops = run(model, image)
    expected = region_boxes.reference(cams, image.shape[-1], 0.5)
    assert np.ptp(expected, axis=(0, 1)).min() > 0, "the boxes must differ, or the test shows nothing"
    np.testing.assert_array_equal(regions, expected)
    np.testing.assert_allclose(crops, roi_resize.reference(image, regions), atol=1e-4)


def test_replaced_nodes_say_where_they_come_from(canonical: onnx.ModelProto) -> None:
    before = {node.name for node in canonical.graph.node}
    names = [node.name for node in replace_ops(canonical, crop="grid_sample").graph.node]
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in set(names) - before} == {"boxes", "crop"}


def test_an_edge_op_without_decomposition_is_refused(canonical: onnx.ModelProto) -> None:
    next(node for node in canonical.graph.node if node.domain == DOMAIN).op_type = "RegionMasks"
    with pytest.raises(EdgeError, match="RegionMasks"):
        replace_ops(canonical, crop="matmul")


def test_any_batch_gives_what_one_by_one_gives(canonical: onnx.ModelProto, image: np.ndarray, run: Run) -> None:
    model = reference(canonical)
    together = run(model, image)
    for index in range(len(image)):
        for whole, one in zip(together, run(model, image[index : index + 1]), strict=True):
            np.testing.assert_allclose(whole[index : index + 1], one, atol=1e-6)


def test_openvino_computes_what_the_reference_computes(canonical: onnx.ModelProto, image: np.ndarray, run: Run) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    lowered = core.read_model(lower(canonical, backend="openvino", precision="fp32").SerializeToString())
    compiled = core.compile_model(lowered, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({"image": image})
    for index, expected in enumerate(run(reference(canonical), image)):
        np.testing.assert_allclose(results[index], expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "float16"), [("fp32", None), ("fp16", "fp16"), ("fp16", "bf16"), ("int8", None), ("int8", "fp16")])
def test_tensorrt_rtx_parses_the_lowered_graph(
    canonical: onnx.ModelProto, quantised: onnx.ModelProto, precision: str, float16: str | None
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    model = quantised if precision == "int8" else canonical
    lowered = lower(model, backend="standard-nodes", precision=precision, float16=float16)
    logger = trt.Logger(trt.Logger.ERROR)
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = trt.Builder(logger).create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(lowered.SerializeToString()), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    assert network.num_outputs == 5


def test_no_tensorrt_gets_a_grid_sample(canonical: onnx.ModelProto) -> None:
    """Inside fp16 engines it gives wrong values from TensorRT 10.14 on."""
    for row in ("tensorrt", "tensorrt-8", "standard-nodes"):
        assert "GridSample" not in op_types(lower(canonical, backend=row, precision="fp16", float16="fp16"))


def test_every_backend_without_the_plugin_has_a_crop_form() -> None:
    assert {backend for backend, passes in PASSES.items() if "replace_ops" in passes} == CROPS.keys()
    assert set(CROPS.values()) <= roi_resize.FORMS.keys()
