"""What the exporter, the trainer and the checkpoints ask of a network, whatever its architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A recogniser: (B, 3, S, S) float32 normalised → the outputs of ``edge.graph.OUTPUTS`` that it has.

    Attributes:
        layer_names: module path → what a reader calls it; names the nodes of the graph.
    """

    layer_names: Mapping[str, str]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def spec_options(self) -> dict[str, Any]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        raise NotImplementedError

    def fused_for_export(self) -> Network:
        """A copy in eval mode with every BatchNorm folded into the convolution before it.

        The runtimes fold one themselves only where a single stream uses it.
        """
        folded = copy.deepcopy(self).eval()
        for parent in list(folded.modules()):
            children = list(parent.named_children())
            for (conv_name, conv), (norm_name, norm) in pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, conv_name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                    setattr(parent, norm_name, nn.Identity())
        return folded
