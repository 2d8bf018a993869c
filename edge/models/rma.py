"""RMA: a recurrent cell that looks at K regions of the feature map in turn and decides from each
where to look next.

Source: Wang et al., "Multi-label image recognition by recurrently discovering attentional regions",
ICCV 2017. There is no code by the authors; ``rma-vgg16`` keeps the published sizes, the edge
configuration is smaller (docs/models.md).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import EdgeError, one_of
from edge.models import Option
from edge.models.backbones import BACKBONES
from edge.models.network import Network, check_classes, check_side, is_count
from edge.models.pooling import check_pooling
from edge.models.recipe import Augmentation, Phase, Recipe

SCORES = ("softmax", "sigmoid")
ANCHORS = ("loss", "offset")
# Section 3.4: largest scale without penalty, smallest likewise, weights of anchor, positive and all
# localisation terms.
ALPHA, BETA, ANCHOR_WEIGHT, POSITIVE_WEIGHT, LOCALISATION_WEIGHT = 0.5, 0.1, 0.01, 0.1, 0.1
RADIUS = math.sqrt(0.5)  # of the circle the anchors stand on


@dataclass(frozen=True)
class Sizes:
    """Defaults that go with a backbone."""

    pooling: str
    width: int
    hidden: int
    embedding: int
    score: str
    anchors: str


PUBLISHED = Sizes("max", 4096, 4096, 4096, "softmax", "loss")
EDGE = Sizes("avg", 256, 256, 128, "sigmoid", "offset")
SIZES = {"vgg16": PUBLISHED, "mobilenetv2": EDGE}


class RMA(Network):
    """Recurrent memorised attention.

    Args:
        backbone: a key of ``BACKBONES``.
        num_classes: C.
        regions: K, steps after the first, which sees the whole map.
        score: ``softmax`` (shares that sum to 1, as published) or ``sigmoid`` (a probability per
            class).
        anchors: what draws the regions apart: a ``loss`` towards anchors, or an ``offset`` added to
            where the network looks.
        pooling: ``max`` keeps a region's layout (grid × grid samples, 2 × 2 maxima, as published),
            ``avg`` its mean.
        grid: samples along each side of a region.
        width, hidden, embedding: units of a region's feature, of the cell, of what scores and
            places are read from; None for the backbone's own sizes, as for ``score``, ``anchors``
            and ``pooling``.

    Raises:
        EdgeError: an option out of range.
    """

    float_layers = ("localise",)  # a place is fed back: its rounding would grow from step to step

    def __init__(
        self, backbone: str, num_classes: int, *, regions: int = 5, score: str | None = None, anchors: str | None = None,
        pooling: str | None = None, grid: int = 14, width: int | None = None, hidden: int | None = None, embedding: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        own = SIZES[backbone]
        self.score, self.anchor_mode = own.score if score is None else score, own.anchors if anchors is None else anchors
        self.pooling = own.pooling if pooling is None else pooling
        width, hidden = own.width if width is None else width, own.hidden if hidden is None else hidden
        embedding = own.embedding if embedding is None else embedding
        check_classes(num_classes)
        check_pooling(self.pooling, ("avg", "max"))
        counts = {"regions": regions, "grid": grid, "width": width, "hidden": hidden, "embedding": embedding}
        for name, value in counts.items():
            if not is_count(value):
                raise EdgeError("models", f"`{name}` is {value!r}, which is not a positive number", f"Set `{name}` to 1 or more")
        for name, chosen, known in (("score", self.score, SCORES), ("anchors", self.anchor_mode, ANCHORS)):
            if chosen not in known:
                raise EdgeError("models", f"There is no {name} {chosen!r}", f"Change `{name}` to {one_of(known)}")
        if grid < 2:
            raise EdgeError("models", f"`grid` is {grid}, which is too small", "Set `grid` to 2 or more")
        make, channels, names = BACKBONES[backbone]
        self.features, self.backbone = make(), backbone
        inputs = channels * (grid // 2) ** 2 if self.pooling == "max" else channels
        self.region = nn.Linear(inputs, width)
        self.cell = Cell(width, hidden)
        self.embed = nn.Linear(hidden, embedding)
        self.convclass = nn.Linear(embedding, num_classes)
        self.localise = nn.Linear(embedding, 4)  # scale x, scale y, shift x, shift y
        self.layer_names = {**names, "convclass": "classifier"}
        self.regions, self.grid = regions, grid
        self._sizes = {"width": width, "hidden": hidden, "embedding": embedding}
        # Samples of a region in its own coordinates, -1 to 1; and the K anchors.
        self.register_buffer("samples", torch.linspace(-1, 1, grid), persistent=False)
        self.register_buffer("centres", torch.tensor(anchors_of(regions)), persistent=False)
        self.samples: Tensor
        self.centres: Tensor
        self._look_everywhere()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) float32 normalised → ``scores`` (B, C) in [0, 1], ``regions`` (B, K, 4)
        float32 x1 y1 x2 y2 in input pixels, ``region_classes`` (B, K) int64: the strongest class of
        each step, in the order of the steps.

        Raises:
            EdgeError: the image is not square, or its side no multiple of 32.
        """
        outputs = self.training_outputs(image)
        logits = outputs["logits"].float()
        strongest = logits.amax(1)
        return {
            "scores": torch.softmax(strongest, 1) if self.score == "softmax" else torch.sigmoid(strongest),
            "regions": boxes_of(outputs["places"], image.shape[-1]),
            "region_classes": logits.argmax(2),
        }

    def training_outputs(
        self, image: Tensor, *, streams: str = "both", sample: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``logits`` (B, K, C) of each step and ``places`` (B, K, 4) float32 of its region: scale
        x, y and shift x, y in -1 to 1."""
        check_side(image)
        maps = self.features(image)
        places, logits = [], []
        state = self.cell(self._region(maps, maps.new_tensor([[1.0, 1.0, 0.0, 0.0]]).float()), None)
        embedded = functional.relu(self.embed(state[0]))
        for step in range(self.regions):
            places.append(self._place(embedded, step))
            state = self.cell(self._region(maps, places[-1]), state)
            embedded = functional.relu(self.embed(state[0]))
            logits.append(self.convclass(embedded))
        return {"logits": torch.stack(logits, 1), "places": torch.stack(places, 1)}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Of the strongest step (section 3.4), and of where the steps look.

        ``softmax``: squared distance of the shares to equal shares of what is there; an image that
        shows nothing has none. ``sigmoid``: binary cross-entropy of the strongest step, and of each
        step.
        """
        logits = outputs["logits"].float()
        strongest = logits.amax(1)
        if self.score == "softmax":
            present = targets.sum(1)
            wanted = targets / present.clamp(min=1)[:, None]
            distance = (torch.softmax(strongest, 1) - wanted).square().sum(1) * (present > 0)
            recognition = distance.sum() / (present > 0).sum().clamp(min=1)
        else:
            entropy = functional.binary_cross_entropy_with_logits
            recognition = entropy(strongest, targets) + entropy(logits, targets[:, None].expand_as(logits))
        return recognition + LOCALISATION_WEIGHT * localisation_loss(outputs["places"], self.centres)

    def initialise(self, generator: torch.Generator) -> None:
        """As any network; the places begin at their anchors or in the middle, the cell begins by
        remembering."""
        super().initialise(generator)
        self._look_everywhere()

    def adapted(self, recipe: Recipe) -> Recipe:
        """In the published recipe: Adam, learning rate 1e-5, a tenth after two thirds of the run,
        crops of many sizes, no weight decay.

        A cell that was not part of a published network learns ten times as fast, its backbone at
        that rate.
        """
        recipe = super().adapted(recipe)
        if recipe.name != "official":
            return recipe
        size, faster = recipe.phases[0].size, 1.0 if self._published else 10.0
        early = max(1, round(recipe.epochs * 2 / 3))
        counts = ((early, 1e-5 * faster), (recipe.epochs - early, 1e-6 * faster))
        phases = tuple(Phase(size, count, (rate, rate), batch=16) for count, rate in counts if count)
        return replace(
            recipe,
            phases=phases,
            optimiser="adamw",
            weight_decay=0.0,
            backbone_lr=1 / faster,
            augmentation=Augmentation(crop=0.4, jitter=0),
        )

    def spec_options(self) -> dict[str, Option]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        return {
            "regions": self.regions, "score": self.score, "anchors": self.anchor_mode, "pooling": self.pooling, "grid": self.grid,
            **self._sizes,
        }  # fmt: skip

    def _look_everywhere(self) -> None:
        """Places that do not depend on the image yet: all of it, or a quarter around each
        anchor."""
        scale = 0.5 if self.anchor_mode == "offset" else 1.0
        with torch.no_grad():
            self.localise.weight.zero_()
            self.localise.bias.copy_(torch.tensor([scale, scale, 0.0, 0.0]))
            self.cell.remember()

    def _place(self, embedded: Tensor, step: int) -> Tensor:
        """(B, embedding) → (B, 4), in float32 under autocast too."""
        with _exactly(embedded):
            place: Tensor = self.localise(embedded.float())
            if self.anchor_mode == "offset":
                place = place + functional.pad(self.centres[step], (2, 0))
            return place

    def _region(self, maps: Tensor, place: Tensor) -> Tensor:
        """Feature (B, width) of the region (B or 1, 4) of maps (B, F, n, n).

        A place has no rotation, so the bilinear sampler is two small matrix products, and exact.
        """
        with _exactly(maps):
            maps = maps.float()
            sampler = profiles(self.samples, place, maps.shape[-1])  # (B, 2, grid, n)
            if self.pooling == "avg":
                # The mean of the samples is one weight per pixel.
                across, down = sampler.mean(2, keepdim=True).unbind(1)
                seen = (maps.flatten(2) @ (down.transpose(1, 2) @ across).flatten(1)[:, :, None]).squeeze(2)
            else:
                across, down = sampler[:, 0:1], sampler[:, 1:2]
                seen = functional.max_pool2d(down @ maps @ across.transpose(2, 3), 2).flatten(1)
        return functional.relu(self.region(seen))

    @property
    def _published(self) -> bool:
        return self.pooling == PUBLISHED.pooling and self._sizes["hidden"] == PUBLISHED.hidden


class Cell(nn.Module):
    """A long short-term memory cell; gates in torch's order (input, forget, cell, output)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)

    def remember(self) -> None:
        """A forget gate that starts open."""
        hidden = self.recurrent.in_features
        with torch.no_grad():
            self.input.bias[hidden : 2 * hidden] = 1.0

    def forward(self, seen: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """(B, width) and the state before (None: all zero) → hidden and cell state, (B, hidden)
        both."""
        gates = self.input(seen)
        if state is not None:
            gates = gates + self.recurrent(state[0])
        enter, keep, new, leave = gates.float().chunk(4, 1)
        cell = torch.sigmoid(enter) * torch.tanh(new)
        if state is not None:
            cell = cell + torch.sigmoid(keep) * state[1]
        return torch.sigmoid(leave) * torch.tanh(cell), cell


def anchors_of(regions: int) -> list[tuple[float, float]]:
    """Where each step is drawn to, x y in -1 to 1: the first to the middle, the others to a circle
    around it (section 3.4)."""
    angles = [math.pi / 4 + 2 * math.pi * index / max(1, regions - 1) for index in range(regions - 1)]
    circle = [(round(RADIUS * math.cos(angle), 6), round(RADIUS * math.sin(angle), 6)) for angle in angles]
    return [(0.0, 0.0), *sorted(circle, reverse=True)]


def profiles(samples: Tensor, place: Tensor, length: int) -> Tensor:
    """Weights (B, 2, grid, length) of the pixels of a row (0) and of a column (1): bilinear,
    corners aligned, zero outside.

    Args:
        samples: (grid,) in -1 to 1 of the region.
        place: (B, 4) scale x, y and shift x, y.
        length: pixels of a row and of a column.
    """
    position = (place[:, :2, None] * samples + (place[:, 2:, None] + 1)) * ((length - 1) / 2)
    pixels = torch.arange(length, device=samples.device, dtype=samples.dtype)
    return functional.relu(1 - (position[:, :, :, None] - pixels).abs())


def boxes_of(places: Tensor, size: int) -> Tensor:
    """Places (B, K, 4) → boxes (B, K, 4) float32 x1 y1 x2 y2 in pixels, inside the image and at
    least a pixel wide; a mirrored region is the same box."""
    half, centre = places[:, :, :2].abs() / 2, (places[:, :, 2:] + 1) / 2
    low = ((centre - half) * size).clamp(0, size - 1)
    high = torch.maximum(((centre + half) * size).clamp(1, size), low + 1)
    return torch.cat([low, high], 2)


def localisation_loss(places: Tensor, centres: Tensor) -> Tensor:
    """Anchor, scale and positive terms (section 3.4), summed over the steps, averaged over the
    batch.

    Args:
        places: (B, K, 4); centres: (K, 2).
    """
    scale, shift = places[:, :, :2], places[:, :, 2:]
    anchor = (shift - centres).square().sum(2) / 2
    large = functional.relu(scale.abs() - ALPHA).square().sum(2)
    positive = functional.relu(BETA - scale).sum(2)
    return (large + ANCHOR_WEIGHT * anchor + POSITIVE_WEIGHT * positive).sum(1).mean()


def _exactly(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast inside; nothing at all where there is none, which a trace then does not see."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
