"""Where a class is: parameter-free localisation from class maps, and the crop that zooms in on it.

Source: Gao & Zhou, "Learning to discover multi-class attentional regions for multi-label image
recognition", IEEE TIP 2021, section III-C, in the form of the authors' published code with its
tie-breaks and padding quirks, which checkpoints were trained with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edge.errors import EdgeError
from edge.ops.region_boxes import TIE

MIN_SHARE, LOW, HIGH = 0.125, 0.125, 0.875  # least width, and the window used where nothing crosses the threshold


def bounds(profiles: Tensor, threshold: float) -> Tensor:
    """Start and end of the interval that holds a curve's highest peak.

    The curve is min-max normalised and cut where it crosses the threshold. Of the segments that
    hold the maximum, or a sample within ``TIE`` of it, the widest wins; of equals the first, then
    the last, then those between in order. Narrow results are padded.

    Args:
        profiles: (N, L) float, raw marginals in (0, 1).
        threshold: in (0, 1), on the normalised curve.

    Returns:
        (N, 2) int64, start and end (exclusive), on the same device.

    Raises:
        EdgeError: threshold outside (0, 1), where no curve would ever cross it.
    """
    check_threshold(threshold)
    length = profiles.shape[1]
    high = profiles.amax(1, keepdim=True)
    profiles = torch.where(profiles < high - TIE * high.abs(), profiles, high)
    low = profiles.amin(1, keepdim=True)
    span = high - low
    # A flat curve has no crossing, whatever it is divided by.
    curve = torch.where(span > 0, (profiles - low) / torch.where(span > 0, span, torch.ones_like(span)), torch.ones_like(profiles))

    sign = torch.sign(curve - threshold)
    crossing = functional.pad((sign[:, 1:] - sign[:, :-1]).abs() == 2, (0, 1))
    index = torch.arange(length, device=profiles.device)
    # The cut before each sample (at or left of it), and the next one to its right: the sample's
    # segment is [left, right).
    left = torch.where(crossing, index, torch.full_like(index, -1)).cummax(1).values
    ahead = torch.where(crossing, index, torch.full_like(index, length)).flip(1).cummin(1).values.flip(1)
    right = functional.pad(ahead[:, 1:], (0, 1), value=length)

    start = left.clamp(min=0)
    middle = torch.where(right == length, torch.ones_like(right), 2 + index)
    rank = torch.where(left < 0, torch.zeros_like(right), middle)
    preference = (right - start) * (length + 4) - rank
    winner = torch.where(curve == 1, preference, torch.full_like(preference, -(length + 4) * length)).argmax(1, keepdim=True)
    start, end = start.gather(1, winner).squeeze(1), right.gather(1, winner).squeeze(1)
    start, end = _padded(start, end, length)

    nothing = ~crossing.any(1)
    start = torch.where(nothing, torch.full_like(start, math.ceil(LOW * length)), start)
    end = torch.where(nothing, torch.full_like(end, math.ceil(HIGH * length)), end)
    return torch.stack([start, end], 1)


def check_threshold(threshold: float) -> None:
    """Refuse a localisation threshold outside (0, 1)."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise EdgeError(
            "models", f"The localisation threshold {threshold!r} is not inside (0, 1)", "Set `threshold` to a number such as 0.5"
        )


def _padded(start: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Widen what is not wider than an eighth of the image; three steps in order, the later ones see
    the earlier ones' result."""
    least = math.ceil(MIN_SHARE * length)
    narrow = end - start <= least
    pad = least - (end - start)
    half = (pad + 1).div(2, rounding_mode="floor")
    central = narrow & (start > half) & (length - end > pad)
    start, end = torch.where(central, start - (half - 1), start), torch.where(central, end + half, end)
    at_left = narrow & (start < half)
    start, end = torch.where(at_left, torch.zeros_like(start), start), torch.where(at_left, torch.full_like(end, least), end)
    at_right = narrow & (length - end < half)
    start = torch.where(at_right, torch.full_like(start, length - least + 1), start)
    end = torch.where(at_right, torch.full_like(end, length), end)
    return start, end


def boxes_of(cams: Tensor, size: int, threshold: float) -> Tensor:
    """cams: (B, K, n, n) sigmoid class maps → boxes: (B, K, 4) float32, x1 y1 x2 y2 in pixels of a
    size × size image, x2/y2 exclusive."""
    batch, count = cams.shape[:2]
    columns, rows = [], []
    for maps in cams.float():  # one image at a time bounds the memory: K × size × size
        upsampled = functional.interpolate(maps[None], (size, size), mode="bilinear", align_corners=True)[0]
        columns.append(upsampled.amax(1))
        rows.append(upsampled.amax(2))
    x = bounds(torch.stack(columns).reshape(-1, size), threshold)
    y = bounds(torch.stack(rows).reshape(-1, size), threshold)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).reshape(batch, count, 4).float()


@torch.library.custom_op("edge::region_boxes", mutates_args=())
def region_boxes(cams: Tensor, size: int, threshold: float) -> Tensor:
    """``boxes_of`` as one node of a graph."""
    return boxes_of(cams, size, threshold)


@region_boxes.register_fake
def _(cams: Tensor, size: int, threshold: float) -> Tensor:
    return cams.new_empty(cams.shape[0], cams.shape[1], 4, dtype=torch.float32)


@torch.library.custom_op("edge::roi_resize", mutates_args=())
def roi_resize(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut out each box (end exclusive) and resize it bilinearly with align_corners; box k of image
    b is crop b·K + k.

    image: (B, 3, S, S), boxes: (B, K, 4) x1 y1 x2 y2 in pixels → (B·K, 3, size, size).
    """
    # One call per box is exact, and on a CPU as fast as one sampling grid for all.
    crops = []
    for index, per_image in enumerate(boxes.round().long().tolist()):
        for x1, y1, x2, y2 in per_image:
            crop = image[index : index + 1, :, y1:y2, x1:x2]
            crops.append(functional.interpolate(crop, (size, size), mode="bilinear", align_corners=True))
    return torch.cat(crops)


@roi_resize.register_kernel("cuda")
def sampled(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The same on a sampling grid: the boxes never pass through the host, so a CUDA graph can hold
    it. Arguments as for ``roi_resize``.

    In float32, whatever the image is: coordinates in half precision would be off by pixels.
    """
    count, height, width = boxes.shape[1], *image.shape[-2:]
    flat = boxes.reshape(-1, 4).float().round()
    begin, last = flat[:, :2], flat[:, 2:] - 1
    steps = torch.arange(size, device=boxes.device, dtype=torch.float32) / (size - 1)
    places = begin[:, :, None] + (last - begin)[:, :, None] * steps  # (B·K, 2, size), in pixels
    x, y = places[:, 0] * (2 / (width - 1)) - 1, places[:, 1] * (2 / (height - 1)) - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], 3)
    crops = functional.grid_sample(image.float().repeat_interleave(count, 0), grid, mode="bilinear", align_corners=True)
    return crops.to(image.dtype)


@roi_resize.register_fake
def _(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    return image.new_empty(boxes.shape[0] * boxes.shape[1], image.shape[1], size, size)
