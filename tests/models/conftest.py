"""What tests of several architectures share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edge.models import create
from edge.models.network import Network


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="session")
def untaught() -> Callable[[Network, torch.Tensor], list[str]]:
    """Names of the parameters behind the backbone that a step of training gives no gradient."""

    def find(model: Network, images: torch.Tensor) -> list[str]:
        model.zero_grad()
        model.train().loss(model.training_outputs(images), torch.eye(5)[:2]).backward()
        model.eval()
        silent = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
        return [name for name in silent if not name.startswith("features")]

    return find


@pytest.fixture(scope="session")
def small() -> Network:
    """An MCAR of five classes with random weights, which nobody changes."""
    torch.manual_seed(0)
    return create("mcar-mobilenetv2", num_classes=5, regions=2)
