"""Images on their way into training: cropped, flipped, turned, recoloured, normalised; a batch at a
time, where it lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edge.models.recipe import Augmentation
from edge.spec import ImageSpec

SPEC = ImageSpec()
GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601


def augment(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, flip, turn and recolour (B, 3, S, S) uint8 images, to (B, 3, size, size) uint8.

    Everything is drawn on the CPU, so that every device sees the same images.
    """
    draw = torch.rand(len(pixels), 10, generator=generator).to(pixels.device)
    area, aspect = how.crop + (1 - how.crop) * draw[:, 0], 2 ** ((draw[:, 1] - 0.5) * 0.5)
    # Shares of the side; a crop of the whole image has no other aspect.
    tall, wide = (torch.sqrt(share).clamp(max=1) if how.crop < 1 else torch.ones_like(area) for share in (area / aspect, area * aspect))
    flipped = torch.where(draw[:, 4] < 0.5, -1.0, 1.0)
    quarter = (draw[:, 5] * 4).floor() * (math.pi / 2) * how.turns
    cos, sin = quarter.cos().round(), quarter.sin().round()
    # Where each pixel of the result comes from, in coordinates of -1 to 1: turned, then flipped,
    # then within the crop.
    across = torch.stack([wide * flipped * cos, wide * flipped * -sin, (1 - wide) * (2 * draw[:, 3] - 1)], 1)
    down = torch.stack([tall * sin, tall * cos, (1 - tall) * (2 * draw[:, 2] - 1)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), [len(pixels), 3, size, size], align_corners=False)
    # Sampling does not blur: what is much larger than the crop it becomes is made smaller first.
    near = resize(pixels, min(pixels.shape[-1], math.ceil(size / math.sqrt(how.crop)))).float()
    images = functional.grid_sample(near, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _recoloured(images, how.jitter, draw[:, 6:9]).round().to(torch.uint8)


def _recoloured(images: Tensor, jitter: float, draw: Tensor) -> Tensor:
    """Brightness, contrast and saturation of (B, 3, H, W) images in 0 to 255, each scaled within 1
    ± jitter as (B, 3) draws say."""
    if not jitter:
        return images
    brightness, contrast, saturation = (1 + jitter * (2 * draw - 1))[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 255)
    images = torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, contrast).clamp(0, 255)
    return torch.lerp(_grey(images), images, saturation).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 1, H, W)."""
    return (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


def resize(pixels: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) uint8 to (B, 3, size, size) uint8, bilinear with antialias as Pillow has it."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    if pixels.is_cuda:  # which interpolates floats only
        return functional.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True).round().to(torch.uint8)
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 to float32 as ``ImageSpec`` says, channels last in memory."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) * 255 for values in (SPEC.mean, SPEC.std))
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)
