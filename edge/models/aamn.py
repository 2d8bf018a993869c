"""AAMN: one pass whose feature map is enriched by a memory of the classes, channel relations and
spatial relations.

A reimplementation from the abstract of Zhou et al., "Attention-augmented memory network for image
multi-label classification", ACM TOMM 2023. Which modules there are is known; their order, sizes,
update rule and loss are choices made here (docs/models.md). No result of the paper is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import EdgeError
from edge.models import Option
from edge.models.network import Network, is_count
from edge.models.plain import Plain

WIDTHS = {"mobilenetv2": 128}  # of the modules; 512 on other backbones
UNSEEN = -1e4  # added to the attention of a class without prototype; exp gives exact zero


class AAMN(Plain):
    """Attention-augmented memory network. Each module can be left out, to see what it brings.

    Args:
        backbone: a key of ``BACKBONES``.
        num_classes: C; the memory holds one prototype for each.
        pooling: ``avg``, ``max`` or ``gwp`` (the mean of both).
        memory, channel, spatial: which modules there are.
        width: channels inside the modules; None for 128 on MobileNetV2, 512 else.
        momentum: share of a prototype that stays when a batch shows its class, in [0, 1).

    Raises:
        EdgeError: an option out of range.
    """

    def __init__(
        self, backbone: str, num_classes: int, *, pooling: str = "gwp", memory: bool = True, channel: bool = True, spatial: bool = True,
        width: int | None = None, momentum: float = 0.9,
    ) -> None:  # fmt: skip
        super().__init__(backbone, num_classes, pooling=pooling)
        for name, value in (("memory", memory), ("channel", channel), ("spatial", spatial)):
            if not isinstance(value, bool):
                raise EdgeError("models", f"`{name}` is {value!r}", f"Set `{name}` to true or false")
        width = WIDTHS.get(backbone, 512) if width is None else width
        if not is_count(width):
            raise EdgeError("models", f"`width` is {width!r}, which is not a positive number", "Set `width` to 1 or more")
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
            raise EdgeError("models", f"`momentum` is {momentum!r}", "Set `momentum` to 0 or more and less than 1, such as 0.9")
        channels = self.convclass.in_channels
        self.memory = CategoricalMemory(channels, num_classes, width, momentum) if memory else nn.Identity()
        self.channel = ChannelRelation(channels, width) if channel else nn.Identity()
        self.spatial = SpatialRelation(channels, width) if spatial else nn.Identity()
        self._options = {"memory": memory, "channel": channel, "spatial": spatial, "width": width, "momentum": momentum}

    def enriched(self, maps: Tensor) -> Tensor:
        """Memory, then channels, then space."""
        enriched: Tensor = self.spatial(self.channel(self.memory(maps)))
        return enriched

    def observe(self, outputs: Mapping[str, Tensor], targets: Tensor) -> None:
        """Move the prototypes of the classes a batch shows towards what it shows of them."""
        if isinstance(self.memory, CategoricalMemory):
            with torch.no_grad():
                maps = outputs["maps"].detach().float()
                self.memory.remember(maps, self.convclass(maps), targets)

    def initialise(self, generator: torch.Generator) -> None:
        """As any network; the modules begin as almost no change, the memory empty."""
        super().initialise(generator)
        for module in (self.memory, self.spatial):
            if isinstance(module, (CategoricalMemory, SpatialRelation)):
                module.begin()

    def warm(self, images: Tensor) -> None:
        """Statistics, prototypes as if each image showed every class, and weights of a size that
        suits the maps."""
        super().warm(images)
        with torch.no_grad():
            outputs = self.training_outputs(images)
            # The maps of a deep random backbone are many times a trained one's, and likeness is
            # quadratic in them: a softmax of it, and the scores behind, would hang on the last bit.
            size = outputs["maps"].square().mean().sqrt()
            for name, module in self.named_modules():
                if name in ("memory.query", "memory.key", "channel.reduce"):
                    module.weight.div_(size)
            self.observe(outputs, torch.ones(len(images), self.convclass.out_channels))
            self.convclass.weight.div_(self.training_outputs(images)["logits"].std())

    def fused_for_export(self) -> Network:
        """Also with each module folded into what of it is constant once training is over."""
        folded = super().fused_for_export()
        for name, module in list(folded.named_children()):
            if isinstance(module, (CategoricalMemory, ChannelRelation, SpatialRelation)):
                folded.set_submodule(name, module.folded())
        return folded

    def spec_options(self) -> dict[str, Option]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        return {**super().spec_options(), **self._options}


class CategoricalMemory(nn.Module):
    """Each pixel reads a mixture of the classes' prototypes, weighted by its likeness to them: X +
    V softmax(K Q X / √width).

    ``prototypes`` (C, F) are running means of what images show of a class; ``seen`` (C,) tells
    which have been shown at all. Both are in the checkpoint. The others are masked.
    """

    def __init__(self, channels: int, classes: int, width: int, momentum: float) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Linear(channels, width, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.register_buffer("prototypes", torch.zeros(classes, channels))
        self.register_buffer("seen", torch.zeros(classes))  # a float, so that it follows the mean of the weights
        self.prototypes: Tensor
        self.seen: Tensor
        self.momentum = momentum
        self.begin()

    def begin(self) -> None:
        """An empty memory whose answers start small."""
        with torch.no_grad():
            self.value.weight.mul_(0.03)
            self.prototypes.zero_()
            self.seen.zero_()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, F, n, n) → (B, F, n, n)."""
        attention, response = self.matrices()
        likeness = functional.conv2d(maps, attention, torch.where(self.seen > 0, 0.0, UNSEEN))
        return maps + functional.conv2d(torch.softmax(likeness, 1), response)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """What the memory is to a map: (C, F, 1, 1) attention and (F, C, 1, 1) response. Neither
        depends on the image."""
        query = self.query.weight.flatten(1)
        attention = self.key(self.prototypes) @ query / math.sqrt(len(query))
        return attention[:, :, None, None], self.value(self.prototypes).T[:, :, None, None]

    def remember(self, maps: Tensor, class_maps: Tensor, targets: Tensor) -> None:
        """Update from a batch.

        Args:
            maps: (B, F, n, n) of the backbone.
            class_maps: (B, C, n, n) logits; where a class is strong is where its feature is taken
                from.
            targets: (B, C) of 0 and 1. The mean over a batch's images makes the update independent
                of their order.
        """
        where = torch.softmax(class_maps.flatten(2), 2)
        features = where @ maps.flatten(2).transpose(1, 2)  # (B, C, F)
        count = targets.sum(0)
        shown = (features * targets[:, :, None]).sum(0) / count.clamp(min=1)[:, None]
        rate = torch.where(self.seen > 0, 1 - self.momentum, 1.0) * (count > 0)
        self.prototypes.lerp_(shown, rate[:, None])
        self.seen.copy_(torch.maximum(self.seen, (count > 0).float()))

    def folded(self) -> nn.Module:
        """Two small convolutions; classes never seen are not in them."""
        seen = self.seen > 0
        if not bool(seen.any()):
            return nn.Identity()
        with torch.no_grad():
            attention, response = self.matrices()
            return FoldedMemory(attention[seen].contiguous(), response[:, seen].contiguous())


class FoldedMemory(nn.Module):
    """A memory that no longer changes."""

    def __init__(self, attention: Tensor, response: Tensor) -> None:
        super().__init__()
        self.attention = _convolution(attention)
        self.response = _convolution(response)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.add(maps, self.response(torch.softmax(self.attention(maps), 1)))


class ChannelRelation(nn.Module):
    """Channels that differ support each other: affinity of reduced channels, then a gate for each
    channel of the map.

    Affinity as in Fu et al., DANet (CVPR 2019), whose row maximum drops out of the softmax; the
    local convolution as in Wang et al., ECA-Net (CVPR 2020). The mean over pixels is taken before
    the affinity is applied, which is the same and cheaper.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.near = nn.Conv1d(1, 1, 5, padding=2, bias=False)
        self.gate = nn.Linear(width, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, F, n, n) → (B, F, n, n)."""
        reduced = self.reduce(maps).flatten(2)
        affinity = reduced @ reduced.transpose(1, 2) / reduced.shape[2]
        mixed = (torch.softmax(-affinity, 2) @ reduced.mean(2, keepdim=True)).squeeze(2)
        return maps * (1 + torch.sigmoid(self.gate(self.near(mixed[:, None]).squeeze(1))))[:, :, None, None]

    def folded(self) -> nn.Module:
        """The local convolution and the matrix behind it are one matrix."""
        near = self.near(torch.eye(self.gate.in_features)[:, None]).squeeze(1)  # row i: what channel i gives
        with torch.no_grad():
            self.gate.weight.copy_(self.gate.weight @ near.T)
        self.near = nn.Identity()  # type: ignore[assignment]
        return self


class SpatialRelation(nn.Module):
    """Each pixel reads all others, weighted by the covariance of their features over channels: X +
    γ W(V softmax(scale · Σ)).

    Σ as the position covariance of Gao et al., GSoP-Net (CVPR 2019). γ starts at 0: no change.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = max(1, width // 4)
        self.embed = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.value = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.scale = nn.Parameter(torch.tensor(1 / math.sqrt(inner)))
        self.gamma = nn.Parameter(torch.zeros(()))

    def begin(self) -> None:
        """No change at first."""
        with torch.no_grad():
            self.gamma.zero_()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, F, n, n) → (B, F, n, n)."""
        grid = maps.shape[-1]
        embedded = self.embed(maps).flatten(2)
        centred = embedded - embedded.mean(1, keepdim=True)
        attention = torch.softmax(centred.transpose(1, 2) @ centred * self.scale, 2)  # (B, n², n²)
        read = self.value(maps).flatten(2) @ attention.transpose(1, 2)
        return torch.add(maps, self.gamma * self.expand(read.unflatten(2, (grid, grid))))

    def folded(self) -> nn.Module:
        """γ is a factor of the last convolution."""
        with torch.no_grad():
            self.expand.weight.mul_(self.gamma)
            self.expand.bias.mul_(self.gamma)  # type: ignore[union-attr]
            self.gamma.fill_(1.0)
        return self


def _convolution(weight: Tensor) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    made.weight = nn.Parameter(weight)
    return made
