"""Rounding weights so that what a convolution gives changes least, not each weight by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.scales import LEVELS

Array = NDArray[np.float64]
DAMPING = 0.01  # of the mean variance: inputs that calibration images hardly show must not decide
BLOCK = 64  # columns whose error is passed on to the rest in one product


def round_weights(weights: Array, covariance: Array, scales: Array) -> NDArray[np.int8]:
    """Integers that keep the outputs of a linear layer (Frantar et al. 2022, arXiv:2210.17323,
    after Hassibi & Stork 1993).

    Columns are rounded one after another, those of the most variance first; what rounding one
    changes in the output is made good by the columns still to come, as far as their inputs go
    together with its input. The mean is no concern here: the bias takes it.

    Args:
        weights: (G, O, K) of G groups, K inputs each.
        covariance: (G, K, K) of the inputs, as rounded.
        scales: (G, O) step of each output.

    Returns:
        (G, O, K) in -127 … 127.
    """
    inputs = weights.shape[2]
    variance = np.einsum("gkk->gk", covariance)
    order = np.argsort(-variance.mean(0), kind="stable")
    rest = weights[:, :, order].astype(np.float64)
    damped = covariance[:, order][:, :, order] + (DAMPING * variance.mean(1) + 1e-9)[:, None, None] * np.eye(inputs)
    passed_on = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # upper triangular
    rounded = np.empty_like(rest)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = np.zeros((*rest.shape[:2], end - start))
        for k in range(start, end):
            rounded[:, :, k] = np.clip(np.round(rest[:, :, k] / scales), -LEVELS, LEVELS)
            errors[:, :, k - start] = (rest[:, :, k] - rounded[:, :, k] * scales) / passed_on[:, k, k, None]
            rest[:, :, k:end] -= errors[:, :, k - start, None] * passed_on[:, None, k, k:end]
        rest[:, :, end:] -= errors @ passed_on[:, start:end, end:]
    result = np.empty(rounded.shape, np.int8)
    result[:, :, order] = rounded
    return result


def patches(
    values: NDArray[np.float32],
    positions: NDArray[np.int64],
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: tuple[int, ...],
    groups: int,
) -> NDArray[np.float32]:
    """What a convolution reads for some of its outputs: (groups, K, N · P), K in the order of its
    weights.

    Args:
        values: (N, C, H, W), its input.
        positions: (P, 2) rows and columns of outputs.
        pads: top, left, bottom, right.
    """
    top, left, bottom, right = pads
    if any(pads):
        values = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = positions[:, 0] * stride[0], positions[:, 1] * stride[1]
    taps = [values[:, :, rows + y * dilation[0], columns + x * dilation[1]] for y in range(kernel[0]) for x in range(kernel[1])]
    channels = values.shape[1]
    stacked = np.stack(taps, 2).transpose(1, 2, 0, 3)  # (C, taps, N, P)
    return np.ascontiguousarray(stacked).reshape(groups, channels // groups * len(taps), -1)
