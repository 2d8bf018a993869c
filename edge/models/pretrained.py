"""Backbones that were trained before: what torchvision publishes, by the key names of our
networks."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edge.errors import EdgeError
from edge.models.backbones import BACKBONES, PUBLISHED

IMAGENET = "imagenet"  # stands for torchvision's weights in place of a file
_HEADS = ("classifier.", "fc.")
# Whose weights somebody may give in place of a backbone's own: told by name.
_OTHERS = (
    *("alexnet", "vgg11", "vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet18", "resnet34", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "mobilenet_v3_small", "mobilenet_v3_large", "densenet121"),
    *("efficientnet_b0", "shufflenet_v2_x1_0", "mnasnet1_0", "squeezenet1_1"),
)
_FLAT = "features.17.conv.7.weight"  # a key of MobileNetV2 with flat blocks only
_COUNTER = "num_batches_tracked"  # files older than PyTorch 0.4.1 lack it, and inference never reads it


def imagenet(backbone: str) -> dict[str, Tensor]:
    """The backbone's weights, ``features.*``, as torchvision publishes them: from torch's cache,
    else downloaded.

    Raises:
        EdgeError: they are not in the cache, and cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    name = PUBLISHED[backbone]
    weights = get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a damaged download
        file = weights.url.rpartition("/")[2]
        raise EdgeError(
            "models",
            f"The weights of {name} could not be downloaded: {error}",
            f"Download {file} elsewhere and set `weights` to it",
        ) from error
    return from_torchvision(state, backbone)


def from_torchvision(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """The backbone's weights, ``features.*``, of a state dict in torchvision's key names, whatever
    head it has.

    For MobileNetV2 also those of ports older than torchvision's, where a block's layers are counted
    flat. One in other key names, such as the official ones, comes back as it is.

    Raises:
        EdgeError: it is torchvision's, but of another architecture; both are named.
    """
    own = [f"features.{name}" for name in BACKBONES[backbone][0]().state_dict()]
    if backbone == "mobilenetv2" and _FLAT in state:
        return {name: state[flat] for name, flat in zip(own, map(_flat, own), strict=True) if flat in state}
    name = _architecture({name: tuple(value.shape) for name, value in state.items()})
    if name is None:
        return dict(state)
    if name != PUBLISHED[backbone]:
        problem = f"The weights belong to torchvision's {name}, but the backbone is {PUBLISHED[backbone]}"
        raise EdgeError("models", problem, "Change `weights` or `model`")
    # Our backbones hold torchvision's layers in torchvision's order.
    return {ours: state[theirs] for ours, theirs in zip(own, _body(name), strict=True) if theirs in state}


def _flat(name: str) -> str:
    """``features.0.N.…`` as ``features.N.…``, and ``features.1.…``, the last layer, as
    ``features.18.…``."""
    return re.sub(r"^features\.(?:0\.(\d+)|1)\.", lambda found: f"features.{found[1] or 18}.", name)


Shapes = Mapping[str, tuple[int, ...]]


def _body(name: str) -> Shapes:
    """Names and shapes of a torchvision model's weights without those of its head, in its order."""
    from torchvision.models import get_model

    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None)
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.startswith(_HEADS)}


def _architecture(found: Shapes) -> str | None:
    """Which of torchvision's classifiers the weights are of: the one with most layers that is
    wholly in them."""
    bodies = {name: _body(name) for name in (*PUBLISHED.values(), *_OTHERS)}
    fitting = [
        name for name, body in bodies.items() if all(found.get(key) == shape for key, shape in body.items() if not key.endswith(_COUNTER))
    ]
    return max(fitting, key=lambda name: len(bodies[name]), default=None)
