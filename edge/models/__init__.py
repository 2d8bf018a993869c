"""Architectures in PyTorch, chosen by name; loading of checkpoints; localisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, one_of

if TYPE_CHECKING:
    from edge.models.network import Network

DEFAULT_WEIGHTS = "mcar-mobilenetv2-scenes"  # of every command; trained on the generated scenes

# Name → module, class and the arguments that make it this one.
MODELS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mcar-mobilenetv2": ("edge.models.mcar", "MCAR", {"backbone": "mobilenetv2"}),
    "mcar-resnet50": ("edge.models.mcar", "MCAR", {"backbone": "resnet50"}),
    "mcar-resnet101": ("edge.models.mcar", "MCAR", {"backbone": "resnet101"}),
}


def create(name: str, num_classes: int, **options: Any) -> Network:
    """A network in eval mode with freshly initialised weights.

    Args:
        name: a key of ``MODELS``.
        num_classes: C.
        options: the architecture's own (MCAR: ``pooling``, ``regions``, ``threshold``); unknown ones are refused.

    Every network answers to what generic code needs: ``spec_options()``, ``fused_for_export()``, ``backbone_parameters()``,
    ``head_parameters()``, ``forward_global(images)`` and ``training_outputs(images)``.

    Raises:
        EdgeError: unknown name or option, or an option out of range.
    """
    from importlib import import_module
    from inspect import signature

    if name not in MODELS:
        raise EdgeError("models", "the architecture must be known", got=name, expected=one_of(MODELS), do="Change --model")
    module, kind, fixed = MODELS[name]
    make = getattr(import_module(module), kind)
    known = [option for option in signature(make).parameters if option not in ("num_classes", *fixed)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise EdgeError(
            "models", f"{name} must know its options", got=", ".join(unknown), expected=one_of(known), do="Leave the others out"
        )
    return make(num_classes=num_classes, **fixed, **options).eval()


def __getattr__(name: str) -> Any:
    # Lazy, so that asking for names costs no torch.
    if name == "load_checkpoint":
        from edge.models.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module 'edge.models' has no attribute {name!r}")
