"""Backbones from torchvision, cut and named as the official MCAR checkpoints have them (``features.*``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn


def mobilenetv2() -> nn.Sequential:
    """(B, 3, S, S) → (B, 1280, S/32, S/32); keys ``0.0`` stem, ``0.1`` … ``0.17`` blocks, ``1`` last convolution."""
    from torchvision.models import mobilenet_v2

    layers = list(mobilenet_v2(weights=None).features)
    for block in layers[1:-1]:
        # torchvision nests Conv-BN-ReLU6 triples; the official keys count them flat.
        block.conv = nn.Sequential(*_flat(block.conv))
    return nn.Sequential(nn.Sequential(*layers[:-1]), layers[-1])


def resnet50() -> nn.Sequential:
    """(B, 3, S, S) → (B, 2048, S/32, S/32)."""
    from torchvision.models import resnet50

    return _resnet(resnet50(weights=None))


def resnet101() -> nn.Sequential:
    """(B, 3, S, S) → (B, 2048, S/32, S/32)."""
    from torchvision.models import resnet101

    return _resnet(resnet101(weights=None))


# Name → maker, channels of the last map, and what a reader calls the parts.
BACKBONES: dict[str, tuple[Callable[[], nn.Sequential], int, dict[str, str]]] = {
    "mobilenetv2": (
        mobilenetv2,
        1280,
        {"features.0.0": "stem", **{f"features.0.{index}": f"block{index}" for index in range(1, 18)}, "features.1": "last"},
    ),
    **{
        name: (
            maker,
            2048,
            {"features.0": "conv1", "features.1": "bn1", **{f"features.{index + 3}": f"layer{index}" for index in range(1, 5)}},
        )
        for name, maker in (("resnet50", resnet50), ("resnet101", resnet101))
    },
}


def _resnet(model: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3, model.layer4
    )


def _flat(block: nn.Sequential) -> Iterator[nn.Module]:
    for layer in block:
        if isinstance(layer, nn.Sequential):
            yield from layer
        else:
            yield layer
