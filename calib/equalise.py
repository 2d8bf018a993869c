"""Equalisation: channels that share one activation scale are scaled to one range, so that each has
all the steps of int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.scales import LEVELS
from edge.graph import Graph
from edge.lower.backbone import convolutions
from edge.lower.positive import upper_bound

# f(s·x) = s·f(x) for s > 0, channel by channel; a Clip from 0 to b does it where s·x stays below b.
HOMOGENEOUS = frozenset({"Add", "Clip", "LeakyRelu", "MaxPool", "Relu"})
LEAST = 1 / LEVELS  # of the largest channel: a smaller one is below one step of it, and its bias must not grow without end
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Equalised:
    """An equalised graph and what was done to it.

    Attributes:
        graph: computes what the given one computes, but for float rounding and for what rule 3
            says.
        groups: "writers → readers" by the names of the convolutions of the global stream (or of the
            only one), in graph order.
        skipped: convolution → why the channels behind it were left alone.
    """

    graph: Graph
    groups: tuple[str, ...]
    skipped: Mapping[str, str]


def equalise(graph: Graph, peaks: Mapping[str, np.ndarray]) -> Equalised:
    """Scale channels where convolutions write them, and back where convolutions read them, so that
    all reach one peak.

    Weights have a scale per output channel, so writing a channel larger costs nothing; an
    activation has one scale, so a channel that reaches a tenth of the largest has a tenth of its
    steps. Nagel et al. 2019 (arXiv:1906.04721, §4.1) balance the ranges of two weights instead,
    which is for weights with one scale per tensor.

    Args:
        graph: canonical, fp32. Calibrate the result: its activations have other ranges.
        peaks: value → (channels,) largest |x| of each channel, of ``calib.peaks``.

    Rules:

    1. *A group* is the values of the backbones that must be scaled alike: the input and output of
       Relu, LeakyRelu, Clip from 0, MaxPool and Add; and, since streams share weights, what nodes
       with the same weight write, and what they read.
    2. It is scaled where convolutions write all of it and convolutions read all of it. Each output
       channel of a writer, with its bias, is divided by s, the input channel of each reader
       multiplied.
    3. s = peak of the channel / peak of the group. *Behind a Clip to b* the group's peak is b: the
       Clip stays as it is and cuts a channel off at the peak that was observed rather than at b. No
       node is added, and whatever is fused still is.
    4. A channel that hardly shows (below ``LEAST`` of the group) is taken for one that reaches
       ``LEAST``.
    """
    model = graph.parse()
    constants = {each.name: each for each in model.graph.initializer}
    source = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ours = {node.name: node for node in convolutions(model)}
    outputs = {value.name for value in model.graph.output}
    arrays: dict[str, Array] = {}

    def array(name: str) -> Array:
        if name not in arrays:
            arrays[name] = numpy_helper.to_array(constants[name]).astype(np.float64)
        return arrays[name]

    groups: list[str] = []
    skipped: dict[str, str] = {}
    for group in _groups(model, ours):
        writers = [ours[name] for name in ours if ours[name].output[0] in group]
        taking = [ours[name] for name in ours if ours[name].input[0] in group]
        if not writers:
            continue
        reason = _why_not(group, writers, taking, source, readers, outputs)
        channels = array(writers[0].input[1]).shape[0]
        seen = [peaks[value].astype(np.float64) for value in sorted(group) if value in peaks and len(peaks[value]) == channels]
        if reason is None and not seen:
            reason = "its channels were not observed"
        if reason is not None:
            skipped |= {node.name: reason for node in _once(writers)}
            continue
        peak: Array = np.max(seen, axis=0)
        bounds = [upper_bound(value, source, constants) for value in group if source[value].op_type == "Clip"]
        top = min((bound for bound in bounds if bound is not None), default=float(peak.max()))  # 3
        if not 0 < top < np.inf:
            top = float(peak.max()) or 1.0
        scale = np.clip(peak / top, LEAST, 1.0)  # 4
        for name in {name for node in writers for name in node.input[1:]}:  # once, however many streams read it
            arrays[name] = array(name) / scale.reshape(-1, *[1] * (array(name).ndim - 1))
        for name, count in {node.input[1]: groups_of(node) for node in taking}.items():
            weight = array(name)
            by_group = weight.reshape(count, len(weight) // count, weight.shape[1], -1) * scale.reshape(count, 1, weight.shape[1], 1)
            arrays[name] = by_group.reshape(weight.shape)
        groups.append(f"{', '.join(node.name for node in _once(writers))} → {', '.join(node.name for node in _once(taking))}")
    for name, value in arrays.items():
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    onnx.checker.check_model(model)
    return Equalised(graph.derived(model), tuple(groups), skipped)


def groups_of(node: onnx.NodeProto) -> int:
    """The attribute ``group`` of a convolution."""
    return next((each.i for each in node.attribute if each.name == "group"), 1)


def _groups(model: onnx.ModelProto, ours: Mapping[str, onnx.NodeProto]) -> list[set[str]]:
    """Rule 1, in graph order."""
    group_of: dict[str, set[str]] = {}

    def join(values: list[str]) -> None:
        merged: set[str] = set().union(*(group_of.get(value, {value}) for value in values))
        group_of.update(dict.fromkeys(merged, merged))

    written: dict[str, list[str]] = {}
    read: dict[str, list[str]] = {}
    constants = {each.name for each in model.graph.initializer}
    for node in model.graph.node:
        if node.name in ours:
            written.setdefault(node.input[1], []).append(node.output[0])
            read.setdefault(node.input[1], []).append(node.input[0])
        elif node.op_type in HOMOGENEOUS:
            join([name for name in (*node.input, *node.output) if name and name not in constants])
    for shared in (*written.values(), *read.values()):
        join(shared)
    return list({id(group_of[node.output[0]]): group_of[node.output[0]] for node in ours.values()}.values())


def _why_not(
    group: set[str],
    writers: list[onnx.NodeProto],
    taking: list[onnx.NodeProto],
    source: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> str | None:
    """Rule 2; None where the group may be scaled."""
    known = {node.name for node in (*writers, *taking)}
    for value in sorted(group):
        if value in outputs or value not in source:
            return "it is an input or output of the graph"
        node = source[value]
        if node.op_type not in HOMOGENEOUS and node.name not in known:
            return f"{node.name} writes into it"
        for reader in readers.get(value, []):
            if reader.name not in known and not (reader.op_type in HOMOGENEOUS and reader.output[0] in group):
                return f"{reader.name} follows"
        constant = [name for name in node.input if name and name not in source] if node.op_type == "Add" else []
        if constant:
            return f"{node.name} adds a constant"
        if node.op_type == "Clip" and not _clips_from_zero(node, source):
            return f"{node.name} does not begin at zero"
    for names, nodes in (({name for node in writers for name in node.input[1:]}, writers), ({node.input[1] for node in taking}, taking)):
        mine = {node.name for node in nodes}
        for name in sorted(names):
            if any(reader.name not in mine for reader in readers[name]):
                return f"the weights of {nodes[0].name} serve elsewhere"
    return None if taking else "no convolution follows"


def _clips_from_zero(node: onnx.NodeProto, source: Mapping[str, onnx.NodeProto]) -> bool:
    return len(node.input) > 2 and all(name and name not in source for name in node.input[1:3])


def _once(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """One node for each weight: that of the first stream."""
    return list({node.input[1]: node for node in reversed(nodes)}.values())[::-1]
