"""A backbone, global pooling and a classifier: one pass, scores only. What the other architectures
are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.models import Option
from edge.models.backbones import BACKBONES
from edge.models.network import Network, check_classes, check_side
from edge.models.pooling import check_pooling, pool


class Plain(Network):
    """A plain multi-label classifier.

    Args:
        backbone: a key of ``BACKBONES``.
        num_classes: C.
        pooling: ``avg``, ``max`` or ``gwp`` (the mean of both).

    Raises:
        EdgeError: an option out of range.
    """

    def __init__(self, backbone: str, num_classes: int, *, pooling: str = "avg") -> None:
        super().__init__()
        check_classes(num_classes)
        check_pooling(pooling)
        make, channels, names = BACKBONES[backbone]
        self.features, self.backbone = make(), backbone
        self.convclass = nn.Conv2d(channels, num_classes, 1)
        self.layer_names = {**names, "convclass": "classifier"}
        self.pooling = pooling

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) float32 normalised → ``scores`` (B, C) in [0, 1].

        Raises:
            EdgeError: the image is not square, or its side no multiple of 32.
        """
        return {"scores": torch.sigmoid(self.training_outputs(image)["logits"].float())}

    def training_outputs(
        self, image: Tensor, *, streams: str = "both", sample: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``logits`` (B, C) and the backbone's ``maps`` (B, F, n, n)."""
        check_side(image)
        maps = self.features(image)
        return {"logits": self.convclass(pool(self.enriched(maps), self.pooling)).flatten(1), "maps": maps}

    def classified(self, image: Tensor) -> Tensor | None:
        """The pooled features, (B, F)."""
        return pool(self.enriched(self.features(image)), self.pooling).flatten(1)

    def enriched(self, maps: Tensor) -> Tensor:
        """What is done to the backbone's maps before they are pooled, (B, F, n, n) both; here
        nothing."""
        return maps

    def spec_options(self) -> dict[str, Option]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        return {"pooling": self.pooling}
