"""RoiResize: image and boxes → crops at the image's own size, bilinear with align_corners, no
antialias.

Pixel i of a crop samples the image at ``x1 + i·(x2 − 1 − x1)/(S − 1)`` along x, and likewise along
y: the resize of MCAR's local stream (Gao & Zhou, TIP 2021) without cutting anything out.

Without the third input the boxes are (B, K, 4), K of each image. With it they are (R, 4), any
number of any image, and ``owner`` (R) int32 says whose image each is cut from.
"""

from __future__ import annotations

import numpy as np

from edge.errors import EdgeError, one_of
from edge.ops import DOMAIN, VERSION
from edge.ops.nodes import NodeBuilder, floats, shape

NAME = "RoiResize"
INT64 = 7  # onnx.TensorProto.INT64


def register_schema() -> None:
    """Register the schema with shape inference: image (B, 3, S, S), boxes (B, K, 4) → crops (B·K,
    3, S, S); with owner (R), boxes (R, 4) → crops (R, 3, S, S)."""
    import onnx
    from onnx.defs import OpSchema

    if onnx.defs.has(NAME, DOMAIN):
        return
    schema = OpSchema(
        NAME,
        DOMAIN,
        VERSION,
        doc="Crops resized to the size of the image, region by region of each image.",
        inputs=[
            OpSchema.FormalParameter("image", "T", "(B, C, S, S)"),
            OpSchema.FormalParameter("boxes", "U", "(B, K, 4), with owner (R, 4): x1 y1 x2 y2 in pixels, x2/y2 exclusive"),
            OpSchema.FormalParameter(
                "owner", "tensor(int32)", "(R), the image of each box, in [0, B)", param_option=OpSchema.FormalParameterOption.Optional
            ),
        ],
        outputs=[OpSchema.FormalParameter("crops", "T", "(B·K, C, S, S), crop b·K + k is region k of image b; with owner (R, C, S, S)")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "pixels"),
            ("U", ["tensor(float)"], "coordinates stay float32"),
        ],
        attributes=[
            OpSchema.Attribute("size", OpSchema.AttrType.INT, "side S of image and crops in pixels"),
            OpSchema.Attribute("plugin_version", onnx.helper.make_attribute("plugin_version", "1"), "TensorRT plugin version"),
            OpSchema.Attribute("plugin_namespace", onnx.helper.make_attribute("plugin_namespace", DOMAIN), "TensorRT plugin namespace"),
        ],
    )

    def infer(context: onnx.shape_inference.InferenceContext) -> None:
        image, boxes = context.get_input_type(0).tensor_type, context.get_input_type(1).tensor_type
        size = context.get_attribute("size").i
        crops = onnx.TypeProto()
        crops.tensor_type.elem_type = image.elem_type
        first = crops.tensor_type.shape.dim.add()
        if len(boxes.shape.dim) == 2:
            first.CopyFrom(boxes.shape.dim[0])
        elif len(boxes.shape.dim) == 3 and all(each.HasField("dim_value") for each in boxes.shape.dim[:2]):
            first.dim_value = boxes.shape.dim[0].dim_value * boxes.shape.dim[1].dim_value
        channels = crops.tensor_type.shape.dim.add()
        if len(image.shape.dim) == 4:
            channels.CopyFrom(image.shape.dim[1])
        for _ in range(2):
            crops.tensor_type.shape.dim.add().dim_value = size
        context.set_output_type(0, crops)

    schema.set_type_and_shape_inference_function(infer)
    onnx.defs.register_schema(schema)


# --- NumPy reference ------------------------------------------------------------------------------


def reference(image: np.ndarray, boxes: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """Resized crops.

    Args:
        image: (B, C, S, S) float32.
        boxes: (B, K, 4) float32, x1 y1 x2 y2 in pixels, x2/y2 exclusive; with ``owner`` (R, 4).
        owner: (R) int32, the image of each box.

    Returns:
        (B·K, C, S, S) float32, crop b·K + k is region k of image b; with ``owner`` (R, C, S, S).
    """
    batch, channels, size, _ = image.shape
    if owner is None:
        owner = np.arange(batch).repeat(boxes.shape[1])
    elif ((owner < 0) | (owner >= batch)).any():
        raise EdgeError("ops", f"`owner` is {owner.tolist()}, and there are {batch} images", "Count images from 0")
    boxes = boxes.reshape(-1, 4)
    crops = np.empty((len(boxes), channels, size, size), np.float32)
    for crop, (x1, y1, x2, y2), own in zip(crops, boxes, owner, strict=True):
        columns, rows = _sampling(x1, x2, size), _sampling(y1, y2, size)
        crop[:] = rows @ (image[own] @ columns.T)
    return crops


def _sampling(start: float, stop: float, size: int) -> np.ndarray:
    """(S, S) float32: weight of image sample j in crop pixel i along one axis."""
    positions = np.float64(start) + np.arange(size) * ((np.float64(stop) - 1 - start) / (size - 1))
    lower = np.clip(np.floor(positions).astype(np.int64), 0, size - 1)
    share = positions - lower
    weights = np.zeros((size, size), np.float64)
    weights[np.arange(size), lower] = 1 - share
    weights[np.arange(size), np.minimum(lower + 1, size - 1)] += share
    return weights.astype(np.float32)


# --- Decompositions into standard nodes -----------------------------------------------------------


def decompose(
    nodes: NodeBuilder, image: str, boxes: str, crops: str, *, regions: int, size: int, form: str, owner: str | None = None
) -> None:
    """Append the standard ONNX nodes (opset 19) that compute ``crops``; all forms agree to float32
    rounding.

    Args:
        nodes: builder that receives the nodes.
        image: value name, (B, C, S, S) float32.
        boxes: value name, (B, K, 4) float32; with ``owner`` (R, 4).
        crops: name of the value to produce, (B·K, C, S, S) float32; with ``owner`` (R, C, S, S).
        regions: K; with ``owner`` R, or 0 where R is symbolic.
        size: side S in pixels.
        form: key of ``FORMS``; which one is fastest where stands in docs/lowering.md.
        owner: value name, (R) int32 in [0, B).
    """
    if form not in FORMS:
        raise EdgeError("ops", f"There is no crop form {form!r}; there is {one_of(FORMS)}", "Change the lowering table")
    FORMS[form](nodes, image, boxes, crops, regions, size, owner)


def _grid_sample(nodes: NodeBuilder, image: str, boxes: str, crops: str, regions: int, size: int, owner: str | None) -> None:
    """GridSample with align_corners over one tall grid (B, K·S, S, 2), so that the image is not
    copied per region.

    With owners the images are gathered: the result comes region by region and needs no transpose,
    which would cost as much.
    """
    if owner:
        grid = nodes("Reshape", "grids", _grid(nodes, boxes, 1, size), shape(-1, size, size, 2))
        images = nodes("Gather", "image_of_region", image, owner, axis=0)
        _sampled(nodes, "crops", images, grid, output=crops)
        return
    grid = nodes("Reshape", "tall_grid", _grid(nodes, boxes, regions, size), shape(-1, regions * size, size, 2))
    tall = _sampled(nodes, "sampled", image, grid)
    by_region = nodes("Reshape", "by_region", tall, shape(0, 0, regions, size, size))
    regions_first = nodes("Transpose", "regions_first", by_region, perm=[0, 2, 1, 3, 4])
    nodes("Reshape", "crops", regions_first, shape(-1, 3, size, size), output=crops)


def _grid_sample_each(nodes: NodeBuilder, image: str, boxes: str, crops: str, regions: int, size: int, owner: str | None) -> None:
    """One GridSample per region: no transpose afterwards, and at batch 1 the Concat need not copy.

    With owners each image is gathered just before it is sampled, while it is in the cache. This
    needs to know R.
    """
    if owner and not regions:
        _grid_sample(nodes, image, boxes, crops, regions, size, owner)
        return
    grid = _grid(nodes, boxes, 1 if owner else regions, size)
    sampled = []
    for region in range(regions):
        row = nodes("Gather", f"rows_{region}", grid, np.array(region), axis=0 if owner else 1)
        own = nodes("Reshape", f"grid_{region}", row, shape(-1, size, size, 2))
        if owner:
            index = nodes("Slice", f"owner_{region}", owner, shape(region), shape(region + 1))
            whole = nodes("Gather", f"image_{region}", image, index, axis=0)
            sampled.append(_sampled(nodes, f"sampled_{region}", whole, own))
        else:
            crop = _sampled(nodes, f"sampled_{region}", image, own)
            sampled.append(nodes("Unsqueeze", f"crop_{region}", crop, shape(1)))
    stacked = nodes("Concat", "stacked", *sampled, axis=0 if owner else 1)
    nodes("Reshape", "crops", stacked, shape(-1, 3, size, size), output=crops)


def _sampled(nodes: NodeBuilder, name: str, image: str, grid: str, output: str | None = None) -> str:
    return nodes("GridSample", name, image, grid, output=output, align_corners=1, mode="bilinear", padding_mode="border")


def _grid(nodes: NodeBuilder, boxes: str, regions: int, size: int) -> str:
    """(B, K, S, 2·S): x and y of every sample in turn, in coordinates where the image spans [-1,
    1]."""
    start, reach = _start_and_reach(nodes, boxes, regions)
    start = nodes("Sub", "grid_start", nodes("Mul", "start_scaled", start, floats(2 / (size - 1))), floats(1.0))
    ramp = (np.arange(size) * (2 / (size - 1) ** 2)).astype(np.float32)[:, None]
    points = nodes("Add", "points", start, nodes("Mul", "offsets", reach, ramp))  # (B, K, S, 2): x and y of sample i
    # As a row of pairs the points hold the x of every column; y comes from the point of the row.
    columns = nodes("Reshape", "columns", points, shape(-1, regions, 1, 2 * size))
    rows = nodes("Slice", "rows", points, shape(1), shape(2), shape(3))
    return nodes("Where", "grid", np.tile([True, False], size), columns, rows)


def _matmul(nodes: NodeBuilder, image: str, boxes: str, crops: str, regions: int, size: int, owner: str | None) -> None:
    """Two matrix products with the interpolation weights of rows and columns: max(0, 1 − |position
    − sample|)."""
    if owner:
        image, regions = nodes("Gather", "image_of_region", image, owner, axis=0), 1
    start, reach = _start_and_reach(nodes, boxes, regions)
    samples = np.arange(size, dtype=np.float32)
    ramp = samples[:, None] / np.float32(size - 1)
    points = nodes("Add", "points", start, nodes("Mul", "offsets", reach, ramp))  # (B, K, S, 2): x and y of sample i
    by_axis = nodes("Transpose", "points_by_axis", points, perm=[3, 0, 1, 2])
    # weights: (2, B, K, 1, S, S), [axis, image, region, 1, crop pixel, image sample]
    distance = nodes("Abs", "distance", nodes("Sub", "difference", nodes("Unsqueeze", "point", by_axis, shape(3, 5)), samples))
    weights = nodes("Max", "weights", nodes("Sub", "overlap", floats(1.0), distance), floats(0.0))
    columns = nodes("Gather", "columns", weights, np.array(0, np.int64), axis=0)
    rows = nodes("Gather", "rows", weights, np.array(1, np.int64), axis=0)
    one_region = nodes("Unsqueeze", "image_per_region", image, shape(1))
    narrowed = nodes("MatMul", "rows_resized", rows, one_region)  # (B, K, 3, S, S)
    turned = nodes("Transpose", "columns_turned", columns, perm=[0, 1, 2, 4, 3])
    resized = nodes("MatMul", "columns_resized", narrowed, turned)
    nodes("Reshape", "crops", resized, shape(-1, 3, size, size), output=crops)


def _roi_align(nodes: NodeBuilder, image: str, boxes: str, crops: str, regions: int, size: int, owner: str | None) -> None:
    """RoiAlign with one sample per bin: bins as wide as the step, boxes shifted so that bin centres
    fall on the samples.

    ``half_pixel`` keeps one-pixel boxes exact: the other mode widens them to a whole pixel.
    """
    start, reach = _start_and_reach(nodes, boxes, 1 if owner else regions)
    first = nodes("Add", "first", nodes("Sub", "shifted", start, nodes("Mul", "half_step", reach, floats(0.5 / (size - 1)))), floats(0.5))
    last = nodes("Add", "last", first, nodes("Mul", "bins", reach, floats(size / (size - 1))))
    rois = nodes("Reshape", "rois", nodes("Concat", "roi_corners", first, last, axis=3), shape(-1, 4))
    if owner:
        index = nodes("Cast", "image_of_region", owner, to=INT64)
    else:
        batch = nodes("Gather", "batch", nodes("Shape", "image_shape", image), np.array(0, np.int64), axis=0)
        images = nodes("Unsqueeze", "images", nodes("Range", "image_range", np.array(0, np.int64), batch, np.array(1, np.int64)), shape(1))
        index = nodes("Reshape", "image_of_region", nodes("Tile", "image_per_region", images, shape(1, regions)), shape(-1))
    nodes(
        "RoiAlign",
        "crops",
        image,
        rois,
        index,
        output=crops,
        output_height=size,
        output_width=size,
        sampling_ratio=1,
        spatial_scale=1.0,
        mode="avg",
        coordinate_transformation_mode="half_pixel",
    )


def _start_and_reach(nodes: NodeBuilder, boxes: str, regions: int) -> tuple[str, str]:
    """First sample and distance to the last one along x and y, each (B, K, 1, 2), in pixels."""
    corners = nodes("Reshape", "corners", boxes, shape(-1, regions, 2, 2))
    start = nodes("Slice", "start", corners, shape(0), shape(1), shape(2))
    stop = nodes("Slice", "stop", corners, shape(1), shape(2), shape(2))
    return start, nodes("Sub", "reach", nodes("Sub", "extent", stop, floats(1.0)), start)


FORMS = {"grid_sample": _grid_sample, "grid_sample_each": _grid_sample_each, "matmul": _matmul, "roi_align": _roi_align}
