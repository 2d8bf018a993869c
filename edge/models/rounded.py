"""A backbone that computes as int8 will: values and weights rounded by the rules of
``calib.placement``, gradients as if they were not."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

PASSES = 2  # over whole images, and over what stands in the boxes: each has ranges of its own
LEVELS = 127  # of one sign
ADDS = (operator.add, operator.iadd, torch.add)


class Rounded(nn.Module):
    """(B, 3, S, S) → (B, F, S/32, S/32), as the backbone it is made of, whose layers it takes over
    by the names they had.

    1. What a convolution reads and both inputs of an Add are rounded, each once, to uint8 behind a
       ReLU and to int8 elsewhere.
    2. Weights are rounded per output channel, with the BatchNorm behind them folded in by its
       running statistics.
    3. Rounding lets gradients through, but for values beyond the range (Bengio et al. 2013,
       arXiv:1308.3432).

    Args:
        features: what learns.
        exact: what its feature maps are held against in training.

    Attributes:
        steps: (passes, values) float32, the step of int8 of each value; 0 where it is not known:
            there nothing is rounded.
        names: of the values, in their order in ``steps``.
        observe: where it is set, nothing is rounded, and it is called with (pass, place in
            ``steps``, value).
    """

    steps: Tensor

    def __init__(self, features: nn.Sequential, exact: nn.Sequential) -> None:
        super().__init__()
        self.exact = copy.deepcopy(exact).requires_grad_(False)
        self.layers = tuple(name for name, _ in features.named_children())
        for name, layer in features.named_children():
            self.add_module(name, layer)
        self._graph = fx.symbolic_trace(features).graph
        read = [value for node in self._graph.nodes if self._rounds(node) for value in node.all_input_nodes]
        self.names = tuple(dict.fromkeys(value.name for value in read))
        self._bounds = {value.name: self._upper_bound(value) for value in read}
        last = {value.name: node.name for node in self._graph.nodes for value in node.all_input_nodes}  # reader of each value
        self._last = {node.name: [name for name, reader in last.items() if reader == node.name] for node in self._graph.nodes}
        self.register_buffer("steps", torch.zeros(PASSES, len(self.names)))
        self.observe: Callable[[int, int, Tensor], None] | None = None
        self._errors: list[Tensor] = []

    def forward(self, image: Tensor, number: int = 0) -> Tensor:
        """The feature maps of an image in the pass of that number; in training their error is kept
        for ``error``."""
        steps = self.steps[number].tolist()
        values: dict[str, Tensor] = {}
        rounded: dict[str, Tensor] = {}
        for node in self._graph.nodes:
            read = [each.name for each in node.all_input_nodes]
            if node.op == "output":
                maps = values[read[0]]
                break
            if self._rounds(node):
                for name in read:
                    if name not in rounded:
                        rounded[name] = self._round(values[name], name, number, steps)
            inputs = [(rounded if self._rounds(node) else values)[name] for name in read]
            values[node.name] = image if node.op == "placeholder" else self._run(node, inputs)
            for name in self._last[node.name]:
                del values[name]
                rounded.pop(name, None)
        if self.training:
            with torch.no_grad():
                wanted = self.exact(image).float()
            self._errors.append((maps.float() - wanted).square().mean() / wanted.square().mean())
        return maps

    def error(self) -> Tensor:
        """The squared error of the feature maps since this was last asked, as a share of their
        squares; the sum over the passes."""
        found, self._errors = self._errors, []
        return torch.stack(found).sum()

    @torch.no_grad()
    def unrounded(self) -> nn.Sequential:
        """A plain backbone of the rounded weights. The weights that learn may lie far from them,
        and without the rounding they are worse."""
        plain = nn.Sequential()
        for name in self.layers:
            plain.add_module(name, copy.deepcopy(self.get_submodule(name)))
        for node in self._graph.nodes:
            if node.op == "call_module" and isinstance(layer := self.get_submodule(str(node.target)), nn.Conv2d):
                norm = self._norm(node)
                factor = torch.ones(layer.out_channels, device=layer.weight.device) if norm is None else _factor(norm)
                folded = _on_steps(_folded(layer, norm)[0]) / factor[:, None, None, None]
                plain.get_parameter(f"{node.target}.weight").copy_(torch.where(folded.isfinite(), folded, layer.weight))
        return plain

    def _run(self, node: fx.Node, inputs: list[Tensor]) -> Tensor:
        if node.op != "call_module":
            result: Tensor = inputs[0] + inputs[1] if node.target in ADDS else node.target(*inputs, **node.kwargs)  # type: ignore[operator]
            return result
        layer = self.get_submodule(str(node.target))
        if isinstance(layer, nn.BatchNorm2d):
            return inputs[0]  # 2
        if not isinstance(layer, nn.Conv2d):
            result = layer(*inputs)
            return result
        weight, bias = _folded(layer, self._norm(node))
        convolved: Tensor = layer._conv_forward(inputs[0], weight if self.observe else _on_steps(weight), bias)
        return convolved

    def _norm(self, node: fx.Node) -> nn.BatchNorm2d | None:
        """Behind a convolution."""
        behind = [self.get_submodule(str(user.target)) for user in node.users if user.op == "call_module"]
        return next((each for each in behind if isinstance(each, nn.BatchNorm2d)), None)

    def _round(self, value: Tensor, name: str, number: int, steps: list[float]) -> Tensor:
        place, bound = self.names.index(name), self._bounds[name]
        step = steps[place]
        if self.observe is not None:
            self.observe(number, place, value)
        if self.observe is not None or step == 0:
            return value
        if bound is None:
            return torch.fake_quantize_per_tensor_affine(value, step, 0, -LEVELS - 1, LEVELS)
        return torch.fake_quantize_per_tensor_affine(value, min(step * 127 / 255, bound / 255), 0, 0, 255)

    def _rounds(self, node: fx.Node) -> bool:
        """1."""
        if node.op == "call_module":
            return isinstance(self.get_submodule(str(node.target)), nn.Conv2d)
        return node.op == "call_function" and node.target in ADDS

    def _upper_bound(self, node: fx.Node) -> float | None:
        """Of a value that cannot be negative; None where it can be."""
        layer = self.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.MaxPool2d):
            return self._upper_bound(node.all_input_nodes[0])
        return 6.0 if isinstance(layer, nn.ReLU6) else float("inf") if isinstance(layer, nn.ReLU) else None


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    if norm is None:
        return conv.weight, conv.bias
    assert norm.running_mean is not None
    factor = _factor(norm)
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * factor[:, None, None, None], norm.bias - mean * factor


def _factor(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight / (norm.running_var + norm.eps).sqrt()


def _on_steps(weight: Tensor) -> Tensor:
    """Rounded per output channel."""
    steps = weight.detach().abs().amax((1, 2, 3)).clamp(min=2.0**-24) / LEVELS
    zeros = torch.zeros(len(steps), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -LEVELS, LEVELS)
