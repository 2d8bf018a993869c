"""What a network says of images, stream by stream: an epoch is judged by it, and the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.models.checkpoint import load_checkpoint
from edge.models.network import Network
from edge.training.augmentation import normalise, resize


def score(model: Network, weights: Path, images: NDArray[np.uint8], size: int, device: str = "cpu") -> dict[str, NDArray[np.float32]]:
    """Scores (N, C) of each of a checkpoint's streams in float32, for images (N, H, W, 3) uint8
    RGB."""
    load_checkpoint(model, weights)
    return predict(model, images, size, all_streams=True, autocast=False, device=torch.device(device))


@torch.no_grad()
def predict(
    model: Network, images: NDArray[np.uint8], size: int, *, all_streams: bool, autocast: bool, device: torch.device, batch: int = 16
) -> dict[str, NDArray[np.float32]]:
    """Scores (N, C) of the model's streams in evaluation mode; without ``all_streams`` of those
    that come cheap."""
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(images), batch):
        pixels = torch.from_numpy(np.array(images[first : first + batch])).permute(0, 3, 1, 2)
        inputs = normalise(resize(pixels, size).to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            parts.append({name: value.cpu() for name, value in model.stream_scores(inputs, all_streams=all_streams).items()})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether mixed precision saves time there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # getattr: a name of torch's own use, which another version may lack.
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
