"""Labels and regions of an image: the result of ``Engine.predict``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """One region that the network found.

    Attributes:
        box: x1 y1 x2 y2 in photo pixels, x2/y2 exclusive.
        label: the class whose activation map gave the box.
        score: fused score of that class.
        looked: whether the second pass processed it.
    """

    box: tuple[float, float, float, float]
    label: str
    score: float
    looked: bool = True


@dataclass(frozen=True)
class Prediction:
    """Labels and regions of one image.

    Attributes:
        scores: (C,) float32 in [0, 1], fused.
        labels: (name, score) of the classes at or above their thresholds, best first.
        regions: the regions in rank order; empty for a model without regions.
    """

    scores: NDArray[np.float32]
    labels: list[tuple[str, float]]
    regions: list[Region]
