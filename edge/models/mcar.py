"""MCAR: a global pass, parameter-free localisation of the top classes, a second pass over the
crops, element-wise maximum.

Source: Gao & Zhou, "Learning to discover multi-class attentional regions for multi-label image
recognition", IEEE TIP 2021, and the authors' published code, whose key names and quirks are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import EdgeError
from edge.models import Option
from edge.models.backbones import BACKBONES
from edge.models.localisation import check_threshold  # importing it also defines torch.ops.edge.*
from edge.models.network import Network, check_classes, check_side, is_count
from edge.models.pooling import check_pooling, pool
from edge.models.recipe import Recipe
from edge.models.rounded import Rounded


class MCAR(Network):
    """Multi-class attentional regions.

    Args:
        backbone: a key of ``BACKBONES``.
        num_classes: C.
        pooling: ``avg``, ``max`` or ``gwp`` (the mean of both).
        regions: K, crops of the second pass; always K, whatever the scores.
        threshold: localisation threshold in (0, 1).

    Raises:
        EdgeError: an option out of range.
    """

    streams = ("global", "local", "fused")

    def __init__(self, backbone: str, num_classes: int, *, pooling: str = "avg", regions: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        check_classes(num_classes)
        check_pooling(pooling)
        if not is_count(regions) or regions > num_classes:
            raise EdgeError("models", f"`regions` is {regions!r} with {num_classes} classes", f"Set `regions` to 1 to {num_classes}")
        check_threshold(threshold)
        make, channels, names = BACKBONES[backbone]
        self.features, self.backbone = make(), backbone
        self.convclass = nn.Conv2d(channels, num_classes, 1)
        self.layer_names = {**names, "convclass": "classifier"}
        self.pooling, self.regions, self.threshold, self.num_classes = pooling, regions, threshold, num_classes

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) float32 normalised → ``scores``, ``global_scores``, ``local_scores`` (B, C)
        in [0, 1], ``regions`` (B, K, 4) float32 x1 y1 x2 y2 (exclusive) in input pixels,
        ``region_classes`` (B, K) int64.

        Raises:
            EdgeError: the image is not square, or its side no multiple of 32.
        """
        size = check_side(image)
        maps = self.features(image)
        global_logits = self._classify(maps)
        classes = top_classes(global_logits, self.regions)
        boxes = self._boxes(maps, classes, size)
        crops = self._crops(image, boxes, size)
        local_logits = self._strongest(crops, self.regions)
        # Sigmoid is monotone, so maxima of logits are maxima of scores.
        return {
            "scores": torch.sigmoid(torch.maximum(global_logits, local_logits)),
            "global_scores": torch.sigmoid(global_logits),
            "local_scores": torch.sigmoid(local_logits),
            "regions": boxes,
            "region_classes": classes,
        }

    def adapted(self, recipe: Recipe) -> Recipe:
        """The recipes are MCAR's own."""
        return recipe

    def training_outputs(
        self, image: Tensor, *, streams: str = "both", sample: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Both streams with gradients, for a loss on each: ``global_logits`` and ``local_logits``
        (B, C).

        Boxes and crops carry no gradient, and are found in float32 under autocast too.

        Args:
            image: (B, 3, S, S).
            streams: ``global`` leaves the second pass and its logits out.
            sample: draw so many of each image's K regions instead of running all.
            generator: of the draw.
        """
        size = check_side(image)
        maps = self.features(image)
        global_logits = self._classify(maps)
        if streams == "global":
            return {"global_logits": global_logits}
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            classes = top_classes(global_logits.float(), self.regions)
            if sample is not None and sample < self.regions:
                drawn = torch.rand(classes.shape, generator=generator).argsort(1)[:, :sample]
                classes = classes.gather(1, drawn.to(classes.device))
            boxes = self._boxes(maps.float(), classes, size)
            # Each layout where it is fastest: crops are cut from planes, convolutions read channels
            # last.
            crops = self._crops(image.contiguous(), boxes, size).contiguous(memory_format=torch.channels_last)
        return {"global_logits": global_logits, "local_logits": self._strongest(crops, classes.shape[1])}

    def classified(self, image: Tensor) -> Tensor | None:
        """The pooled features of the whole image, (B, F)."""
        return pool(self.features(image), self.pooling).flatten(1)

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """The sum of the streams' binary cross-entropies, as published; the fused maximum is not in
        it."""
        each = (functional.binary_cross_entropy_with_logits(logits.float(), targets) for logits in outputs.values())
        return sum(each, start=torch.zeros((), device=targets.device))

    def stream_scores(self, image: Tensor, *, all_streams: bool = True) -> dict[str, Tensor]:
        """Scores (B, C) of the ``global`` stream and, with ``all_streams``, of the ``local`` one
        and their maximum ``fused``."""
        logits = self.training_outputs(image, streams="both" if all_streams else "global")
        scores = {name.removesuffix("_logits"): torch.sigmoid(value.float()) for name, value in logits.items()}
        return {**scores, "fused": torch.maximum(scores["global"], scores["local"])} if all_streams else scores

    def spec_options(self) -> dict[str, Option]:
        """The options that describe this network in a ``ModelSpec``, plain types."""
        return {"pooling": self.pooling, "regions": self.regions, "threshold": self.threshold}

    def _classify(self, maps: Tensor) -> Tensor:
        """Feature maps (B, F, n, n) → logits (B, C)."""
        return torch.flatten(self.convclass(pool(maps, self.pooling)), 1)

    def _strongest(self, crops: Tensor, count: int) -> Tensor:
        """Crops (B·count, 3, S, S) → per class the largest logit over an image's crops, (B, C)."""
        features = self.features
        maps = features(crops, 1) if isinstance(features, Rounded) else features(crops)
        local: Tensor = self.convclass(pool(maps, self.pooling))
        return local.reshape(-1, count, self.num_classes).amax(1)

    def _boxes(self, maps: Tensor, classes: Tensor, size: int) -> Tensor:
        """Feature maps (B, F, n, n) and classes (B, K) → where each of these classes is, (B, K,
        4)."""
        boxes: Tensor = torch.ops.edge.region_boxes(self._class_maps(maps, classes), size, self.threshold)
        return boxes

    def _class_maps(self, maps: Tensor, classes: Tensor) -> Tensor:
        """Feature maps (B, F, n, n) and classes (B, K) → the sigmoid map of each class, (B, K, n,
        n)."""
        grid = maps.shape[-1]
        # Choosing maps by a one-hot product keeps the graph free of gathers with computed indices;
        # it adds exact zeros only.
        chosen = (classes.unsqueeze(2) == torch.arange(self.num_classes, device=maps.device)).to(maps.dtype)
        class_maps = torch.sigmoid(self.convclass(maps)).flatten(2)
        return torch.bmm(chosen, class_maps).reshape(-1, classes.shape[1], grid, grid)

    def _crops(self, image: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Images (B, 3, S, S) and boxes (B, K, 4) → what stands in each box, at the size of an
        image: (B·K, 3, S, S)."""
        crops: Tensor = torch.ops.edge.roi_resize(image, boxes, size)
        return crops


def top_classes(logits: Tensor, count: int) -> Tensor:
    """(B, C) → (B, count) int64, best first; equal logits in order of their index, as ONNX TopK has
    it."""
    # torch.topk leaves the order of equals open, but is what exports to a single TopK.
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return torch.topk(logits, count, dim=1).indices
    return torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :count]
