"""Region drift: the regions of an engine's second pass compared with those of the reference.

A model that chooses classes and boxes makes two discrete decisions before its local stream sees
anything. Rounding shifts scores a little; if that swaps two classes or moves a box, the second pass
gets another input, which no tensor error shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.graph import Outputs

SAME = 1e-3  # pixels: boxes closer than this are the same box
GOOD = 0.9  # an IoU at which a crop shows the same thing
RESAMPLES, LEVEL = 1000, 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Drift:
    """Drift over images with K regions each; None for what there is none of.

    Attributes:
        class_agreement: share of the reference's region classes that the engine chose too, in any
            order.
        mean_iou: mean IoU of the boxes of those classes.
        iou_above: share of those boxes with an IoU of at least ``GOOD``.
        images_changed: share of images of which the second pass saw another input: another set of
            boxes.
        class_agreement_interval, mean_iou_interval: 95 %, by bootstrap over the images; None where
            no class is shared.
    """

    class_agreement: float
    mean_iou: float | None
    iou_above: float | None
    images_changed: float
    class_agreement_interval: Interval | None = None
    mean_iou_interval: Interval | None = None


def drift(engine: Outputs, reference: Outputs) -> Drift | None:
    """Drift of an engine's outputs against the reference's, over the same images in the same order.

    Returns:
        None for a model without regions, or where there is no image.
    """
    if any(name not in outputs for outputs in (engine, reference) for name in ("regions", "region_classes")):
        return None
    if not len(engine["regions"]):
        return None
    iou = region_iou(engine, reference)
    found = iou[~np.isnan(iou)]
    shared, overlap = _intervals(iou) if found.size else (None, None)
    return Drift(
        class_agreement=found.size / iou.size,
        mean_iou=float(found.mean()) if found.size else None,
        iou_above=float((found >= GOOD).mean()) if found.size else None,
        images_changed=float(inputs_changed(engine["regions"], reference["regions"]).mean()),
        class_agreement_interval=shared,
        mean_iou_interval=overlap,
    )


def _intervals(iou: NDArray[np.float64]) -> tuple[Interval, Interval]:
    """Of class agreement and mean IoU: images drawn with replacement, percentiles of the
    results."""
    images, regions = iou.shape
    shared, overlap = (~np.isnan(iou)).sum(1), np.nansum(iou, 1)
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)  # how often each image
    found = drawn @ shared
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    means = (drawn @ overlap)[found > 0] / found[found > 0]
    agreement, mean = (np.quantile(values, tails).tolist() for values in (found / (images * regions), means))
    return (agreement[0], agreement[1]), (mean[0], mean[1])


def region_iou(engine: Outputs, reference: Outputs) -> NDArray[np.float64]:
    """(N, K) IoU of the engine's box with the reference's box of the same class, NaN where the
    reference has none.

    Args:
        engine, reference: hold ``regions`` (N, K, 4), x1 y1 x2 y2 in pixels, x2/y2 exclusive, and
            ``region_classes`` (N, K) int64; where a class stands for several regions, the best
            overlap counts.
    """
    same = engine["region_classes"][:, :, None] == reference["region_classes"][:, None, :]  # (N, K, K)
    overlap = box_iou(engine["regions"][:, :, None], reference["regions"][:, None])
    best: NDArray[np.float64] = np.where(same.any(2), np.where(same, overlap, 0.0).max(2), np.nan)
    return best


def inputs_changed(boxes: np.ndarray, reference: np.ndarray) -> NDArray[np.bool_]:
    """(N,) whether an image's boxes (N, K, 4) are another set than the reference's: order and class
    play no part."""
    distance = np.abs(boxes[:, :, None] - reference[:, None]).max(-1) <= SAME  # (N, K, K)
    changed: NDArray[np.bool_] = ~(distance.any(2).all(1) & distance.any(1).all(1))
    return changed


def box_iou(a: np.ndarray, b: np.ndarray) -> NDArray[np.float64]:
    """Intersection over union of boxes (…, 4), x1 y1 x2 y2, x2/y2 exclusive; 0 for empty ones."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(-1) for each in (a, b)]
    union = areas[0] + areas[1] - common
    result: NDArray[np.float64] = np.where(union > 0, common / np.where(union > 0, union, 1), 0.0)
    return result
