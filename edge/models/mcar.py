"""MCAR: a global pass, parameter-free localisation of the top classes, a second pass over the crops, element-wise maximum.

Source: Gao & Zhou, "Learning to discover multi-class attentional regions for multi-label image recognition", IEEE TIP 2021,
and the authors' published code, whose key names and quirks are kept.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import EdgeError, one_of
from edge.models import localisation  # noqa: F401  # defines torch.ops.edge.*
from edge.models.backbones import BACKBONES

POOLINGS = ("avg", "gwp", "max")


class MCAR(nn.Module):
    """Multi-class attentional regions.

    Args:
        backbone: a key of ``BACKBONES``.
        num_classes: C.
        pooling: ``avg``, ``max`` or ``gwp`` (the mean of both).
        regions: K, crops of the second pass; always K, whatever the scores.
        threshold: localisation threshold in (0, 1).
    """

    def __init__(self, backbone: str, num_classes: int, *, pooling: str = "avg", regions: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise EdgeError("models", "the pooling must be known", got=pooling, expected=one_of(POOLINGS), do="Change --pooling")
        if not 1 <= regions <= num_classes:
            raise EdgeError(
                "models",
                "there must be at least one region and at most one per class",
                got=regions,
                expected=f"1 to {num_classes}",
                do="Change --regions",
            )
        if not 0 < threshold < 1:
            raise EdgeError(
                "models", "the localisation threshold must be inside (0, 1)", got=threshold, expected="such as 0.5", do="Change --threshold"
            )
        make, channels, self.layer_names = BACKBONES[backbone]
        self.features = make()
        self.convclass = nn.Conv2d(channels, num_classes, 1)
        self.layer_names = {**self.layer_names, "convclass": "classifier"}
        self.pooling, self.regions, self.threshold, self.num_classes = pooling, regions, threshold, num_classes

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) float32 normalised → ``scores``, ``global_scores``, ``local_scores`` (B, C) in [0, 1],
        ``regions`` (B, K, 4) float32 x1 y1 x2 y2 (exclusive) in input pixels, ``region_classes`` (B, K) int64."""
        size, count = image.shape[-1], self.regions
        maps = self.features(image)
        grid = maps.shape[-1]
        global_logits = self.convclass(pool(maps, self.pooling)).flatten(1)
        classes = top_classes(global_logits, count)
        # Choosing maps by a one-hot product keeps the graph free of gathers with computed indices; it adds exact zeros only.
        chosen = (classes.unsqueeze(2) == torch.arange(self.num_classes, device=image.device)).to(maps.dtype)
        class_maps = torch.sigmoid(self.convclass(maps)).flatten(2)
        cams = torch.bmm(chosen, class_maps).reshape(-1, count, grid, grid)
        boxes = torch.ops.edge.region_boxes(cams, size, self.threshold)
        crops = torch.ops.edge.roi_resize(image, boxes, size)
        local = self.convclass(pool(self.features(crops), self.pooling)).reshape(-1, count, self.num_classes)
        local_logits = local.amax(1)
        # Sigmoid is monotone, so maxima of logits are maxima of scores.
        return {
            "scores": torch.sigmoid(torch.maximum(global_logits, local_logits)),
            "global_scores": torch.sigmoid(global_logits),
            "local_scores": torch.sigmoid(local_logits),
            "regions": boxes,
            "region_classes": classes,
        }

    def spec_options(self) -> dict[str, Any]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        return {"pooling": self.pooling, "regions": self.regions, "threshold": self.threshold}

    def fused_for_export(self) -> MCAR:
        """A copy with every BatchNorm folded into the convolution before it."""
        folded = copy.deepcopy(self).eval()
        fold_batch_norm(folded)
        return folded


def pool(maps: Tensor, pooling: str) -> Tensor:
    """(B, F, n, n) → (B, F, 1, 1)."""
    if pooling == "avg":
        return functional.adaptive_avg_pool2d(maps, 1)
    most = functional.adaptive_max_pool2d(maps, 1)
    return most if pooling == "max" else (most + functional.adaptive_avg_pool2d(maps, 1)) / 2


def top_classes(logits: Tensor, count: int) -> Tensor:
    """(B, C) → (B, count) int64, best first; equal logits in order of their index, as ONNX TopK has it."""
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return torch.topk(logits, count, dim=1).indices
    return torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :count]


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each BatchNorm that directly follows a convolution in the same container, in place (eval mode)."""
    pairs = []
    for parent in module.modules():
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                pairs.append((parent, conv_name, conv, norm_name, norm))
    for parent, conv_name, conv, norm_name, norm in pairs:
        setattr(parent, conv_name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, nn.Identity())
