"""The decompositions of both ops against their NumPy references, on the runtimes that will run
them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.errors import EdgeError
from edge.lower.replace_ops import replace_ops
from edge.ops import DOMAIN, region_boxes, register_schemas, roi_resize
from edge.ops.nodes import NodeBuilder

Runner = Callable[..., np.ndarray]


def run_onnxruntime(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def run_openvino(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)(feeds)[0].copy()


RUNNERS = pytest.mark.parametrize("run", [run_onnxruntime, run_openvino], ids=["onnxruntime", "openvino"])


def model_of(
    nodes: NodeBuilder, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]], owner: list[int | str] | None = None
) -> onnx.ModelProto:
    infos = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()] for side in (inputs, outputs)]
    if owner:
        infos[0].append(helper.make_tensor_value_info("owner", TensorProto.INT32, owner))
    graph = helper.make_graph(nodes.nodes, "op", *infos, nodes.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def boxes_model(regions: int, size: int, threshold: float, batch: int | str = "batch") -> onnx.ModelProto:
    nodes, cells = NodeBuilder("boxes"), size // 32
    region_boxes.decompose(nodes, "cams", "regions", regions=regions, cells=cells, size=size, threshold=threshold)
    return model_of(nodes, {"cams": [batch, regions, cells, cells]}, {"regions": [batch, regions, 4]})


def bounds_model(size: int, threshold: float) -> onnx.ModelProto:
    """Two marginals (2·B, S) → one box (B, 1, 4)."""
    nodes = NodeBuilder("boxes")
    region_boxes.decompose_bounds(nodes, "profiles", "regions", regions=1, size=size, threshold=threshold)
    return model_of(nodes, {"profiles": ["rows", size]}, {"regions": ["batch", 1, 4]})


def crop_model(form: str, regions: int, size: int, batch: int | str = "batch") -> onnx.ModelProto:
    nodes = NodeBuilder("crop")
    roi_resize.decompose(nodes, "image", "regions", "crops", regions=regions, size=size, form=form)
    return model_of(nodes, {"image": [batch, 3, size, size], "regions": [batch, regions, 4]}, {"crops": ["crops", 3, size, size]})


def bounds_by(run: Runner, profiles: np.ndarray, threshold: float) -> np.ndarray:
    """(N, 2) starts and ends from profiles (N, S) with N even."""
    boxes = run(bounds_model(profiles.shape[1], threshold), profiles=profiles)
    return boxes.reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 2)


def hard_maps(seed: int, batch: int, regions: int, cells: int) -> np.ndarray:
    """(B, K, n, n) float32: smooth bumps, noise, saturated patches, flat maps, peaks at the
    borders."""
    rng = np.random.default_rng(seed)
    maps = np.empty((batch * regions, cells, cells))
    y, x = np.mgrid[:cells, :cells]
    for index in range(len(maps)):
        cy, cx = rng.uniform(-1, cells, 2)
        logits = rng.normal(0, 0.5, (cells, cells)) + 4 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(0.5, 1 + cells)) - 2
        kind = index % 5
        if kind == 1:
            logits = rng.normal(0, 3, (cells, cells))
        elif kind == 2:  # sigmoid is exactly 1.0 over a patch
            logits[cells // 3 : cells // 3 + 2, cells // 4 :] = 40
        elif kind == 3 and index % 2:
            logits[:] = 0  # 0.5 stays exactly flat when interpolated; other values become rounding noise, in the reference too
        elif kind == 4:
            logits[rng.integers(2) * (cells - 1), rng.integers(cells)] = 8
        maps[index] = 1 / (1 + np.exp(-logits))
    return maps.reshape(batch, regions, cells, cells).astype(np.float32)


# --- RegionBoxes ----------------------------------------------------------------------------------


@RUNNERS
def test_bounds_equal_the_official_ones_on_every_reference_vector(run: Runner, golden: ModuleType) -> None:
    vectors = golden.read("localisation")
    for name in (each for each in vectors if each.startswith("profile_")):
        size, threshold = name.split("_")[1:]
        expected = vectors[f"bounds_{size}_{threshold}"]
        np.testing.assert_array_equal(bounds_by(run, vectors[name], float(threshold)), expected, err_msg=name)


def test_numpy_bounds_equal_the_official_ones_on_every_reference_vector(golden: ModuleType) -> None:
    vectors = golden.read("localisation")
    for name in (each for each in vectors if each.startswith("profile_")):
        size, threshold = name.split("_")[1:]
        bounds = [region_boxes.bounds(profile, float(threshold)) for profile in vectors[name]]
        np.testing.assert_array_equal(bounds, vectors[f"bounds_{size}_{threshold}"], err_msg=name)


@RUNNERS
@pytest.mark.parametrize("size", [32, 256, 448, 576])
def test_narrow_segments_are_widened_as_the_reference_does(run: Runner, size: int) -> None:
    # One rectangle per profile: every width up to beyond the least one, near both borders and in
    # the middle.
    least = size // 8
    starts = {*range(0, least + 3, 1 + size // 128), size // 2, *range(size - least - 3, size - 1, 1 + size // 128)}
    rows = [(start, width) for start in sorted(starts) for width in {1, 2, 3, least // 2, least - 1, least, least + 1} if width > 0]
    profiles = np.full((len(rows) // 2 * 2, size), 0.1, np.float32)
    for profile, (start, width) in zip(profiles, rows, strict=False):
        # A falling slope, so that the peak is not the last sample above the threshold.
        profile[start : start + width] = np.linspace(0.9, 0.8, len(profile[start : start + width]))
    expected = [region_boxes.bounds(profile, 0.5) for profile in profiles]
    assert len({end - start for start, end in expected}) > 3
    np.testing.assert_array_equal(bounds_by(run, profiles, 0.5), expected)


@RUNNERS
def test_ties_plateaus_and_hidden_crossings_go_as_in_the_reference(run: Runner) -> None:
    size, rng = 64, np.random.default_rng(3)
    # Few levels, 0.5 of the span among them: equal peaks, plateaus and samples exactly at the
    # threshold in plenty.
    profiles = rng.choice(np.array([0, 0.25, 0.5, 0.75, 1.0], np.float32), (400, size // 4)).repeat(4, axis=1)
    profiles[::3] = rng.choice(np.array([0, 1.0], np.float32), (134, size))
    expected = [region_boxes.bounds(profile, 0.5) for profile in profiles]
    np.testing.assert_array_equal(bounds_by(run, profiles, 0.5), expected)


@RUNNERS
def test_boxes_of_saturated_maps_do_not_hang_on_the_last_bit(run: Runner, saturated: list[np.ndarray]) -> None:
    expected = region_boxes.reference(saturated[0], 256, 0.5)
    for cams in saturated:
        np.testing.assert_array_equal(region_boxes.reference(cams, 256, 0.5), expected)
        np.testing.assert_array_equal(run(boxes_model(4, 256, 0.5), cams=cams), expected)
    np.testing.assert_array_equal(expected[-1, -1], [32, 32, 224, 224])


@RUNNERS
def test_what_lies_within_the_tie_of_the_maximum_counts_as_the_maximum(run: Runner) -> None:
    # The maximum in a narrow segment, a little less in a wide one, which wins only where the two
    # tie.
    profiles = np.full((4, 64), 0.1, np.float32)
    profiles[:, 9:12] = profiles[:, 38:51] = 0.8
    profiles[:, 10] = 1
    for profile, share in zip(profiles, (0.5, 0.5, 2, 0), strict=True):
        profile[44] = 1 - share * region_boxes.TIE
    profiles[1] *= np.float32(1e-3)  # the tie is relative to the maximum
    profiles[3] = np.linspace(1 - 0.9 * region_boxes.TIE, 1, 64)  # all of it ties: flat
    expected = [(37, 50), (37, 50), (6, 14), (8, 56)]
    np.testing.assert_array_equal([region_boxes.bounds(profile, 0.5) for profile in profiles], expected)
    np.testing.assert_array_equal(bounds_by(run, profiles, 0.5), expected)


@RUNNERS
@pytest.mark.parametrize("value", [0.0, 2**-100, 0.5, 1.0])
def test_flat_maps_give_the_central_window(run: Runner, value: float) -> None:
    cams = np.full((1, 2, 8, 8), value, np.float32)
    np.testing.assert_array_equal(run(boxes_model(2, 256, 0.5), cams=cams), np.full((1, 2, 4), [32, 32, 224, 224]))


@RUNNERS
@pytest.mark.parametrize(
    ("size", "regions", "batch", "threshold"),
    [(32, 2, 1, 0.5), (64, 1, 3, 0.3), (96, 5, 1, 0.7), (224, 3, 3, 0.5), (256, 4, 3, 0.5), (448, 4, 1, 0.5), (576, 6, 1, 0.3)],
)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic batch", "static batch"])
def test_boxes_from_maps_equal_the_reference(run: Runner, size: int, regions: int, batch: int, threshold: float, static: bool) -> None:
    cams = hard_maps(size, batch, regions, size // 32)
    boxes = run(boxes_model(regions, size, threshold, batch if static else "batch"), cams=cams)
    expected = region_boxes.reference(cams, size, threshold)
    assert boxes.shape == (batch, regions, 4)
    # One unit in the last place of a marginal may move a crossing by a sample.
    assert np.abs(boxes - expected).max() <= 1, (size, regions, batch, threshold)


def test_profiles_from_knots_lie_within_rounding_of_the_upsampled_maxima() -> None:
    nodes, size, cells = NodeBuilder("boxes"), 448, 14
    name = region_boxes.decompose_profiles(nodes, "cams", cells=cells, size=size)
    model = model_of(nodes, {"cams": ["batch", 4, cells, cells]}, {name: ["rows", size]})
    cams = hard_maps(1, 8, 4, cells)
    profiles = run_onnxruntime(model, cams=cams).reshape(8, 4, 2, size)
    for axis, expected in enumerate(region_boxes.marginals(cams, size)):
        np.testing.assert_allclose(profiles[:, :, axis], expected, rtol=3e-7)


@pytest.mark.parametrize(("size", "threshold"), [(100, 0.5), (0, 0.5), (2048, 0.5), (256, 0.0), (256, 1.0)])
def test_sizes_and_thresholds_out_of_range_are_refused(size: int, threshold: float) -> None:
    with pytest.raises(EdgeError, match=r"`size`|`threshold`"):
        region_boxes.decompose(NodeBuilder("boxes"), "cams", "regions", regions=1, cells=8, size=size, threshold=threshold)


# --- RoiResize ------------------------------------------------------------------------------------


def widths_up_to(size: int) -> np.ndarray:
    """(1, K, 4): one pixel, two, the least width and its neighbour, nearly all and all, at the
    borders and inside."""
    least = size // 8
    boxes = [
        (0, 0, 1, 2),
        (size - 1, size - 2, size, size),
        (3, 5, 2 + least, 5 + least),
        (size - least, 1, size, size),
        (0, 1, size, size),
    ]
    return np.array([[*boxes, (0, 0, size, size)]], np.float32)


@RUNNERS
@pytest.mark.parametrize("form", roi_resize.FORMS)
@pytest.mark.parametrize("size", [64, 448])
def test_every_form_of_the_crop_equals_the_reference(run: Runner, form: str, size: int) -> None:
    boxes = widths_up_to(size)
    image = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    crops = run(crop_model(form, boxes.shape[1], size), image=image, regions=boxes)
    # Positions round to about 1e-5 pixels at this size, and neighbouring pixels of noise differ by
    # up to 8.
    np.testing.assert_allclose(crops, roi_resize.reference(image, boxes), atol=1e-6 * size)


@RUNNERS
@pytest.mark.parametrize("form", roi_resize.FORMS)
def test_crops_come_region_by_region_of_each_image(run: Runner, form: str) -> None:
    size, rng = 32, np.random.default_rng(1)
    corners = np.sort(rng.permuted(np.tile(np.arange(size + 1), (3, 2, 2, 1)), axis=-1)[..., :2], axis=-1)
    boxes = corners.transpose(0, 1, 3, 2).reshape(3, 2, 4).astype(np.float32)
    image = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    for batch in ("batch", 3):
        crops = run(crop_model(form, 2, size, batch), image=image, regions=boxes)
        np.testing.assert_allclose(crops, roi_resize.reference(image, boxes), atol=5e-5)


def owned_model(form: str, size: int, batch: int | str, regions: int | str) -> onnx.ModelProto:
    nodes = NodeBuilder("crop")
    known = regions if isinstance(regions, int) else 0
    roi_resize.decompose(nodes, "image", "boxes", "crops", regions=known, size=size, form=form, owner="owner")
    model = model_of(nodes, {"image": [batch, 3, size, size], "boxes": [regions, 4]}, {"crops": [regions, 3, size, size]}, owner=[regions])
    assert {node.name.split("/")[0] for node in model.graph.node} == {"crop"}
    return model


@RUNNERS
@pytest.mark.parametrize("form", roi_resize.FORMS)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize(("batch", "owner"), [(1, [0]), (1, [0, 0, 0]), (3, [2]), (3, [2, 0, 2, 1, 1]), (2, [1] * 9)])
def test_every_form_cuts_each_box_from_its_owner(run: Runner, form: str, static: bool, batch: int, owner: list[int]) -> None:
    size, rng = 32, np.random.default_rng(len(owner))
    corners = np.sort(rng.permuted(np.tile(np.arange(size + 1), (len(owner), 2, 1)), axis=-1)[..., :2], axis=-1)
    boxes = corners.transpose(0, 2, 1).reshape(-1, 4).astype(np.float32)
    image = rng.normal(size=(batch, 3, size, size)).astype(np.float32)
    model = owned_model(form, size, *((batch, len(owner)) if static else ("batch", "regions")))
    crops = run(model, image=image, boxes=boxes, owner=np.array(owner, np.int32))
    np.testing.assert_allclose(crops, roi_resize.reference(image, boxes, np.array(owner, np.int32)), atol=5e-5)


def test_the_owned_reference_equals_the_published_way() -> None:
    torch = pytest.importorskip("torch")
    size, rng = 64, np.random.default_rng(5)
    image, boxes, owner = (
        rng.normal(size=(3, 3, size, size)).astype(np.float32),
        widths_up_to(size)[0],
        np.array([2, 0, 1, 2, 1, 0], np.int32),
    )
    crops = roi_resize.reference(image, boxes, owner)
    for crop, (x1, y1, x2, y2), own in zip(crops, boxes.astype(int), owner, strict=True):
        piece = torch.from_numpy(image[None, own, :, y1:y2, x1:x2]).double()
        expected = torch.nn.functional.interpolate(piece, (size, size), mode="bilinear", align_corners=True)[0]
        np.testing.assert_allclose(crop, expected.numpy(), atol=1e-5)
    by_image = np.stack([boxes] * 3)
    owners = np.arange(3).repeat(len(boxes))
    np.testing.assert_array_equal(roi_resize.reference(image, by_image.reshape(-1, 4), owners), roi_resize.reference(image, by_image))


@pytest.mark.parametrize("owner", [-1, 2])
def test_an_owner_that_is_no_image_is_refused(owner: int) -> None:
    image, boxes = np.zeros((2, 3, 32, 32), np.float32), np.array([[0, 0, 32, 32]], np.float32)
    with pytest.raises(EdgeError, match=rf"`owner` is \[{owner}\], and there are 2 images"):
        roi_resize.reference(image, boxes, np.array([owner], np.int32))


def test_an_unknown_form_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EdgeError, match="grid_sample, grid_sample_each, matmul or roi_align"):
        roi_resize.decompose(NodeBuilder("crop"), "image", "boxes", "crops", regions=1, size=32, form="slice")


# --- Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, "batch"])
def test_the_checker_infers_shapes_through_both_ops(batch: int | str) -> None:
    register_schemas()
    register_schemas()
    plugin = {"domain": DOMAIN, "plugin_version": "1", "plugin_namespace": "edge"}
    nodes = [
        helper.make_node("RegionBoxes", ["cams"], ["boxes"], size=64, threshold=0.5, **plugin),
        helper.make_node("RoiResize", ["image", "boxes"], ["crops"], size=64, **plugin),
    ]
    inputs = [
        helper.make_tensor_value_info("cams", TensorProto.FLOAT, [batch, 4, 2, 2]),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 64, 64]),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["crops", 3, 64, 64])
    graph = helper.make_graph(nodes, "both", inputs, [crops])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    shapes = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in [*inferred.value_info, *inferred.output]}
    assert shapes["boxes"] == [batch, 4, 4]
    assert shapes["crops"][1:] == [3, 64, 64]
    assert batch == "batch" or shapes["crops"][0] == 8


@pytest.mark.parametrize(("batch", "regions"), [(2, 5), ("batch", "regions")])
@pytest.mark.parametrize("form", [None, *roi_resize.FORMS])
def test_an_owned_crop_keeps_its_shape_and_is_lowered(batch: int | str, regions: int | str, form: str | None) -> None:
    register_schemas()
    node = helper.make_node("RoiResize", ["image", "boxes", "owner"], ["crops"], domain=DOMAIN, size=64)
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 64, 64]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [regions, 4]),
        helper.make_tensor_value_info("owner", TensorProto.INT32, [regions]),
    ]
    graph = helper.make_graph([node], "owned", inputs, [helper.make_tensor_value_info("crops", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)], ir_version=10)
    if form:
        replace_ops(model, crop=form)
        assert not [node for node in model.graph.node if node.domain]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph.output[0]
    dims = [each.dim_value or each.dim_param for each in inferred.type.tensor_type.shape.dim]
    assert len(dims) == 4
    assert form or dims == [regions, 3, 64, 64]
