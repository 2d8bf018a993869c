"""Localisation and crop against plain scalar code written down from the method, and against the
recorded official bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from edge.errors import EdgeError
from edge.models.localisation import bounds, sampled
from edge.ops import region_boxes


def scalar_bounds(profile: np.ndarray, threshold: float) -> tuple[int, int]:
    """One curve at a time, with loops: the oracle of the vectorised form."""
    length = len(profile)
    least = math.ceil(0.125 * length)
    high = profile.max()
    profile = np.where(profile < high - np.float32(2**-18) * abs(high), profile, high)
    low = profile.min()
    curve = (profile - low) / (high - low) if high > low else np.ones_like(profile)
    sign = np.sign(curve - np.float32(threshold))
    cuts = [index for index in range(length - 1) if abs(sign[index + 1] - sign[index]) == 2]
    if not cuts:
        return math.ceil(0.125 * length), math.ceil(0.875 * length)
    ordered = [(0, cuts[0]), (cuts[-1], length), *itertools.pairwise(cuts)]
    best, start, end = -1.0, 0, 0
    for a, b in ordered:
        if b <= a:
            continue
        peak = curve[a:b].max()
        if peak > best or (peak == best and b - a > end - start):
            best, start, end = peak, a, b
    if end - start <= least:
        pad = least - (end - start)
        half = math.ceil(pad / 2)
        if start > half and length - end > pad:
            start, end = start - (half - 1), end + half
        if start < half:
            start, end = 0, least
        if length - end < half:
            start, end = length - least + 1, length
    return start, end


def curve(length: int, *spans: tuple[int, int]) -> np.ndarray:
    """Zero but for plateaus of one over the given spans (last index included)."""
    values = np.zeros(length, np.float32)
    for first, last in spans:
        values[first : last + 1] = 1
    return values


# Worked by hand from the rules; S = 448 unless another length is given.
WORKED = {
    "one plateau: its last sample belongs to the background behind it": (curve(448, (100, 199)), 0.5, (199, 448)),
    "two plateaus": (curve(448, (100, 149), (250, 299)), 0.5, (299, 448)),
    "ramp": (np.linspace(0, 1, 448, dtype=np.float32), 0.5, (223, 448)),
    "flat": (np.full(448, 0.3, np.float32), 0.5, (56, 392)),
    "samples on the threshold hide a crossing": (np.array([0, 0.5, 1, 0.5, 0], np.float32), 0.5, (1, 5)),
    "peak at the last index": (curve(448, (447, 447)), 0.5, (393, 448)),
    "one-sample peak": (curve(448, (29, 29)), 0.5, (29, 448)),
}


@pytest.mark.parametrize("name", WORKED)
def test_worked_curves(name):
    values, threshold, expected = WORKED[name]
    assert tuple(bounds(torch.from_numpy(values)[None], threshold)[0].tolist()) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1, 57, (2, 57)), (4, 54, (0, 56)), (3, 53, (3, 53)), (392, 446, (392, 446)), (100, 300, (100, 300))],
)
def test_the_least_width_has_its_quirks(start, end, expected):
    from edge.models.localisation import _padded

    a, b = _padded(torch.tensor([start]), torch.tensor([end]), 448)
    assert (a.item(), b.item()) == expected


def test_every_recorded_official_bound(golden):
    compared, recorded = 0, golden.read("localisation")
    for key, profiles in recorded.items():
        if key.startswith("profile_"):
            _, length, threshold = key.split("_")
            found = bounds(torch.from_numpy(profiles), float(threshold))
            np.testing.assert_array_equal(found.numpy(), recorded[f"bounds_{length}_{threshold}"])
            compared += len(found)
    assert compared > 1000


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("length", [32, 64, 256, 448])
def test_vectorised_equals_scalar_on_random_curves(length, threshold):
    rng = np.random.default_rng(length)
    smooth = np.cumsum(rng.standard_normal((150, length)), 1)
    steps = rng.integers(0, 4, (150, length)) / 3  # many ties and samples near the threshold
    spiky = rng.random((150, length)) ** 8
    curves = np.concatenate([smooth, steps, spiky]).astype(np.float32)
    found = bounds(torch.from_numpy(curves), threshold).numpy()
    for index, values in enumerate(curves):
        assert tuple(found[index]) == scalar_bounds(values, threshold), f"curve {index} of length {length} at {threshold}"


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 2])
def test_a_threshold_without_crossings_is_refused(threshold):
    with pytest.raises(EdgeError, match="`threshold`"):
        bounds(torch.rand(1, 32), threshold)


def test_boxes_of_saturated_maps_do_not_hang_on_the_last_bit(saturated):
    expected = region_boxes.reference(saturated[0], 256, 0.5)
    for cams in saturated:
        np.testing.assert_array_equal(torch.ops.edge.region_boxes(torch.from_numpy(cams), 256, 0.5), expected)


def test_boxes_are_the_bounds_of_both_marginals():
    maps = torch.sigmoid(3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    boxes = torch.ops.edge.region_boxes(maps, 256, 0.5)
    full = functional.interpolate(maps, (256, 256), mode="bilinear", align_corners=True)
    for b in range(2):
        for k in range(3):
            x1, x2 = scalar_bounds(full[b, k].amax(0).numpy(), 0.5)
            y1, y2 = scalar_bounds(full[b, k].amax(1).numpy(), 0.5)
            assert boxes[b, k].tolist() == [x1, y1, x2, y2]


@pytest.mark.parametrize("width", [1, 2, 55, 56, 447, 448])
def test_crops_are_cut_and_resized_with_corners_aligned(width):
    image = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(1))
    start = (448 - width) // 2
    box = torch.tensor([[[start, 0, start + width, 448]]], dtype=torch.float32)
    expected = functional.interpolate(image[:, :, :, start : start + width], (448, 448), mode="bilinear", align_corners=True)
    torch.testing.assert_close(torch.ops.edge.roi_resize(image, box, 448), expected, rtol=0, atol=1e-5)


def test_crops_come_image_by_image():
    images = torch.stack([torch.full((3, 64, 64), float(value)) for value in (1, 2)])
    boxes = torch.tensor([[[0, 0, 32, 32], [8, 8, 40, 40], [0, 0, 64, 64]]] * 2, dtype=torch.float32)
    assert torch.ops.edge.roi_resize(images, boxes, 64)[:, 0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]


def test_crops_on_a_sampling_grid_are_those_of_the_loop():
    """What a GPU runs, here on the CPU."""
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 96, 96, generator=generator)
    boxes = torch.tensor([[[0, 0, 96, 96], [5, 9, 17, 93]], [[80, 0, 96, 12], [31, 40, 64, 52]]]).float()
    assert torch.allclose(sampled(image, boxes, 96), torch.ops.edge.roi_resize(image, boxes, 96), atol=2e-5)


def test_boxes_and_crops_on_a_gpu_never_pass_through_the_host():
    """A value that the host would need, or a constant made there, cannot be in a CUDA graph;
    tensors without data refuse both."""
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=False):  # of which there are no such tensors
        image = torch.empty(2, 3, 96, 96, device="cuda")
        found = bounds(torch.empty(8, 96, device="cuda"), 0.5)
        crops = sampled(image, torch.empty(2, 4, 4, device="cuda"), 96)
        assert found.device.type == crops.device.type == "cuda"
        assert crops.shape == (8, 3, 96, 96)
