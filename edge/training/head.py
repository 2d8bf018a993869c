"""The classifier alone, fitted to what a backbone that was trained before makes of the images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge.models.network import CLASSIFIER, Network
from edge.training.augmentation import normalise, resize

PENALTY = 0.003  # on half the squares of the weights of standardised features
STEPS = 100
BATCH = 32


@torch.no_grad()
def fit_head(
    model: Network, images: NDArray[np.uint8], labels: NDArray[np.int8], size: int, *, turns: bool, autocast: bool, device: torch.device
) -> bool:
    """Logistic regression of each class on the features of images and their mirror images, in
    evaluation mode.

    False where the model has no head to fit so.

    Args:
        images: (N, S, S, 3) uint8 RGB.
        labels: (N, C) int8; difficult counts as positive, as in training.
        turns: both also turned by a quarter.
    """
    model.eval()
    found: list[Tensor] = []
    targets: list[NDArray[np.bool_]] = []
    for first in range(0, len(images), BATCH):
        pixels = torch.from_numpy(np.array(images[first : first + BATCH])).permute(0, 3, 1, 2).to(device)
        upright = normalise(resize(pixels, size))
        turned = (upright, upright.rot90(1, (2, 3))) if turns else (upright,)
        for view in (*turned, *(each.flip(3) for each in turned)):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                features = model.classified(view.contiguous(memory_format=torch.channels_last))
            if features is None:
                return False
            found.append(features)
            targets.append(labels[first : first + BATCH] >= 0)
    weight, bias = _regression(torch.cat(found).double(), torch.from_numpy(np.concatenate(targets)).double().to(device))
    head = model.get_submodule(CLASSIFIER)
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    head.weight.copy_(weight.T.reshape(head.weight.shape))
    head.bias.copy_(bias)
    return True


def _regression(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (F, C) and bias (C) that minimise the mean binary cross-entropy of features (N, F)
    and targets (N, C), with a penalty."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / std
    weight = features.new_zeros(features.shape[1], targets.shape[1], requires_grad=True)
    bias = features.new_zeros(targets.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        cost = functional.binary_cross_entropy_with_logits(standard @ weight + bias, targets) + PENALTY / 2 * weight.square().sum()
        torch.autograd.backward(cost)
        return cost

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    weight = weight.detach() / std[:, None]
    return weight, bias.detach() - mean @ weight
