"""Images on their way into training: cropped, flipped, turned, recoloured, normalised; all drawn from one generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from edge.models.recipe import Augmentation
from edge.spec import ImageSpec

SPEC = ImageSpec()


def augment(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, flip, turn and recolour (B, 3, H, W) uint8 images, to (B, 3, size, size) uint8."""
    done = []
    for image in pixels:
        draw = torch.rand(10, generator=generator).tolist()
        height, width = image.shape[1:]
        if how.crop < 1:
            area, aspect = how.crop + (1 - how.crop) * draw[0], 2 ** ((draw[1] - 0.5) * 0.5)
            tall, wide = min(height, round(height * math.sqrt(area / aspect))), min(width, round(width * math.sqrt(area * aspect)))
            top, left = int(draw[2] * (height - tall + 1)), int(draw[3] * (width - wide + 1))
            image = image[:, top : top + tall, left : left + wide]
        image = resize(image[None], size)[0]
        if draw[4] < 0.5:
            image = image.flip(2)
        if how.turns:
            image = image.rot90(int(draw[5] * 4), (1, 2))
        if how.jitter:
            factors = [1 + how.jitter * (2 * value - 1) for value in draw[6:9]]
            image = transforms.adjust_brightness(image, factors[0])
            image = transforms.adjust_contrast(image, factors[1])
            image = transforms.adjust_saturation(image, factors[2])
        done.append(image)
    return torch.stack(done)


def resize(pixels: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) uint8 to (B, 3, size, size) uint8, bilinear with antialias as Pillow has it."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 to float32 as ``ImageSpec`` says, channels last in memory."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) * 255 for values in (SPEC.mean, SPEC.std))
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)
