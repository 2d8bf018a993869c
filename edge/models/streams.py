"""The two streams' logits as training needs them: without the second pass where a phase does without, few regions where it asks for few."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.models.augmentation import normalise, resize
from edge.models.mcar import MCAR, pool, top_classes


def stream_logits(
    model: MCAR, images: Tensor, *, both: bool, sample: int | None = None, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Logits (B, C) of the global stream and, with ``both``, of the local one (largest over the regions).

    ``sample`` regions of each image are drawn where not all shall cost a pass. Boxes and crops carry no gradient.
    """
    maps = model.features(images)
    global_logits = model.convclass(pool(maps, model.pooling)).flatten(1)
    if not both:
        return [global_logits]
    with torch.no_grad():
        crops = regions_of(model, images, maps.detach().float(), global_logits.detach().float(), sample, generator)
    local = model.convclass(pool(model.features(crops), model.pooling)).flatten(1)
    return [global_logits, local.view(len(images), -1, local.shape[1]).amax(1)]


def regions_of(model: MCAR, images: Tensor, maps: Tensor, logits: Tensor, sample: int | None, generator: torch.Generator | None) -> Tensor:
    """The zoomed regions (B·K, 3, S, S) of the K best classes, or of ``sample`` of them."""
    size, count = images.shape[-1], min(model.regions, logits.shape[1])
    with torch.autocast(images.device.type, enabled=False):
        classes = top_classes(logits, count)
        if sample is not None and sample < count:
            drawn = torch.rand(classes.shape, generator=generator).argsort(1)[:, :sample].to(classes.device)
            classes = classes.gather(1, drawn)
        maps = torch.sigmoid(model.convclass(maps))
        chosen = maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        boxes = torch.ops.edge.region_boxes(chosen, size, model.threshold)
        crops = torch.ops.edge.roi_resize(images.contiguous(), boxes, size)
    return crops.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(
    model: MCAR, images: NDArray[np.uint8], size: int, *, both: bool, autocast: bool, device: torch.device, batch: int = 16
) -> dict[str, NDArray[np.float32]]:
    """Scores (N, C) of the streams in evaluation mode: ``global``, and with ``both`` also ``local`` and ``fused``."""
    model.eval()
    streams: list[list[Tensor]] = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(np.array(images[start : start + batch])).permute(0, 3, 1, 2)
        inputs = normalise(resize(pixels, size).to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            streams.append([torch.sigmoid(stream.float()).cpu() for stream in stream_logits(model, inputs, both=both)])
    scores = {name: torch.cat(parts).numpy() for name, parts in zip(("global", "local"), zip(*streams, strict=True), strict=False)}
    if both:
        scores["fused"] = np.maximum(scores["global"], scores["local"])
    return scores
