"""Region drift: what an engine's second pass looks at, against what the reference's looked at.

A model that chooses classes and boxes decides twice before its local stream sees anything. Rounding moves scores a little;
where that swaps two classes or moves a box, the second pass gets another input, which no tensor error shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME = 1e-3  # pixels: boxes closer than this are the same box
GOOD = 0.9  # an IoU at which a crop shows the same thing
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Drift:
    """Drift over N images with K regions each.

    Attributes:
        class_agreement: share of the reference's region classes that the engine chose too, in any order.
        mean_iou: mean IoU of the boxes of those classes; NaN where they share none.
        iou_above: share of those boxes with an IoU of at least ``GOOD``.
        images_changed: share of images of which the second pass saw another input: another set of boxes.
        agreement: (N,) share of classes agreed on, per image.
        iou: (N, K) IoU of the engine's box with the reference's box of the same class, NaN where the reference has none.
    """

    class_agreement: float
    mean_iou: float
    iou_above: float
    images_changed: float
    agreement: NDArray[np.float64] = field(repr=False, compare=False)
    iou: NDArray[np.float64] = field(repr=False, compare=False)

    def plain(self) -> dict[str, float | None]:
        """The figures as JSON types; null for what there is none of."""
        figures = {name: getattr(self, name) for name in ("class_agreement", "mean_iou", "iou_above", "images_changed")}
        return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}


def drift(engine: Outputs, reference: Outputs) -> Drift | None:
    """Drift of an engine's outputs against the reference's, over the same images in the same order.

    Args:
        engine, reference: hold ``regions`` (N, K, 4), x1 y1 x2 y2 in pixels, x2/y2 exclusive, and ``region_classes`` (N, K)
            int64; where a class stands for several regions, the best overlap counts.

    Returns:
        None for a model without regions, or where there is no image.
    """
    if any(name not in outputs for outputs in (engine, reference) for name in ("regions", "region_classes")):
        return None
    boxes, classes = engine["regions"], engine["region_classes"]
    if not len(boxes):
        return None
    same = classes[:, :, None] == reference["region_classes"][:, None, :]  # (N, K, K)
    overlap = box_iou(boxes[:, :, None], reference["regions"][:, None])
    matched = same.any(2)
    iou = np.where(matched, np.where(same, overlap, 0.0).max(2), np.nan)
    agreement = matched.mean(1)
    found = iou[matched]
    return Drift(
        class_agreement=float(agreement.mean()),
        mean_iou=float(found.mean()) if found.size else np.nan,
        iou_above=float((found >= GOOD).mean()) if found.size else np.nan,
        images_changed=float(inputs_changed(boxes, reference["regions"]).mean()),
        agreement=agreement,
        iou=iou,
    )


def inputs_changed(boxes: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether an image's boxes (N, K, 4) are another set than the reference's: order and class play no part."""
    distance = np.abs(boxes[:, :, None] - reference[:, None]).max(-1) <= SAME  # (N, K, K)
    changed: NDArray[np.bool_] = ~(distance.any(2).all(1) & distance.any(1).all(1))
    return changed


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes (…, 4), x1 y1 x2 y2, x2/y2 exclusive; 0 for empty ones."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(-1) for each in (a, b)]
    union = areas[0] + areas[1] - common
    result: NDArray[np.float64] = np.where(union > 0, common / np.where(union > 0, union, 1), 0.0)
    return result
