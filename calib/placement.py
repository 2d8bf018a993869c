"""Where the graph is rounded to int8: explicit symmetric Q/DQ by numbered rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calib.calibration import REMAKE, Calibration, Fitted
from calib.repair import bias_shift
from calib.scales import LEVELS, activation_scale, quantise_weights, weight_scales
from edge.errors import EdgeError
from edge.graph import Graph, prune
from edge.lower.backbone import convolutions, residual_adds
from edge.lower.residual_adds import RESIDUAL_SCALES

DEFAULT_METHOD = "mse"
ZERO = "int8_zero"


def quantize(
    graph: Graph,
    calibration: Calibration,
    *,
    method: str = DEFAULT_METHOD,
    float_nodes: Collection[str] = (),
    bias_correction: bool = False,
    fitted: Fitted | None = None,
) -> Graph:
    """The graph with Q/DQ; every runtime's int8 kernels are found from it.

    Args:
        graph: canonical, fp32.
        calibration: of this very graph; another one is refused.
        method: a key of ``calib.scales.METHODS``.
        float_nodes: names of convolutions and Adds to leave in float.
        bias_correction: take from each bias what rounding the weights adds to the mean
            (``calib.repair.bias_shift``).
        fitted: what replaces both, made for this graph by ``calib.fit``.

    Rules:

    1. *Convolutions of the backbones* are quantised: those from which another node with constant
       weights can be reached without passing an edge op. What this leaves out are the classifiers,
       which read the final feature map: a wrong bit there moves a score, a class map, a box. They,
       the sigmoids, the maps, the boxes, the crops and the fusion stay float, and so does the
       feature map they read.
    2. *Activations* are rounded once per tensor: one QuantizeLinear, one DequantizeLinear, one
       scale, whoever reads it. The streams have tensors of their own and therefore scales of their
       own.
    3. *Weights* are stored as int8 with one scale per output channel (axis 0), DequantizeLinear
       only. Both streams read the same integers and the same scales; each convolution has its own
       DequantizeLinear node.
    4. *Biases* stay float: a runtime rounds them to 32 bits of the product of the scales where it
       must. A corrected one is the stream's own, since the streams' mean inputs differ.
    5. *Residual Adds*: the shortcut is rounded, the branch is not, so that convolution, Add and
       activation become one kernel (TensorRT). The shortcut is the input with the shorter way from
       the graph's input. It shares the rounding with the convolution that reads the same tensor
       (rule 2). The scale of the branch travels in the metadata as ``edge.residual_scales`` for the
       runtimes that want both (``edge.lower.residual_adds``).
    6. *MaxPool* before a rounded tensor is rounded at its input with the scale of its output, which
       changes nothing and lets it run in int8.
    7. *Left in float*: a node in ``float_nodes`` keeps float weights and reads the unrounded
       tensor; an Add there keeps both inputs.
    8. Scales are positive, zero points are 0 (TensorRT refuses anything else).
    """
    calibration.check_belongs(graph)
    model = graph.parse()
    names = {node.name for node in model.graph.node}
    unknown = sorted(set(float_nodes) - names)
    if unknown:
        raise EdgeError("calib", f"`float_nodes` names {unknown[0]}, which is not in the graph", f"Name one such as {next(iter(names))}")
    left = frozenset(float_nodes)
    rounded = [node for node in convolutions(model) if node.name not in left]
    adds = [add for add in residual_adds(model) if add.node.name not in left]
    calibration.check_covers([node.input[0] for node in rounded] + [name for add in adds for name in add.node.input])

    placed = _Placement(model, lambda value: activation_scale(calibration.ranges[value], method), fitted.steps if fitted else {})
    for node in rounded:
        if fitted is not None:
            placed.shift_bias(node, fitted.shifts.get(node.name))
        elif bias_correction:
            placed.correct_bias(node, calibration.means[node.input[0]])
        placed.weight(node)
        placed.activation(node, 0)
    branches = {}
    for add in adds:
        branch = add.node.input[1 - add.shortcut]
        branches[branch] = placed.scale(branch)
        placed.activation(add.node, add.shortcut)
    placed.finish()
    helper.set_model_props(model, {each.key: each.value for each in model.metadata_props} | {RESIDUAL_SCALES: json.dumps(branches)})
    onnx.checker.check_model(model)
    return graph.derived(model, calibration=calibration.digest)


class _Placement:
    """Changes the inputs of nodes and collects what is to be inserted; ``finish`` inserts it."""

    def __init__(self, model: onnx.ModelProto, scale: Callable[[str], float], steps: Mapping[str, np.ndarray]) -> None:
        self._graph = model.graph
        self._steps = steps
        self._calibrated = scale
        self._constants = {each.name: each for each in model.graph.initializer}
        self._given = frozenset(self._constants)
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._scales: dict[str, float] = {}
        self._rounded: dict[str, str] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}  # value → the pair that rounds it
        self._before: dict[str, onnx.NodeProto] = {}  # node → the DequantizeLinear of its weight

    def scale(self, value: str) -> float:
        if value not in self._scales:
            self._scales[value] = self._calibrated(value)
        return self._scales[value]

    def activation(self, node: onnx.NodeProto, position: int) -> None:
        """Rule 2."""
        value = node.input[position]
        source = self._producer.get(value)
        if source is not None and source.op_type == "MaxPool" and source.input[0] in self._producer:  # 6
            self._scales.setdefault(source.input[0], self.scale(value))
            self.activation(source, 0)
        if value not in self._rounded:
            zero = self._constant(ZERO, np.zeros((), np.int8))
            scale = self._constant(f"{value}/scale", np.asarray(self.scale(value), np.float32))
            self._rounded[value] = f"{value}/dq"
            self._after[value] = [
                helper.make_node("QuantizeLinear", [value, scale, zero], [f"{value}/int8"], name=f"{value}/q"),
                helper.make_node("DequantizeLinear", [f"{value}/int8", scale, zero], [f"{value}/dq"], name=f"{value}/dq"),
            ]
        node.input[position] = self._rounded[value]

    def correct_bias(self, node: onnx.NodeProto, means: np.ndarray) -> None:
        """Rule 4; before ``weight`` and ``activation``."""
        weights = numpy_helper.to_array(self._constants[node.input[1]])
        integers, scales = self._integers(node.input[1])
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        rounded = integers * scales.reshape(-1, *[1] * (weights.ndim - 1)).astype(np.float64)
        self.shift_bias(node, -bias_shift(weights, rounded, means, groups))

    def shift_bias(self, node: onnx.NodeProto, shift: np.ndarray | None) -> None:
        """Rule 4."""
        channels = self._constants[node.input[1]].dims[0]
        if shift is None or shift.shape != (channels,):
            raise _unfitted(node.name)
        if len(node.input) > 2:
            shift = shift + numpy_helper.to_array(self._constants[node.input[2]])
        del node.input[2:]
        node.input.append(self._constant(f"{node.name}/corrected_bias", shift.astype(np.float32)))

    def weight(self, node: onnx.NodeProto) -> None:
        """Rule 3."""
        name = node.input[1]
        self._integers(name)
        channels = self._constants[f"{name}/scale"].dims[0]
        zeros = self._constant(f"int8_zeros_{channels}", np.zeros(channels, np.int8))
        output = f"{node.name}/weight"
        self._before[node.name] = helper.make_node(
            "DequantizeLinear", [f"{name}/int8", f"{name}/scale", zeros], [output], name=output, axis=0
        )
        node.input[1] = output

    def finish(self) -> None:
        """Pairs go behind what produces their value, so that all readers follow; unread constants
        go."""
        nodes = [each for value in self._graph.input for each in self._after.get(value.name, ())]
        for node in self._graph.node:
            nodes += [self._before[node.name]] if node.name in self._before else []
            nodes.append(node)
            nodes += [each for value in node.output for each in self._after.get(value, ())]
        added = [each for name, each in self._constants.items() if name not in self._given]
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(added)
        prune(self._graph)

    def _integers(self, weight: str) -> tuple[np.ndarray, np.ndarray]:
        """int8 values and scales (O,) of a weight."""
        if f"{weight}/int8" not in self._constants:
            weights = numpy_helper.to_array(self._constants[weight])
            scales = weight_scales(weights)
            self._constant(f"{weight}/scale", scales)
            integers, steps = quantise_weights(weights, scales), self._steps.get(weight)
            if steps is not None and steps.size != weights.size:
                raise _unfitted(weight)
            if steps is not None:
                integers = np.maximum(integers + steps.reshape(weights.shape), -LEVELS)
            self._constant(f"{weight}/int8", integers)
        return numpy_helper.to_array(self._constants[f"{weight}/int8"]), numpy_helper.to_array(self._constants[f"{weight}/scale"])

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(value, name)
        return name


def _unfitted(name: str) -> EdgeError:
    return EdgeError("calib", f"What was fitted is not for {name} of this graph", REMAKE)
