"""Cross-layer equalisation: channels between two convolutions are scaled so that both hold weights of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calib.scales import DEAD_CHANNEL
from edge.graph import Graph
from edge.lower.backbone import convolutions

HOMOGENEOUS = frozenset({"LeakyRelu", "Relu"})  # f(s·x) = s·f(x) for s > 0
SWEEPS = 50
SETTLED = 1e-3  # largest |log s| of a sweep after which nothing moves any more
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Equalised:
    """An equalised graph and what was done to it.

    Attributes:
        graph: computes what the given one computes, but for float rounding.
        pairs: "first → second" by the names of the global stream's nodes (or of the only stream), in graph order.
        skipped: convolution → why the channels behind it were left alone.
    """

    graph: Graph
    pairs: tuple[str, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _Pair:
    """Two convolutions over all streams: position i of each tuple is stream i.

    Attributes:
        first, second: the nodes; all of a tuple share one weight.
        between: their activation; None where the second reads the first directly.
    """

    first: tuple[onnx.NodeProto, ...]
    between: tuple[onnx.NodeProto | None, ...]
    second: tuple[onnx.NodeProto, ...]


def equalise(graph: Graph) -> Equalised:
    """Scale channels down where they leave a convolution and up where the next one reads them (Nagel et al. 2019,
    arXiv:1906.04721, §4.1): output channel j of the first is divided by s_j, input channel j of the second multiplied,
    s_j = √(r1_j / r2_j) with r the largest |w| of the channel, so that both ranges become √(r1_j · r2_j).

    Args:
        graph: canonical, fp32. Calibrate the result: its activations have other ranges.

    Rules:

    1. *A pair* is two convolutions of the backbones of which the second alone reads the first, directly or through a Relu or
       LeakyRelu. A depthwise convolution is the second of one pair and the first of the next.
    2. *A Clip from 0 to b* becomes a Min with b / s_j and a Relu: the same function, where the paper puts a Relu in place of
       a ReLU6. The Relu comes last, so that what is rounded is still known to be positive.
    3. *Streams share weights*, which are scaled once; so all streams must join the same two weights in the same way.
    4. *Dead channels*, of next to no weight on either side, stay as they are: scaled up, their biases would drown the rest.
       Other large biases are not absorbed (§4.1.3): that holds only on average.
    5. *Pairs in a chain* move each other, so all are gone through until nothing changes.
    """
    model = graph.parse()
    found, skipped = _pairs(model)
    constants = {each.name: each for each in model.graph.initializer}
    touched = {name for pair in found for node in (*pair.first, *pair.second) for name in node.input[1:]}
    arrays = {name: numpy_helper.to_array(constants[name]).astype(np.float64) for name in touched}
    scales = [np.ones(len(arrays[pair.first[0].input[1]])) for pair in found]
    for _ in range(SWEEPS):  # 5
        moved = 0.0
        for pair, scale in zip(found, scales, strict=True):
            step = _scale(pair, arrays)
            scale *= step
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < SETTLED:
            break
    for name, value in arrays.items():
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    for pair, scale in zip(found, scales, strict=True):
        for node in pair.between:
            if node is not None and node.op_type == "Clip":
                _bound_channels(model.graph, node, scale)
    onnx.checker.check_model(model)
    names = tuple(f"{pair.first[0].name} → {pair.second[0].name}" for pair in found)
    return Equalised(graph.derived(model), names, skipped)


def output_ranges(weights: NDArray[np.floating]) -> Weights:
    """(O,) largest |w| of each output channel of weights (O, I / groups, …)."""
    largest: Weights = np.abs(weights.reshape(len(weights), -1)).max(1).astype(np.float64)
    return largest


def input_ranges(weights: NDArray[np.floating], groups: int) -> Weights:
    """(I,) largest |w| that reads each input channel, of weights (O, I / groups, …)."""
    outputs, inputs = weights.shape[:2]
    largest: Weights = np.abs(weights.reshape(groups, outputs // groups, inputs, -1)).max((1, 3)).reshape(-1).astype(np.float64)
    return largest


def _scale(pair: _Pair, arrays: dict[str, Weights]) -> Weights:
    """Equalise one pair in place; returns s (channels,)."""
    first, second = arrays[pair.first[0].input[1]], arrays[pair.second[0].input[1]]
    groups = _groups(pair.second[0])
    out, into = output_ranges(first), input_ranges(second, groups)
    alive = (out > out.max() * DEAD_CHANNEL) & (into > into.max() * DEAD_CHANNEL)  # 4
    scale: Weights = np.sqrt(np.divide(out, into, out=np.ones_like(out), where=alive))
    first /= scale.reshape(-1, *[1] * (first.ndim - 1))
    for bias in {name for node in pair.first for name in node.input[2:]}:  # 3: once, however many read it
        arrays[bias] /= scale
    outputs, inputs = second.shape[:2]
    by_group = second.reshape(groups, outputs // groups, inputs, -1)
    by_group *= scale.reshape(groups, 1, inputs, 1)
    return scale


def _bound_channels(graph: onnx.GraphProto, clip: onnx.NodeProto, scale: Weights) -> None:
    """Rule 2."""
    bound = numpy_helper.to_array(next(each for each in graph.initializer if each.name == clip.input[2]))
    bounds = (float(bound) / scale).astype(np.float32).reshape(1, -1, 1, 1)
    name = f"{clip.name}/bounds"
    graph.initializer.append(numpy_helper.from_array(bounds, name))
    position = list(graph.node).index(clip)
    smaller = helper.make_node("Min", [clip.input[0], name], [f"{clip.name}/min"], name=f"{clip.name}/min")
    relu = helper.make_node("Relu", [f"{clip.name}/min"], list(clip.output), name=clip.name)
    graph.node.insert(position, smaller)
    graph.node[position + 1].CopyFrom(relu)


def _pairs(model: onnx.ModelProto) -> tuple[list[_Pair], dict[str, str]]:
    """Rules 1 and 3: the pairs in graph order, and the convolutions that lead to none with the reason."""
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    own = {node.name: node for node in convolutions(model)}
    by_weight: dict[str, list[onnx.NodeProto]] = {}
    for node in own.values():
        by_weight.setdefault(node.input[1], []).append(node)

    def next_of(value: str) -> onnx.NodeProto | None:
        return None if value in outputs or len(readers.get(value, [])) != 1 else readers[value][0]

    def partner(node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, onnx.NodeProto] | str:
        follower = next_of(node.output[0])
        between = None
        if follower is not None and (follower.op_type in HOMOGENEOUS or _clips_from_zero(follower, constants)):
            between, follower = follower, next_of(follower.output[0])
        if follower is None:
            return "several nodes read it"
        if follower.op_type == "Conv" and follower.name in own:
            return between, follower
        return f"{follower.name} follows"

    found: list[_Pair] = []
    skipped: dict[str, str] = {}
    for first in by_weight.values():
        partners = [partner(node) for node in first]
        reason = next((each for each in partners if isinstance(each, str)), None)
        if reason is None:
            joined = [each for each in partners if not isinstance(each, str)]
            pair = _Pair(tuple(first), tuple(between for between, _ in joined), tuple(second for _, second in joined))
            reason = _why_not(pair, readers)
        if reason is None:
            found.append(pair)
        else:
            skipped[first[0].name] = reason
    return found, skipped


def _why_not(pair: _Pair, readers: Mapping[str, list[onnx.NodeProto]]) -> str | None:
    """Rule 3: what keeps a pair from being scaled; None where nothing does."""
    activations = {(node.op_type, *node.input[1:], str(node.attribute)) if node is not None else () for node in pair.between}
    if len(activations) > 1 or len({node.input[1] for node in pair.second}) > 1:
        return "the streams go on differently behind it"
    for nodes, scaled in ((pair.first, {name for node in pair.first for name in node.input[1:]}), (pair.second, {pair.second[0].input[1]})):
        names = {node.name for node in nodes}
        if any(reader.name not in names for name in scaled for reader in readers[name]):
            return f"the weights of {nodes[0].name} serve elsewhere"
    return None


def _clips_from_zero(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Clip" or len(node.input) < 3 or not set(node.input[1:3]) <= set(constants):
        return False
    low, high = (float(numpy_helper.to_array(constants[name])) for name in node.input[1:3])
    return low == 0 < high


def _groups(node: onnx.NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "group"), 1)
