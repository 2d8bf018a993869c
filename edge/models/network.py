"""What the exporter, the trainer and the checkpoints ask of a network, whatever its
architecture."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import EdgeError
from edge.models import Option
from edge.models.recipe import Recipe
from edge.models.rounded import Rounded

STRIDE = 32
CLASSIFIER = "convclass"


class Network(nn.Module):
    """A recogniser: (B, 3, S, S) float32 normalised → the outputs of ``edge.graph.OUTPUTS`` that it
    has.

    What is said here holds for one stream of logits (B, C) and binary cross-entropy; an
    architecture says what it has otherwise.

    Attributes:
        layer_names: module path → what a reader calls it; names the nodes of the graph.
        float_layers: module paths whose nodes compute in float32 in every precision.
        streams: names of the scores that training reports; the last one is shipped.
        features: the backbone, (B, 3, S, S) → (B, F, S/32, S/32); ``backbone`` is its key in
            ``BACKBONES``. In training for INT8 it is one that rounds.

    Whatever stands before it, the module that gives a logit per class is ``convclass``, as in the
    official checkpoints.
    """

    layer_names: Mapping[str, str]
    float_layers: tuple[str, ...] = ()
    streams: tuple[str, ...] = ("scores",)
    features: nn.Sequential | Rounded
    backbone: str

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def spec_options(self) -> dict[str, Option]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        raise NotImplementedError

    def fused_for_export(self) -> Network:
        """A copy in eval mode with every BatchNorm folded into the convolution before it.

        The runtimes fold one themselves only where a single stream uses it.
        """
        folded = copy.deepcopy(self).eval()
        for conv_name, (norm_name, norm) in list(folded._norms().items()):
            conv = folded.get_submodule(conv_name)
            assert isinstance(conv, nn.Conv2d)
            folded.set_submodule(conv_name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
            folded.set_submodule(norm_name, nn.Identity())
        return folded

    @torch.no_grad()
    def unfold(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights of ``fused_for_export`` by their names there; a BatchNorm becomes neutral
        except for the bias that it then holds."""
        norms, own = self._norms(), dict(self.named_parameters())
        for name, value in weights.items():
            layer, _, kind = name.rpartition(".")
            if layer in norms and kind == "bias":
                norm = norms[layer][1]
                norm.reset_running_stats()
                assert norm.running_var is not None
                norm.running_var.fill_(1 - norm.eps)
                norm.weight.fill_(1)
                norm.bias.copy_(value)
            elif name in own:
                own[name].copy_(value)

    def _norms(self) -> dict[str, tuple[str, nn.BatchNorm2d]]:
        """Path of a convolution → path of the BatchNorm behind it, and the BatchNorm."""
        found = {}
        for path, parent in self.named_modules():
            before = f"{path}." if path else ""
            for (conv_name, conv), (norm_name, norm) in pairwise(parent.named_children()):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    found[before + conv_name] = (before + norm_name, norm)
        return found

    # ---- training --------------------------------------------------------------------------------

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """What comes pretrained and learns at the smaller rate."""
        return self.features.parameters()

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights: He's normal (fan out) for convolutions, a normal of 1/√inputs for
        matrices, a small one for the classifier."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                std = 0.01 if name == CLASSIFIER else _spread(module)
                with torch.no_grad():
                    module.weight.normal_(0, std, generator=generator)
                    if module.bias is not None:
                        # A classifier that starts at the usual share of positives does not spend
                        # its first epoch finding it.
                        module.bias.fill_(-2.0 if name == CLASSIFIER else 0.0)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def warm(self, images: Tensor) -> None:
        """Take what is gathered rather than learned (BatchNorm's statistics) from a batch, and go
        back to eval mode."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # cumulative average
        with torch.no_grad():
            self.train()(images)
        self.eval()

    def adapted(self, recipe: Recipe) -> Recipe:
        """The recipe as this architecture trains by it; here: whole images only, in a single
        pass."""
        phases = tuple(replace(phase, streams="global", regions=None) for phase in recipe.phases)
        return replace(recipe, phases=phases)

    def training_outputs(
        self, image: Tensor, *, streams: str = "both", sample: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """What ``loss`` and ``observe`` need, with gradients; runs under autocast.

        Args:
            image: (B, 3, S, S).
            streams, sample: of the recipe's phase, for networks with a second pass.
            generator: of whatever is drawn.
        """
        raise NotImplementedError

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """What is minimised, in float32.

        Args:
            outputs: of ``training_outputs``.
            targets: (B, C) float32 of 0 and 1.
        """
        return functional.binary_cross_entropy_with_logits(outputs["logits"].float(), targets)

    def classified(self, image: Tensor) -> Tensor | None:
        """What ``convclass`` makes the logits of an image from, (B, F); None where that depends on
        more than one image's features."""
        return None

    def observe(self, outputs: Mapping[str, Tensor], targets: Tensor) -> None:
        """Called after each step of the optimiser: what a network gathers without a gradient. Here
        nothing."""

    def stream_scores(self, image: Tensor, *, all_streams: bool = True) -> dict[str, Tensor]:
        """Scores (B, C) float32 by name in ``streams``; without ``all_streams`` the first may do.
        Runs under autocast."""
        return {self.streams[-1]: self(image)["scores"].float()}


def check_classes(count: object) -> None:
    """Refuse a class count that is no positive whole number."""
    if not is_count(count):
        raise EdgeError("models", f"A network needs one or more classes, not {count!r}", "Name one or more in `labels`")


def check_side(image: Tensor) -> int:
    """The side S of square images; another size would drop the last row of the grid in the
    pooling."""
    height, width = image.shape[-2:]
    if height != width or height % STRIDE:
        raise EdgeError(
            "models",
            f"The images are {height} × {width}",
            f"Resize them to a square whose side is a multiple of {STRIDE}, such as 256 × 256",
        )
    return height


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _spread(module: nn.Conv1d | nn.Conv2d | nn.Linear) -> float:
    if isinstance(module, nn.Linear):
        return math.sqrt(1 / module.in_features)
    fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
    return math.sqrt(2 / fan_out)
