"""What an engine's outputs on the images that decide are worth, at each effort, and how sure that
is.

A rule for the second pass looks too good on the images it was fitted on, so every effort is judged
cross-fitted (``calib.effort``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.effort import fused, looked_at
from edge.graph import REGION_SCORES, Outputs
from edge.measure.accuracy import average_precision, map_drop_interval
from edge.spec import RuleSpec

RESAMPLES = 500
ERRORS = 2 * 1.96  # that a 95 % interval spans


@dataclass(frozen=True)
class Worth:
    """An engine at one effort.

    Attributes:
        looks: regions processed per image; None without a second pass.
        map: in points.
        error: standard error of its difference to the reference, in points; paired, by image.
    """

    effort: float
    looks: float | None
    map: float
    error: float


def worth(
    outputs: Outputs, labels: NDArray[np.integer], reference: NDArray[np.floating], rule: RuleSpec | None, size: int
) -> tuple[Worth, ...]:
    """By rising effort; an engine of one stage has only effort 1.

    Args:
        outputs: of ``infer_each``; of ``infer`` for an engine of one stage.
        labels: (N, C).
        reference: (N, C) scores that every drop is counted from.
        rule: of the engine's second stage; None for one of one stage.
        size: side of the engine's input in pixels.
    """
    if rule is None:
        regions = outputs["region_classes"].shape[1] if "region_classes" in outputs else None
        return (Worth(1.0, regions, mean_ap(outputs["scores"], labels), standard_error(reference, outputs["scores"], labels)),)
    from calib.effort import fit_effort

    steps = fit_effort(outputs, labels, size, effort=1.0).steps
    errors = [standard_error(reference, scores_at(outputs, rule, step.effort), labels) for step in steps]
    return tuple(Worth(step.effort, step.looks, step.map, error) for step, error in zip(steps, errors, strict=True))


def standard_error(reference: NDArray[np.floating], scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Of the difference in mAP between two engines on the same images, in points."""
    low, high = map_drop_interval(reference, scores, labels, resamples=RESAMPLES)
    return (high - low) / ERRORS


def scores_at(outputs: Outputs, rule: RuleSpec | None, effort: float) -> NDArray[np.float32]:
    """(N, C) at an effort."""
    if rule is None or REGION_SCORES not in outputs:
        whole: NDArray[np.float32] = outputs["scores"]
        return whole
    return fused(outputs, looked_at(rule, outputs, effort))


def mean_ap(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """mAP in points."""
    return 100 * float(average_precision(scores, labels).mean())
