"""The recipes a training run may follow. Nothing here touches a tensor."""

from __future__ import annotations

from edge.errors import EdgeError
from edge.models.recipe import RECIPES, Augmentation, Phase, Recipe


def choose(name: str, size: int, epochs: int | None = None, *, pretrained: bool = False, overhead: bool = False) -> Recipe:
    """A recipe by name; ``auto`` is the fine-tuning one for weights trained before, else the one
    from scratch."""
    if epochs is not None and epochs < 1:
        raise EdgeError("train", f"`epochs` is {epochs}", "Set `epochs` to 1 or more")
    if name == "auto":
        name = "finetune" if pretrained else "scratch"
    if name == "qat" and not pretrained:
        raise EdgeError("train", "Training for INT8 starts from trained weights, and `weights` is not set", "Set `weights` to a checkpoint")
    count = epochs or RECIPES[name]
    if name == "official":
        return official(size, count)
    return {"finetune": finetune, "scratch": scratch, "refine": refine, "qat": qat}[name](size, count, overhead)


def official(size: int, epochs: int = 60) -> Recipe:
    """The published recipe for pretrained backbones: both streams, SGD, a tenth of the rate after
    1/2 and 5/6 of the run."""
    first, second = epochs // 2, epochs // 3
    rates = ((first, 1e-2), (second, 1e-3), (epochs - first - second, 1e-4))
    phases = tuple(Phase(size, count, (lr, lr), batch=16, streams="both") for count, lr in rates if count)
    return Recipe("official", phases, "sgd", weight_decay=1e-4, backbone_lr=0.1)


def scratch(size: int, epochs: int = 20, overhead: bool = False) -> Recipe:
    """From random weights on a CPU: small images first, the zoomed regions at the end.

    A MobileNetV2 pass costs a fifth at half the side, so most epochs go there.
    """
    tiny, small, middle = (_multiple(size * part) for part in (0.375, 0.5, 0.75))
    both = max(1, round(epochs * 0.05), min(3, epochs // 8))
    full = min(round(epochs * 0.08), epochs - both)
    mid = min(round(epochs * 0.15), epochs - both - full)
    low = min(round(epochs * 0.40), epochs - both - full - mid)
    rest = epochs - both - full - mid - low
    phases = (
        Phase(tiny, min(1, rest), (2e-4, 2e-3), batch=16),
        Phase(tiny, max(0, rest - 1), (2e-3, 1.6e-3), batch=16),
        Phase(small, low, (1.6e-3, 1e-3), batch=16),
        Phase(middle, mid, (1e-3, 5e-4), batch=16),
        Phase(size, full, (5e-4, 3e-4), batch=16),
        Phase(size, both, (4e-4, 1e-6), batch=8, streams="both", regions=2, fixed_norm=True),
    )
    some = tuple(phase for phase in phases if phase.epochs)
    return Recipe("scratch", some, "adamw", weight_decay=0.03, ema=0.99, augmentation=_augmentation(overhead))


def finetune(size: int, epochs: int = 22, overhead: bool = False) -> Recipe:
    """From a pretrained backbone on a small data set: the classifier on its features, whole images,
    then both streams."""
    both = max(1, round(epochs * 8 / 22))
    phases = (
        Phase(size, epochs - both, (1e-3, 5e-4), batch=32),
        # Weights that have come so far are thrown back by the rate that the classifier began with.
        Phase(size, both, (1e-4, 1e-6), batch=32, streams="both", regions=2, fixed_norm=True),
    )
    some = tuple(phase for phase in phases if phase.epochs)
    augmentation = _augmentation(overhead)
    return Recipe("finetune", some, "adamw", weight_decay=0.05, backbone_lr=0.3, ema=0.99, head=True, augmentation=augmentation)


def refine(size: int, epochs: int = 2, overhead: bool = False) -> Recipe:
    """What follows ``scratch`` where time allows: both streams on all images at full size."""
    phases = (Phase(size, epochs, (5e-4, 1e-6), batch=8, streams="both", regions=2, fixed_norm=True),)
    return Recipe("refine", phases, "adamw", weight_decay=0.03, ema=0.99, augmentation=_augmentation(overhead))


def qat(size: int, epochs: int = 3, overhead: bool = False) -> Recipe:
    """For int8, from trained weights: both streams at a rate that moves weights by some of the
    steps they are rounded to."""
    phases = (Phase(size, epochs, (1e-4, 1e-6), batch=8, streams="both", regions=2, fixed_norm=True),)
    return Recipe("qat", phases, "adamw", weight_decay=0.05, backbone_lr=0.3, ema=0.99, augmentation=_augmentation(overhead))


def _augmentation(overhead: bool) -> Augmentation:
    # A thing at the edge of an upright scene must stay in it; an aerial view is the same stuff all
    # over.
    return Augmentation(crop=0.6 if overhead else 0.8, turns=overhead, jitter=0.3)


def _multiple(size: float) -> int:
    return max(32, int(size) // 32 * 32)
