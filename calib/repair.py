"""Repairs on the side of the weights: no training, no labels, no images beyond those calibrated
on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.floating]


def bias_shift(weights: Weights, rounded: Weights, means: NDArray[np.floating], groups: int) -> NDArray[np.float64]:
    """How far rounding its weights moves the mean of each of a convolution's output channels.

    The error of a rounded weight is fixed, so its product with the mean input does not average out:
    a channel of few weights, as in a depthwise convolution, is shifted as a whole (Nagel et al.
    2019, arXiv:1906.04721, §4.2; here with the means that were observed). Taken from the bias, the
    shift is gone. Padding is disregarded: at the border less is shifted than this says.

    Args:
        weights, rounded: (O, I / groups, …) as trained, and as int8 × scale.
        means: (I,) mean of each input channel.
        groups: of the convolution.

    Returns:
        (O,) float64, to be subtracted from the bias.
    """
    outputs, inputs = weights.shape[:2]
    error = (rounded.astype(np.float64) - weights).reshape(outputs, inputs, -1).sum(2)
    of_group = means.astype(np.float64).reshape(groups, inputs)
    seen = np.repeat(of_group, outputs // groups, axis=0)  # (O, I / groups): the inputs each output channel reads
    shift: NDArray[np.float64] = (error * seen).sum(1)
    return shift
