"""Where a run begins: the weights of its network, and the device."""

from __future__ import annotations

from pathlib import Path

import torch

from edge.errors import EdgeError
from edge.models.checkpoint import load_checkpoint, read, state_of
from edge.models.network import Network
from edge.models.pretrained import IMAGENET, from_torchvision, imagenet


def start(model: Network, seed: int, weights: Path | str | None = None) -> Network:
    """Random weights from the seed; then those of a checkpoint, or ``imagenet``, torchvision's own.

    What lies behind the backbone comes from the checkpoint where it has it in the same shape: one
    of other classes, or of another architecture with the same backbone, gives what it can.
    """
    model.initialise(torch.Generator().manual_seed(seed))
    if weights is None:
        return model
    found = imagenet(model.backbone) if weights == IMAGENET else from_torchvision(state_of(read(weights)), model.backbone)
    own = model.state_dict()
    fresh = {name for name in own if not name.startswith("features.") and (name not in found or found[name].shape != own[name].shape)}
    kept = {name: value for name, value in found.items() if name in own and name not in fresh}
    load_checkpoint(model, {**kept, **{name: own[name] for name in fresh}})
    return model


def choose_device(name: str) -> str:
    """``auto`` is the first GPU, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise EdgeError(
            "train", f"The device {name} cannot be used: {str(error).splitlines()[0][:80]}", "Set `device` to auto, cpu or cuda"
        ) from error
    return name
