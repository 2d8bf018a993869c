"""MCAR the way its published code runs it: torch, eager, the regions of each image found and
cropped in a Python loop.

The baseline of every ratio. It computes what ``edge.models`` computes, from the same modules, but
as the original does: all C class maps are upsampled to the image, a threshold crossing is looked up
value by value, each crop is resized alone.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.models.mcar import MCAR


class EagerMCAR(nn.Module):
    """A network of ours, run as the original runs.

    Args:
        model: its ``features`` and ``convclass`` are used, its own ``forward`` is not.
    """

    def __init__(self, model: MCAR) -> None:
        super().__init__()
        self.features, self.classifier = model.features, model.convclass
        self.pooling, self.regions, self.threshold = model.pooling, model.regions, model.threshold

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, S, S) → the outputs of ``Engine.infer``, as tensors."""
        maps = self.features(images)
        global_scores = torch.sigmoid(self.classifier(self._pool(maps))).flatten(1)
        cams = torch.sigmoid(self.classifier(maps))
        size = images.shape[-2:]
        cams = functional.interpolate(cams, size, mode="bilinear", align_corners=True)
        across = functional.max_pool2d(cams, (size[0], 1)).squeeze(2)  # (B, C, S): per column
        down = functional.max_pool2d(cams, (1, size[1])).squeeze(3)  # (B, C, S): per row
        boxes, classes, crops = [], [], []
        for index in range(images.shape[0]):
            order = global_scores[index].sort(descending=True).indices
            for rank in range(self.regions):
                label = int(order[rank].item())
                x1, x2 = bounds(_scaled(across[index, label]), self.threshold)
                y1, y2 = bounds(_scaled(down[index, label]), self.threshold)
                crop = images[index : index + 1, :, y1:y2, x1:x2]
                crops.append(functional.interpolate(crop, size, mode="bilinear", align_corners=True))
                boxes.append((x1, y1, x2, y2))
                classes.append(label)
        local = torch.sigmoid(self.classifier(self._pool(self.features(torch.cat(crops))))).flatten(1)
        local_scores = local.reshape(images.shape[0], self.regions, -1).amax(1)
        return {
            "scores": torch.maximum(global_scores, local_scores),
            "global_scores": global_scores,
            "local_scores": local_scores,
            "regions": torch.tensor(boxes, dtype=torch.float32).reshape(-1, self.regions, 4),
            "region_classes": torch.tensor(classes).reshape(-1, self.regions),
        }

    def _pool(self, maps: Tensor) -> Tensor:
        window = maps.shape[-2:]
        if self.pooling == "avg":
            return functional.avg_pool2d(maps, window)
        if self.pooling == "max":
            return functional.max_pool2d(maps, window)
        return (functional.max_pool2d(maps, window) + functional.avg_pool2d(maps, window)) / 2


def _scaled(curve: Tensor) -> Tensor:
    low, high = curve.min(), curve.max()
    return curve / high if high.item() == low.item() else (curve - low) / (high - low)


def bounds(curve: Tensor, threshold: float) -> tuple[int, int]:
    """Start and end (exclusive) of the region along one axis, from its scaled marginal (S,).

    Every choice, ties and border cases included, is the original's (Gao & Zhou 2021, published
    code).
    """
    size = curve.shape[0]
    least = math.ceil(0.125 * size)
    sides = torch.sign(curve - threshold)
    crossings = torch.nonzero((sides[1:] - sides[:-1]).abs() == 2).flatten().tolist()
    if not crossings:
        return math.ceil(0.125 * size), math.ceil(0.875 * size)
    segments = [(0, crossings[0])] if crossings[0] > 0 else []
    segments.append((crossings[-1], size))
    segments += itertools.pairwise(crossings)
    best, start, end = 0.0, 0, 0
    for left, right in segments:
        peak = curve[left:right].max().item()
        if peak > best or (peak == best and right - left > end - start):
            best, start, end = peak, left, right
    return _widened(start, end, least, size)


def _widened(start: int, end: int, least: int, size: int) -> tuple[int, int]:
    """A narrow region grows to an eighth of the image; the later conditions see what the earlier
    ones changed."""
    if end - start > least:
        return start, end
    missing = least - (end - start)
    half = math.ceil(missing / 2)
    if start > half and size - end > missing:
        start, end = start - (half - 1), end + half
    if start < half:
        start, end = 0, least
    if size - end < half:
        start, end = size - least + 1, size
    return start, end
