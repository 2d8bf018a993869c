"""The arithmetic of the CUDA kernels, run on the CPU by host.cpp, against references in double and
against torch."""

from __future__ import annotations

import ctypes
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from edge.ops import region_boxes, roi_resize

FORMATS = {"fp32 linear": 0, "fp16 linear": 1, "fp16 hwc8": 2}

Array = np.ndarray


def pointer(array: Array) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def reference_crop(host: ctypes.CDLL, image: Array, boxes: Array, size: int, owner: Array | None = None) -> Array:
    """image (B, 3, H, W) float32, boxes (B, K, 4) float32, or (R, 4) with owner (R) int32 ->
    (crops, 3, size, size) float64."""
    batch, _, height, width = image.shape
    crops = boxes.size // 4
    out = np.full((crops, 3, size, size), np.nan)
    own = None if owner is None else pointer(owner)
    host.reference_roi_resize(pointer(image), pointer(boxes), own, batch, crops, height, width, size, pointer(out))
    return out


def kernel_crop(
    host: ctypes.CDLL,
    image: Array,
    boxes: Array,
    size: int,
    form: str = "fp32 linear",
    owner: Array | None = None,
    staged: bool = True,
) -> Array:
    """As reference_crop; out in the layout of the format, poisoned before so that an unwritten
    element shows."""
    batch, _, height, width = image.shape
    crops = boxes.size // 4
    kind, layout = form.split()
    dtype = {"fp32": np.float32, "fp16": np.float16}[kind]
    shape = (crops, 3, size, size) if layout == "linear" else (crops, size, size, 8)
    out = np.full(shape, np.nan, dtype)
    code = host.kernel_roi_resize(
        pointer(image), int(image.dtype == np.float16), pointer(boxes), None if owner is None else pointer(owner),
        batch, crops, height, width, size, FORMATS[form], int(staged), pointer(out),
    )  # fmt: skip
    assert code == 0
    return out


def torch_crop(image: Array, boxes: Array, size: int, dtype: torch.dtype = torch.float64) -> Array:
    """The published way: slice, then interpolate each crop."""
    pixels = torch.from_numpy(image).to(dtype)
    crops = []
    for picture, own in zip(pixels, boxes.astype(int), strict=True):
        for x1, y1, x2, y2 in own:
            crops.append(interpolate(picture[None, :, y1:y2, x1:x2], (size, size), mode="bilinear", align_corners=True))
    return torch.cat(crops).numpy()


def distance(out: Array, truth: Array) -> float:
    return float(np.linalg.norm(out.astype(np.float64) - truth) / np.linalg.norm(truth))


def border_boxes(size: int, extent: int) -> Array:
    """Boxes of one width at every border and corner and in the middle, (1, 9, 4)."""
    starts = (0, (size - extent) // 2, size - extent)
    return np.array([[[x, y, x + extent, y + extent] for y in starts for x in starts]], np.float32)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("extent", [1, 2, 55, 56, 447, 448])
def test_crop_reference_equals_interpolate_at_every_border(host: ctypes.CDLL, extent: int) -> None:
    image, boxes = noise(1, 3, 448, 448), border_boxes(448, extent)
    np.testing.assert_allclose(reference_crop(host, image, boxes, 448), torch_crop(image, boxes, 448), atol=1e-12)


@pytest.mark.parametrize("extent", [1, 2, 55, 56, 447, 448])
def test_crop_kernel_is_within_rounding_of_the_reference(host: ctypes.CDLL, extent: int) -> None:
    image, boxes = noise(1, 3, 448, 448), border_boxes(448, extent)
    truth = reference_crop(host, image, boxes, 448)
    error = distance(kernel_crop(host, image, boxes, 448), truth)
    assert error <= 3e-7
    # Which of two results within one rounding of the truth lies nearer is chance.
    assert error <= max(distance(torch_crop(image, boxes, 448, torch.float32), truth), float(np.finfo(np.float32).eps))


def test_crop_of_the_whole_image_is_the_image(host: ctypes.CDLL) -> None:
    image = noise(2, 3, 96, 96)
    boxes = np.broadcast_to(np.array([0, 0, 96, 96], np.float32), (2, 1, 4)).copy()
    np.testing.assert_array_equal(kernel_crop(host, image, boxes, 96), image)


def test_boxes_outside_the_image_are_clamped_and_never_empty(host: ctypes.CDLL) -> None:
    image = noise(1, 3, 32, 48)
    wild = np.array([[[-9, -4, 60, 99], [40, 30, 40, 30], [47, 31, 48, 32], [99, 99, 120, 120], [np.nan, 3, np.nan, 9]]], np.float32)
    tame = np.array([[[0, 0, 48, 32], [40, 30, 41, 31], [47, 31, 48, 32], [47, 31, 48, 32], [0, 3, 1, 9]]], np.float32)
    truth = reference_crop(host, image, tame, 64)
    np.testing.assert_allclose(reference_crop(host, image, wild, 64), truth, atol=1e-12)
    assert distance(kernel_crop(host, image, wild, 64), truth) <= 3e-7


def test_downscaling_odd_sizes_and_fractional_boxes_match_the_reference(host: ctypes.CDLL) -> None:
    image = noise(2, 3, 90, 130)
    boxes = np.array([[[0, 0, 130, 90], [3, 5, 128, 9]], [[2.5, 7.25, 99.75, 88.5], [17, 0, 18, 90]]], np.float32)
    for size in (1, 33, 62, 90):
        # A fractional origin costs one rounding of the position, 2^-17 of a pixel here.
        assert distance(kernel_crop(host, image, boxes, size), reference_crop(host, image, boxes, size)) <= 2e-6


@pytest.mark.parametrize("half_image", [False, True])
def test_every_output_format_is_the_fp32_result_rounded_once(host: ctypes.CDLL, half_image: bool) -> None:
    image = noise(2, 3, 64, 64).astype(np.float16 if half_image else np.float32)
    boxes = np.array([[[0, 0, 64, 64], [5, 9, 40, 17]], [[63, 0, 64, 64], [20, 20, 52, 52]]], np.float32)
    exact = kernel_crop(host, image, boxes, 64)
    np.testing.assert_array_equal(kernel_crop(host, image, boxes, 64, "fp16 linear"), exact.astype(np.float16))
    packed = kernel_crop(host, image, boxes, 64, "fp16 hwc8")
    np.testing.assert_array_equal(packed[..., :3], exact.transpose(0, 2, 3, 1).astype(np.float16))
    assert not packed[..., 3:].any(), "padding channels must be zero"


@pytest.mark.parametrize("owner", [[0, 1, 2], [2, 2, 0, 1, 0], [1], [-5, 3, 99]])
def test_every_box_is_cut_from_its_owner_and_no_owner_reads_beside_the_images(host: ctypes.CDLL, owner: list[int]) -> None:
    image, boxes = noise(3, 3, 64, 64), border_boxes(64, 20)[0, : len(owner)].copy()
    owners = np.array(owner, np.int32)
    truth = reference_crop(host, image, boxes, 64, owners)
    clamped = owners.clip(0, 2)
    np.testing.assert_allclose(truth, torch_crop(image[clamped], boxes[:, None], 64), atol=1e-12)
    np.testing.assert_allclose(roi_resize.reference(image, boxes, clamped), truth, atol=1e-5)
    for form in FORMATS:
        # Boxes of one image each: what the kernel did before there were owners.
        expected = kernel_crop(host, image[clamped], boxes[:, None].copy(), 64, form)
        np.testing.assert_array_equal(kernel_crop(host, image, boxes, 64, form, owner=owners), expected)


def test_sixteen_bit_error_is_at_most_twice_torchs(host: ctypes.CDLL) -> None:
    image = noise(1, 3, 224, 224).astype(np.float16)
    boxes = np.array([[[0, 0, 224, 224], [11, 30, 139, 75], [200, 3, 224, 220]]], np.float32)
    truth = reference_crop(host, image.astype(np.float32), boxes, 224)
    ours = distance(kernel_crop(host, image, boxes, 224, "fp16 linear"), truth)
    assert ours <= 2 * distance(torch_crop(image, boxes, 224, torch.float16), truth)


# Versions of the ladder and their threads.
LADDER = [(9, 64), (10, 128), (11, 32), (11, 64), (11, 128), (12, 32), (12, 64), (13, 64), (13, 256), (14, 224)]


def ladder_crop(
    host: ctypes.CDLL, version: int, threads: int, image: Array, boxes: Array, size: int, owner: Array | None = None
) -> Array | None:
    """As kernel_crop with fp16 in and out; None where the version does not take the problem."""
    batch, _, height, width = image.shape
    # Staged versions copy 16 bytes at a time.
    room = np.empty(image.nbytes + 16, np.uint8)
    start = -room.ctypes.data % 16
    pixels = room[start : start + image.nbytes].view(np.float16)
    pixels[:] = image.ravel()
    out = np.full((boxes.size // 4, 3, size, size), np.nan, np.float16)
    own = None if owner is None else pointer(owner)
    code = host.ladder_roi_resize(
        version, threads, pointer(pixels), pointer(boxes), own, batch, boxes.size // 4, height, width, size, pointer(out)
    )
    assert code in (0, 2)
    return out if code == 0 else None


@pytest.mark.parametrize(("version", "threads"), LADDER)
def test_crops_of_the_ladder_equal_the_products(host: ctypes.CDLL, version: int, threads: int) -> None:
    random = np.random.default_rng(version)
    owner = np.array([1, 0, 0, 1, 1, 0], np.int32)
    for size, height, width in ((448, 448, 448), (256, 200, 256), (60, 60, 56), (96, 33, 16)):
        image = noise(2, 3, height, width).astype(np.float16)
        corners = random.uniform(-0.1, 1.1, (6, 2, 2)) * (width, height)
        whole = corners.round() if size != 60 else corners
        boxes = np.sort(whole, axis=1).reshape(6, 4).astype(np.float32)
        boxes[0], boxes[1], boxes[2] = (0, 0, width, height), (width - 1, height - 2, width, height), (np.nan, 3, np.nan, 9)
        expected = kernel_crop(host, image, boxes, size, "fp16 linear", owner=owner, staged=False)
        found = ladder_crop(host, version, threads, image, boxes, size, owner)
        assert found is not None
        np.testing.assert_array_equal(found, expected)
    # Crops made smaller skip source rows: a stage would have to be larger, so the staged versions
    # refuse them.
    image, boxes = noise(1, 3, 90, 128).astype(np.float16), np.array([[[0, 0, 128, 90], [3, 5, 126, 9]]], np.float32)
    found = ladder_crop(host, version, threads, image, boxes, 62)
    assert (found is None) == (version >= 11)
    if found is not None:
        np.testing.assert_array_equal(found, kernel_crop(host, image, boxes, 62, "fp16 linear"))


@pytest.mark.parametrize("half_image", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_staged_crops_equal_those_of_tiles_in_every_format(host: ctypes.CDLL, form: str, half_image: bool) -> None:
    boxes = np.random.default_rng(1).uniform(0, 144, (6, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + boxes[::-1, 2:]
    boxes[0], boxes[1] = (0, 0, 144, 130), (143, 128, 144, 130)
    for size in (144, 170, 333):  # multiples of 4 and of 2, and neither
        image = noise(2, 3, 130, 144).astype(np.float16 if half_image else np.float32)
        tiles = kernel_crop(host, image, boxes, size, form, staged=False)
        np.testing.assert_array_equal(kernel_crop(host, image, boxes, size, form), tiles)


# ----------------------------------------------------------------------------
# region boxes


def intervals(function: ctypes._NamedFuncPointer, profiles: Array, threshold: float, *threads: int) -> Array:
    out = np.full((len(profiles), 2), -1, np.int32)
    function(pointer(profiles), *profiles.shape, ctypes.c_float(threshold), *threads, pointer(out))
    return out


def find_boxes(function: ctypes._NamedFuncPointer, maps: Array, size: int, threshold: float, *threads: int) -> Array:
    out = np.full((len(maps), 4), np.nan, np.float32)
    function(pointer(maps), len(maps), maps.shape[1], size, ctypes.c_float(threshold), *threads, pointer(out))
    return out


def smooth_maps(count: int, grid: int, seed: int = 0) -> Array:
    """Class maps with one to three blobs, as a network makes them, and a few saturated or flat
    ones."""
    random = np.random.default_rng(seed)
    axis = np.arange(grid)
    logits = random.normal(-3, 0.7, (count, grid, grid))
    for blob in range(3):
        centre, width = random.uniform(0, grid, (count, 2, 1, 1)), random.uniform(0.7, grid / 4, (count, 1, 1))
        height = random.uniform(0, 8, (count, 1, 1)) * (random.random((count, 1, 1)) < 1 / (blob + 1))
        distances = (axis[None, :, None] - centre[:, 0]) ** 2 + (axis[None, None, :] - centre[:, 1]) ** 2
        logits += height * np.exp(-distances / (2 * width**2))
    maps = (1 / (1 + np.exp(-logits))).astype(np.float32)
    maps[0], maps[1] = 0.25, 1.0
    return maps


def torch_marginals(maps: Array, size: int) -> tuple[Array, Array]:
    stretched = interpolate(torch.from_numpy(maps)[:, None], (size, size), mode="bilinear", align_corners=True)[:, 0]
    return stretched.amax(1).numpy(), stretched.amax(2).numpy()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_bounds_equal_the_official_ones_on_every_recorded_profile(host: ctypes.CDLL, golden: ModuleType, threshold: float) -> None:
    recorded = golden.read("localisation")
    names = [name for name in recorded if name.startswith("profile_") and name.endswith(f"_{threshold}")]
    assert len(names) == 7
    for name in names:
        profiles, expected = np.ascontiguousarray(recorded[name]), recorded[name.replace("profile", "bounds")]
        np.testing.assert_array_equal(intervals(host.reference_bounds, profiles, threshold), expected)
        for threads in (32, 256):
            np.testing.assert_array_equal(intervals(host.kernel_bounds, profiles, threshold, threads), expected)


def plateau(length: int, *ranges: tuple[int, int]) -> Array:
    profile = np.zeros(length, np.float32)
    for begin, end in ranges:
        profile[begin:end] = 1
    return profile


# Intervals worked out by hand from the published rules, each one a branch or a quirk of them.
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        pytest.param(plateau(448, (100, 200)), (199, 448), id="falling edge: the background segment holds the peak"),
        pytest.param(plateau(448, (100, 150), (250, 300)), (299, 448), id="two plateaus"),
        pytest.param(np.linspace(0, 1, 448, dtype=np.float32), (223, 448), id="ramp"),
        pytest.param(np.full(448, 0.3, np.float32), (56, 392), id="flat: central window"),
        pytest.param(np.zeros(448, np.float32), (56, 392), id="zero: central window"),
        pytest.param(np.full(448, np.nan, np.float32), (56, 392), id="NaN: central window"),
        pytest.param(np.array([0, 0.5, 1, 0.5, 0], np.float32), (1, 5), id="samples on the threshold hide the crossing"),
        pytest.param(plateau(448, (447, 448)), (393, 448), id="peak in the last sample"),
        pytest.param(plateau(448, (29, 30)), (29, 448), id="single peak"),
        pytest.param(plateau(448, (0, 1)), (0, 448), id="crossing at the first sample"),
    ],
)
def test_bounds_of_known_profiles(host: ctypes.CDLL, profile: Array, expected: tuple[int, int]) -> None:
    assert tuple(intervals(host.reference_bounds, profile[None], 0.5)[0]) == expected
    assert tuple(intervals(host.kernel_bounds, profile[None], 0.5, 64)[0]) == expected


@pytest.mark.parametrize("length", [32, 256, 448, 1024])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_bounds_of_the_block_equal_the_sequential_ones(host: ctypes.CDLL, length: int, threshold: float) -> None:
    random = np.random.default_rng(length)
    rough = random.random((300, length))
    knots = random.random((300, 9))
    smooth = np.stack([np.interp(np.linspace(0, 8, length), np.arange(9), row) for row in knots])
    # Few levels make ties, plateaus and samples that equal the threshold.
    levels = np.repeat(random.integers(0, 11, (300, length // 4)) / 10, 4, axis=1)
    for profiles in (rough, smooth, levels, np.clip(smooth, 0.3, 0.6)):
        profiles = np.ascontiguousarray(profiles, np.float32)
        expected = intervals(host.reference_bounds, profiles, threshold)
        np.testing.assert_array_equal(intervals(host.kernel_bounds, profiles, threshold, 128), expected)


@pytest.mark.parametrize(("grid", "size"), [(8, 256), (14, 448), (18, 576)])
def test_boxes_of_maps_equal_torchs_for_all_but_one_in_a_thousand(host: ctypes.CDLL, grid: int, size: int) -> None:
    maps = smooth_maps(1000, grid, seed=grid)
    xs, ys = torch_marginals(maps, size)
    x, y = intervals(host.reference_bounds, xs, 0.5), intervals(host.reference_bounds, ys, 0.5)
    expected = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    found = find_boxes(host.kernel_region_boxes, maps, size, 0.5, 128)
    assert np.mean((found == expected).all(axis=1)) >= 0.999


def test_boxes_of_saturated_maps_do_not_hang_on_the_last_bit(host: ctypes.CDLL, saturated: list[Array]) -> None:
    expected = region_boxes.reference(saturated[0], 256, 0.5).reshape(-1, 4)
    for cams in saturated:
        maps = cams.reshape(-1, 8, 8)
        np.testing.assert_array_equal(find_boxes(host.reference_region_boxes, maps, 256, 0.5), expected)
        np.testing.assert_array_equal(find_boxes(host.kernel_region_boxes, maps, 256, 0.5, 64), expected)


def test_boxes_do_not_depend_on_the_block_size(host: ctypes.CDLL) -> None:
    maps = smooth_maps(20, 14, seed=5)
    first = find_boxes(host.kernel_region_boxes, maps, 448, 0.5, 32)
    for threads in (64, 256, 1024):
        np.testing.assert_array_equal(find_boxes(host.kernel_region_boxes, maps, 448, 0.5, threads), first)
    assert len(np.unique(first, axis=0)) > 10


def test_block_and_reference_agree_on_maps(host: ctypes.CDLL) -> None:
    maps = smooth_maps(150, 8, seed=3)
    expected = find_boxes(host.reference_region_boxes, maps, 256, 0.5)
    assert np.mean((find_boxes(host.kernel_region_boxes, maps, 256, 0.5, 64) == expected).all(axis=1)) >= 0.999


def test_flat_saturated_and_broken_maps_give_the_central_window(host: ctypes.CDLL) -> None:
    maps = np.stack([np.full((14, 14), value, np.float32) for value in (0.0, 0.25, 1.0)])
    broken = smooth_maps(3, 14)[2:]
    broken[0, 3, 4] = np.nan
    for function, threads in ((host.reference_region_boxes, ()), (host.kernel_region_boxes, (96,))):
        found = find_boxes(function, np.concatenate([maps, broken]), 448, 0.5, *threads)
        np.testing.assert_array_equal(found, np.tile(np.array([56, 56, 392, 392], np.float32), (4, 1)))
