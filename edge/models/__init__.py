"""Architectures in PyTorch, chosen by name; loading of checkpoints; localisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edge.errors import EdgeError, one_of

if TYPE_CHECKING:
    from edge.models.checkpoint import load_checkpoint as load_checkpoint
    from edge.models.network import Network

Option = bool | int | float | str
Options = Mapping[str, Option]  # an architecture's own, by name

DEFAULT_WEIGHTS = "mcar-mobilenetv2-ucmerced"  # of every command; trained on aerial photographs
TEST_DATA = "aerial"  # their test images, which come along: nothing is trained, calibrated or decided on them
GENERATED_DATA = "scenes"  # which needs no files; random weights are tried on it
DEFAULT_MODEL = "mcar-mobilenetv2"  # to train, and to fill with random weights

# Name → module, class and the arguments that make it this one.
MODELS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mcar-mobilenetv2": ("edge.models.mcar", "MCAR", {"backbone": "mobilenetv2"}),
    "mcar-resnet50": ("edge.models.mcar", "MCAR", {"backbone": "resnet50"}),
    "mcar-resnet101": ("edge.models.mcar", "MCAR", {"backbone": "resnet101"}),
    "rma-mobilenetv2": ("edge.models.rma", "RMA", {"backbone": "mobilenetv2"}),
    "rma-vgg16": ("edge.models.rma", "RMA", {"backbone": "vgg16"}),
    "aamn-mobilenetv2": ("edge.models.aamn", "AAMN", {"backbone": "mobilenetv2"}),
    "aamn-resnet50": ("edge.models.aamn", "AAMN", {"backbone": "resnet50"}),
    "aamn-resnet101": ("edge.models.aamn", "AAMN", {"backbone": "resnet101"}),
    "plain-mobilenetv2": ("edge.models.plain", "Plain", {"backbone": "mobilenetv2"}),
}

# Name up to the hyphen → the architecture in a line.
FAMILIES = {
    "mcar": "the whole image, then enlarged crops of its regions",
    "rma": "a recurrent cell visits regions of the feature map in turn",
    "aamn": "one pass with a memory of the classes; a reimplementation from the abstract; no result of the paper is claimed",
    "plain": "a plain classifier, the baseline for the others",
}


def create(name: str, num_classes: int, **options: Option) -> Network:
    """A network in eval mode with freshly initialised weights.

    Args:
        name: a key of ``MODELS``.
        num_classes: C.
        options: the architecture's own, ``options_of(name)``; unknown ones are refused.

    Every network answers to what generic code needs: ``edge.models.network.Network``.

    Raises:
        EdgeError: unknown name or option, or an option out of range.
    """
    make, fixed = _architecture(name)
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise EdgeError("models", f"{name} has no option {', '.join(unknown)}", f"Leave it out; its options are {one_of(known)}")
    return make(num_classes=num_classes, **fixed, **options).eval()


def options_of(name: str) -> tuple[str, ...]:
    """Names of an architecture's own options."""
    from inspect import signature

    make, fixed = _architecture(name)
    return tuple(option for option in signature(make).parameters if option not in ("num_classes", *fixed))


def _architecture(name: str) -> tuple[Callable[..., Network], dict[str, str]]:
    from importlib import import_module

    if name not in MODELS:
        raise EdgeError("models", f"There is no architecture {name!r}", f"Change `model` to {one_of(MODELS)}")
    module, kind, fixed = MODELS[name]
    return getattr(import_module(module), kind), fixed  # getattr: a class by the name in the table


# Lazy, so that asking for names costs no torch.
def __getattr__(name: str) -> Callable[..., Network]:
    if name == "load_checkpoint":
        from edge.models.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module 'edge.models' has no attribute {name!r}")
