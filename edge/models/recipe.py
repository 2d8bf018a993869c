"""What a recipe of training is made of: frozen values, which a network may adapt. The recipes stand
in ``edge/training/recipes.py``."""

from __future__ import annotations

from dataclasses import dataclass

RECIPES = {"official": 60, "finetune": 22, "scratch": 20, "refine": 2, "qat": 3}  # name → epochs where none are asked for


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    Attributes:
        crop: least share of the area a random crop keeps; 1 keeps the whole image.
        turns: also turn by 90, 180 and 270 degrees, which overhead images allow.
        jitter: brightness, contrast and saturation are scaled by a factor within 1 ± jitter.
    """

    crop: float = 1.0
    turns: bool = False
    jitter: float = 0.3


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs at one image size.

    Attributes:
        streams: ``global`` trains on whole images only, ``both`` adds the zoomed regions (about
            five times the cost).
        lr: learning rate at the first and the last step, joined by half a cosine.
        share: part of the training images one epoch visits.
        regions: how many of an image's regions get a gradient per step; None for all.
        fixed_norm: batch normalisation keeps its statistics.
    """

    size: int
    epochs: int
    lr: tuple[float, float]
    batch: int = 32
    streams: str = "global"
    share: float = 1.0
    regions: int | None = None
    fixed_norm: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        backbone_lr: the backbone's learning rate as a multiple of the classifier's.
        ema: decay of the running mean of the weights that is evaluated and shipped; 0 for none.
        head: whether the classifier is first fitted alone, to features of the backbone that are
            computed once.
    """

    name: str
    phases: tuple[Phase, ...]
    optimiser: str
    weight_decay: float
    backbone_lr: float = 1.0
    ema: float = 0.0
    head: bool = False
    augmentation: Augmentation = Augmentation()

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)
