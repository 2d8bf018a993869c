"""Global pooling of feature maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from edge.errors import EdgeError, one_of

POOLINGS = ("avg", "gwp", "max")


def pool(maps: Tensor, pooling: str) -> Tensor:
    """(B, F, n, n) → (B, F, 1, 1); ``gwp`` is the mean of the other two."""
    if pooling == "avg":
        return functional.adaptive_avg_pool2d(maps, 1)
    most = maps.amax((2, 3), keepdim=True)  # torch 2.9 exports no adaptive maximum
    return most if pooling == "max" else (most + functional.adaptive_avg_pool2d(maps, 1)) / 2


def check_pooling(pooling: object, known: tuple[str, ...] = POOLINGS) -> None:
    """Refuse a pooling that is not among ``known``."""
    if pooling not in known:
        raise EdgeError("models", f"There is no pooling {pooling!r} here", f"Change `pooling` to {one_of(known)}")
