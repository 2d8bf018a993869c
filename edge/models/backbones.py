"""Backbones from torchvision, cut, and named where there are official MCAR checkpoints as those
have them (``features.*``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain

from torch import nn


def mobilenetv2() -> nn.Sequential:
    """(B, 3, S, S) → (B, 1280, S/32, S/32); keys ``0.0`` stem, ``0.1`` … ``0.17`` blocks, ``1``
    last convolution."""
    from torchvision.models import mobilenet_v2

    layers = list(mobilenet_v2(weights=None).features)
    for block in layers[1:-1]:
        # torchvision nests Conv-BN-ReLU6 triples; the official keys count them flat.
        parts = (layer if isinstance(layer, nn.Sequential) else [layer] for layer in block.conv)
        block.conv = nn.Sequential(*chain.from_iterable(parts))
    return nn.Sequential(nn.Sequential(*layers[:-1]), layers[-1])


def resnet(name: str) -> nn.Sequential:
    """``resnet50`` or ``resnet101``: (B, 3, S, S) → (B, 2048, S/32, S/32)."""
    from torchvision.models import get_model

    return nn.Sequential(*list(get_model(name, weights=None).children())[:-2])


def vgg16() -> nn.Sequential:
    """(B, 3, S, S) → (B, 512, S/32, S/32), the fifth pooling included."""
    from torchvision.models import vgg16

    return nn.Sequential(*vgg16(weights=None).features)


def _vgg16_names() -> dict[str, str]:
    names, index = {}, 0
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for layer in range(1, count + 1):
            names.update({f"features.{index}": f"stage{stage}.{layer}", f"features.{index + 1}": f"stage{stage}.{layer}"})
            index += 2
        names[f"features.{index}"] = f"stage{stage}"
        index += 1
    return names


def _mobilenetv2_names() -> dict[str, str]:
    names = {"features.0.0.0": "stem", "features.0.0.2": "stem", "features.1.0": "last", "features.1.2": "last"}
    for index in range(1, 18):
        steps = ("depthwise", "project") if index == 1 else ("expand", "depthwise", "project")
        for position, step in enumerate(steps):
            for part in (0, 2):  # convolution and activation; the BatchNorm between them is folded away
                names[f"features.0.{index}.conv.{3 * position + part}"] = f"block{index}/{step}"
        names[f"features.0.{index}"] = f"block{index}"
    return names


_RESNET_NAMES = {
    "features.0": "conv1",
    "features.2": "relu",
    "features.3": "maxpool",
    **{f"features.{n + 3}": f"layer{n}" for n in range(1, 5)},
}

# Name → maker, channels of the last map, and what a reader calls the parts of it.
BACKBONES: dict[str, tuple[Callable[[], nn.Sequential], int, dict[str, str]]] = {
    "mobilenetv2": (mobilenetv2, 1280, _mobilenetv2_names()),
    "resnet50": (partial(resnet, "resnet50"), 2048, _RESNET_NAMES),
    "resnet101": (partial(resnet, "resnet101"), 2048, _RESNET_NAMES),
    "vgg16": (vgg16, 512, _vgg16_names()),
}
# Name → the architecture in torchvision's list.
PUBLISHED = {"mobilenetv2": "mobilenet_v2", "resnet50": "resnet50", "resnet101": "resnet101", "vgg16": "vgg16"}
