"""RegionBoxes: sigmoid class maps of the top K classes → one box per map.

The localisation of MCAR (Gao & Zhou, TIP 2021; behaviour of the official ``obj_loc``): upsample the
map to the image size (bilinear, align_corners), take the maxima over rows and over columns, scale
each marginal to [0, 1], cut it where it crosses the threshold and keep the segment that holds the
maximum; narrow segments are widened to an eighth of the image.

Ties: every sample within ``TIE`` of a marginal's maximum counts as the maximum. Of the segments
that hold one the widest wins; of equally wide ones the one before the first cut, then the one after
the last, then the others from left to right. The published code asks for equality instead. Sigmoid
maps often come within a few roundings of 1.0 in several places, and which of them reaches it would
be up to a runtime's last bit.
"""

from __future__ import annotations

import itertools

import numpy as np

from edge.errors import EdgeError
from edge.ops import DOMAIN, VERSION
from edge.ops.nodes import NodeBuilder, floats, shape

NAME = "RegionBoxes"
BLOCKS = 16  # of the two-level running maxima; divides every image size (a multiple of 32)
MAX_SIZE = 2016  # segment codes must stay below 2**24 to be exact in float32
TIE = 2.0**-18  # of the maximum: 64 units in the last place of 1.0, where runtimes differ by up to about four
KERNEL_MAX_SIZE = 1024  # kMaxSize of kernels/region_boxes/region_boxes.cuh: what a thread block has shared memory for


def register_schema() -> None:
    """Register the schema with shape inference: cams (B, K, n, n) → boxes (B, K, 4)."""
    import onnx
    from onnx.defs import OpSchema

    if onnx.defs.has(NAME, DOMAIN):
        return
    schema = OpSchema(
        NAME,
        DOMAIN,
        VERSION,
        doc="Box of the strongest region of each class map, x1 y1 x2 y2 in pixels of the upsampled map, x2/y2 exclusive.",
        inputs=[OpSchema.FormalParameter("cams", "T", "class maps after the sigmoid, (B, K, n, n)")],
        outputs=[OpSchema.FormalParameter("boxes", "T", "(B, K, 4)")],
        type_constraints=[("T", ["tensor(float)"], "float32 only: a rounded coordinate is another crop")],
        attributes=[
            OpSchema.Attribute("size", OpSchema.AttrType.INT, "side S of the image in pixels"),
            OpSchema.Attribute("threshold", OpSchema.AttrType.FLOAT, "of the scaled marginals, within (0, 1)"),
            OpSchema.Attribute("plugin_version", onnx.helper.make_attribute("plugin_version", "1"), "TensorRT plugin version"),
            OpSchema.Attribute("plugin_namespace", onnx.helper.make_attribute("plugin_namespace", DOMAIN), "TensorRT plugin namespace"),
        ],
    )

    def infer(context: onnx.shape_inference.InferenceContext) -> None:
        cams = context.get_input_type(0)
        boxes = onnx.TypeProto()
        boxes.tensor_type.elem_type = cams.tensor_type.elem_type
        if len(cams.tensor_type.shape.dim) == 4:
            boxes.tensor_type.shape.dim.extend(cams.tensor_type.shape.dim[:2])
            boxes.tensor_type.shape.dim.add().dim_value = 4
        context.set_output_type(0, boxes)

    schema.set_type_and_shape_inference_function(infer)
    onnx.defs.register_schema(schema)


# --- NumPy reference ------------------------------------------------------------------------------


def reference(cams: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """Boxes of class maps, step by step as the official implementation goes.

    Args:
        cams: (B, K, n, n) float32, class maps after the sigmoid.
        size: side S of the image in pixels, a multiple of 32.
        threshold: of the scaled marginals, within (0, 1).

    Returns:
        (B, K, 4) float32, x1 y1 x2 y2 in pixels, x2/y2 exclusive.
    """
    check(size, threshold)
    across, down = marginals(cams, size)
    batch, regions = cams.shape[:2]
    boxes = np.empty((batch, regions, 4), np.float32)
    for index in np.ndindex(batch, regions):
        boxes[index][0::2] = bounds(across[index], threshold)
        boxes[index][1::2] = bounds(down[index], threshold)
    return boxes


def marginals(cams: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of the upsampled maps over rows and over columns: two (B, K, S) float32, along x and
    along y."""
    weights = interpolation(cams.shape[-1], size)
    upsampled = weights @ (cams @ weights.T)
    return upsampled.max(axis=-2), upsampled.max(axis=-1)


def bounds(profile: np.ndarray, threshold: float) -> tuple[int, int]:
    """Start and exclusive end of the winning segment of one raw marginal, (L,) float32: the
    official ``obj_loc`` once ties are made."""
    length = len(profile)
    least = -(-length // 8)
    high = profile.max()
    profile = np.where(profile < high - np.float32(TIE) * abs(high), profile, high)
    low = profile.min()
    with np.errstate(invalid="ignore"):
        scaled = profile / high if low == high else (profile - low) / (high - low)
        side = np.sign(scaled - np.float32(threshold))
    # A sample exactly at the threshold has sign 0 and hides the crossing.
    cuts = np.flatnonzero(np.abs(np.diff(side)) == 2).tolist()
    if len(cuts) == 0:
        return least, -(-7 * length // 8)

    # Each cut is the last sample of the left side: segments include it and exclude their own last
    # sample.
    segments = [(0, cuts[0])] if cuts[0] > 0 else []
    segments += [(cuts[-1], length), *itertools.pairwise(cuts)]
    start, end, best = 0, 0, -np.inf
    for left, right in segments:
        peak = scaled[left:right].max()
        if peak > best or (peak == best and right - left > end - start):
            start, end, best = left, right, peak

    padding = least - (end - start)
    half = -(-padding // 2)
    if padding >= 0:
        # Three conditions in sequence, the later ones on updated values.
        if start > half and length - end > padding:
            start, end = start - (half - 1), end + half
        if start < half:
            start, end = 0, least
        if length - end < half:
            start, end = length - least + 1, length
    return start, end


def interpolation(cells: int, size: int) -> np.ndarray:
    """(S, n) float32 weights of a bilinear align_corners resize along one axis, rounded as PyTorch
    rounds them."""
    step = np.float32(cells - 1) / np.float32(max(size - 1, 1))
    position = step * np.arange(size, dtype=np.float32)
    lower = np.minimum(position.astype(np.int64), cells - 1)
    share = position - lower.astype(np.float32)
    weights = np.zeros((size, cells), np.float32)
    rows = np.arange(size)
    weights[rows, lower] = np.float32(1) - share
    weights[rows, np.minimum(lower + 1, cells - 1)] += share
    return weights


def check(size: int, threshold: float) -> None:
    """Refuse sizes and thresholds outside the op's range with ``EdgeError``."""
    if size < 32 or size % 32 or size > MAX_SIZE:
        raise EdgeError(
            "ops", f"The image size {size} is not supported for finding boxes", f"Set `size` to a multiple of 32 up to {MAX_SIZE}"
        )
    if not 0 < threshold < 1:
        raise EdgeError("ops", f"The localisation threshold {threshold} is not inside (0, 1)", "Set `threshold` to a number such as 0.5")


# --- Decomposition into standard nodes ------------------------------------------------------------


def decompose(nodes: NodeBuilder, cams: str, boxes: str, *, regions: int, cells: int, size: int, threshold: float) -> None:
    """Append the standard ONNX nodes (opset 19, no data-dependent shapes) that compute ``boxes``
    from ``cams``.

    Args:
        nodes: builder that receives the nodes.
        cams: value name, (B, K, n, n) float32.
        boxes: name of the value to produce, (B, K, 4) float32.
        regions: K.
        cells: n, side of the class maps.
        size: side S of the image in pixels.
        threshold: of the scaled marginals, within (0, 1).
    """
    check(size, threshold)
    profiles = decompose_profiles(nodes, cams, cells=cells, size=size)
    decompose_bounds(nodes, profiles, boxes, regions=regions, size=size, threshold=threshold)


def decompose_profiles(nodes: NodeBuilder, cams: str, *, cells: int, size: int) -> str:
    """(B, K, n, n) maps → (B·K·2, S) marginals, along x and along y in turn, without upsampling the
    maps.

    Along one axis the bilinear curve is linear between knots, so over the samples it peaks next to
    a knot: the maximum over S rows is the maximum over the 2(n − 1) rows beside the knots.
    """
    weights = interpolation(cells, size)
    beside = weights[_samples_beside_knots(cells, size)]
    # Both axes at once: each map and its transpose. Rows first, while the map is small.
    turned = nodes("Transpose", "turned", cams, perm=[0, 1, 3, 2])
    stacked = nodes("Reshape", "maps", nodes("Concat", "stacked", cams, turned, axis=2), shape(-1, cells, cells))
    rows = nodes("MatMul", "rows", beside, stacked)
    columns = nodes("MatMul", "columns", rows, weights.T)
    return nodes("ReduceMax", "profiles", columns, shape(1), keepdims=0)


def decompose_bounds(nodes: NodeBuilder, profiles: str, boxes: str, *, regions: int, size: int, threshold: float) -> None:
    """(B·K·2, S) raw marginals → (B, K, 4) boxes.

    One whole number per sample says which segment the sample lies in, such that the smallest is the
    reference's choice and both ends can be read from it:
    ``unit·(a + S − b) + digit·(has a left cut) + digit·(has a right cut) + a`` for the segment [a,
    b). Wider wins first; then the segment before the first cut, the one after the last cut, and the
    others from left to right, as the reference visits them. It is a sum of one running maximum from
    the left and one from the right over the cuts.
    """
    digit = 1 << (size - 1).bit_length()  # holds any start
    unit = 4 * digit
    least, width = size // 8, size // BLOCKS
    blocks = shape(-1, BLOCKS, width)

    high = nodes("ReduceMax", "high", profiles, shape(1), keepdims=1)
    below = nodes("Less", "below_ties", profiles, nodes("Mul", "least_tie", high, floats(1 - TIE)))
    profiles = nodes("Where", "tied", below, profiles, high)
    low = nodes("ReduceMin", "low", profiles, shape(1), keepdims=1)
    # (v − low)/span against the threshold without the division, which some runtimes turn into a
    # rounded reciprocal; flat marginals give 0 everywhere, so no cut.
    level = nodes("Mul", "level", nodes("Sub", "span", high, low), floats(threshold))
    side = nodes("Sign", "side", nodes("Sub", "above_level", nodes("Sub", "raised", profiles, low), level))
    # Sample i is a cut where i and i + 1 lie strictly on opposite sides; the last sample is its own
    # neighbour, never a cut.
    neighbour = nodes("Gather", "neighbour", side, np.minimum(np.arange(1, size + 1), size - 1), axis=1)
    product = nodes("Reshape", "product_in_blocks", nodes("Mul", "product", side, neighbour), shape(-1, 1, BLOCKS, width))
    cut = nodes("Less", "cut", product, floats(0.0))

    index = np.arange(size)
    codes = np.stack([unit * index + digit + index, unit * (size - index) + digit]).astype(np.float32)
    cuts = nodes("Where", "cuts", cut, codes.reshape(1, 2, BLOCKS, width), floats(0.0))  # (N, 2, blocks, width)
    within = nodes("Mul", "within_masked", nodes("Unsqueeze", "cuts_per_sample", cuts, shape(3)), _masks(width, inclusive=True))
    within = nodes("ReduceMax", "within", within, shape(4), keepdims=0)
    whole = nodes("ReduceMax", "whole", cuts, shape(3), keepdims=0)
    beyond = nodes("Mul", "beyond_masked", nodes("Unsqueeze", "whole_per_block", whole, shape(2)), _masks(BLOCKS, inclusive=False))
    beyond = nodes("ReduceMax", "beyond", beyond, shape(3), keepdims=1)
    code = nodes("ReduceSum", "code", nodes("Max", "running", within, beyond), shape(1), keepdims=0)

    peak = nodes("Reshape", "peak", nodes("Equal", "is_high", profiles, high), blocks)
    code = nodes("ReduceMin", "best", nodes("Where", "at_peak", peak, code, floats(unit * size)), shape(1, 2), keepdims=0)
    window = unit * (size - 6 * least) + 2 * digit + least  # the code of [S/8, 7S/8), the answer without any cut
    code = nodes("Where", "segment", nodes("Less", "uncut", code, floats(1.0)), floats(window), code)
    _widen(nodes, code, boxes, regions=regions, size=size, digit=digit)


def _widen(nodes: NodeBuilder, code: str, boxes: str, *, regions: int, size: int, digit: int) -> None:
    """Segment codes (N,) → boxes (B, K, 4), narrow ones widened; ``end`` counts from the right
    border here."""
    least = size // 8
    outside = nodes("Floor", "outside", nodes("Mul", "units", code, floats(1 / (4 * digit))))  # S − width
    digits = nodes("Floor", "digits", nodes("Mul", "digits_and_rest", code, floats(1 / digit)))
    start = nodes("Sub", "start", code, nodes("Mul", "without_start", digits, floats(digit)))
    end = nodes("Sub", "end", outside, start)
    padding = nodes("Sub", "padding", outside, floats(size - least))
    half = nodes("Ceil", "half", nodes("Mul", "padding_halved", padding, floats(0.5)))
    start_room = nodes("Sub", "start_room", start, half)
    end_room = nodes("Sub", "end_room", end, padding)
    # Whole numbers: all three conditions hold where the smallest of these is positive.
    room = nodes("Min", "room", start_room, end_room, nodes("Add", "padding_and_one", padding, floats(1.0)))
    both = nodes("Greater", "both_ways", room, floats(0.0))
    start = nodes("Where", "start_widened", both, nodes("Add", "start_moved", start_room, floats(1.0)), start)
    end = nodes("Where", "end_widened", both, nodes("Sub", "end_moved", end, half), end)
    # A segment at least `least` wide has half <= 0, so neither border applies.
    at_left = nodes("Less", "at_left", start, half)
    at_right = nodes("Less", "at_right", end, half)
    start = nodes("Where", "start_at_right", at_right, floats(size - least + 1), start)
    end = nodes("Where", "end_at_right", at_right, floats(0.0), end)
    start = nodes("Where", "start_at_left", at_left, floats(0.0), start)
    end = nodes("Where", "end_at_left", at_left, floats(size - least), end)
    stop = nodes("Sub", "stop", floats(size), end)
    corners = (nodes("Reshape", f"{name}_by_axis", value, shape(-1, regions, 2)) for name, value in (("start", start), ("stop", stop)))
    nodes("Concat", "boxes", *corners, output=boxes, axis=2)


def _samples_beside_knots(cells: int, size: int) -> np.ndarray:
    """Indices of the samples on either side of every knot, ascending, each once: at most 2(n −
    1)."""
    if cells == 1:
        return np.array([0])
    knots = np.arange(cells) * (size - 1)
    beside: np.ndarray = np.unique(np.concatenate([knots // (cells - 1), -(-knots // (cells - 1))]))
    return beside


def _masks(length: int, *, inclusive: bool) -> np.ndarray:
    """(2, length, length) float32, [direction, sample, cut]: 1 where the cut counts for the sample
    from the left, from the right."""
    left = np.tri(length, k=0 if inclusive else -1, dtype=np.float32)
    right = np.triu(np.ones((length, length), np.float32), k=1)
    masks = np.stack([left, right])
    return masks[:, None] if inclusive else masks
