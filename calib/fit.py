"""Weights and biases fitted to calibration images, layer by layer through the rounded network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import Calibration, Fitted, rounded
from calib.equalise import groups_of
from calib.rounding import patches, round_weights
from calib.scales import LEVELS, activation_scale, quantise_weights, weight_scales
from edge import lower
from edge.backends.onnxruntime import Session
from edge.events import Progress
from edge.graph import Graph, prune
from edge.lower.backbone import CARRIERS, convolutions, observed
from edge.lower.positive import upper_bound

IMAGES, PIXELS = 32, 32 * 256 * 256  # at most: the activations of all images are held at once
POSITIONS = 64  # outputs of a convolution, per image, whose inputs are correlated
MOST_INPUTS = 2304  # of one output; more take minutes, and plain rounding instead
Values = list[NDArray[np.float32]]  # one array per batch


def images_for(size: int) -> int:
    """How many images of that side are fitted to."""
    return max(4, min(IMAGES, PIXELS // size**2))


def fit(
    graph: Graph,
    calibration: Calibration,
    images: Iterable[NDArray[np.float32]],
    *,
    method: str,
    keep_scales: bool = False,
    progress: Progress | None = None,
) -> Fitted:
    """Round the weights of every convolution for the inputs it gets once all before it is rounded,
    and take from its bias whatever shift of the mean is left, of rounded weights and of rounded
    activations alike.

    Args:
        graph: canonical, fp32, the one that was calibrated.
        images: batches (b, 3, S, S) float32, all held in memory; of the second pass, one crop of
            each image is used.
        method: how ranges are cut (``calib.scales.METHODS``).
        keep_scales: leave the largest weight of each output where it is, so that the rounded
            weights, taken for weights, have the scales of the given ones.
        progress: called with (convolutions done, convolutions in all).
    """
    network = _Network(graph, calibration, method, keep_scales)
    network.start(images)
    return network.fitted(progress)


class _Network:
    """The backbones of both streams, run node by node: once exact, for the means, and once rounded.
    No value is kept longer than it is read."""

    def __init__(self, graph: Graph, calibration: Calibration, method: str, keep_scales: bool) -> None:
        self._model, self._method, self._keep_scales = graph.parse(), method, keep_scales
        nodes = self._model.graph.node
        self._source = {name: node for node in nodes for name in node.output}
        self._constants = {each.name: each for each in self._model.graph.initializer}
        self._ours = {node.name: node for node in convolutions(self._model)}
        self._scales = {value: activation_scale(calibration.ranges[value], method) for value in observed(self._model)}
        self._pending = self._needed()
        made = {name for node in self._pending for name in node.output}
        read = [name for node in self._pending for name in node.input if name and name not in self._constants]
        self._given = list(dict.fromkeys(name for name in read if name not in made))
        self._readers = {name: read.count(name) for name in read}
        self._left: dict[str, int] = {}  # readers to come, of this run
        self._begun: dict[str, Values] = {}  # what each run begins with
        self._values: dict[str, Values] = {}  # of this run
        self._random = np.random.default_rng(0)

    def start(self, images: Iterable[NDArray[np.float32]]) -> None:
        """Compute in float32 what the backbones begin with: the image, and the crops."""
        model = lower.reference(self._model)
        inputs = {value.name for value in model.graph.input}
        wanted = [name for name in self._given if name not in inputs]
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
        prune(model.graph)
        session = Session(model.SerializeToString()) if wanted else None
        for batch in images:
            found = session(batch) if session else {}
            for name in self._given:
                value = found.get(name, batch)
                each = len(value) // len(batch)  # crops of an image: the first of the first image, the second of the second …
                chosen = value[np.arange(len(batch)) * each + np.arange(len(batch)) % each]
                self._begun.setdefault(name, []).append(chosen)

    def _begin(self) -> None:
        self._left = dict(self._readers)
        self._values = {name: list(values) for name, values in self._begun.items()}

    def _means(self) -> dict[str, NDArray[np.float64]]:
        """By convolution: the mean of each channel of its exact output."""
        self._begin()
        means = {}
        for node in self._pending:
            if node.name not in self._ours:
                self._run(node)
                continue
            run, weight, bias = _one_node(node, 3), self._array(node.input[1]), self._bias(node)
            outputs = [run(value, weight, bias) for value in self._taken(node.input[0])]
            means[node.name] = _mean(outputs)
            self._values[node.output[0]] = outputs
        return means

    def fitted(self, progress: Progress | None) -> Fitted:
        means = self._means()
        self._begin()
        weights: dict[str, NDArray[np.int8]] = {}
        shifts: dict[str, NDArray[np.float32]] = {}
        while self._pending:
            node = next((each for each in self._pending if self._is_ready(each)), None)
            if node is None:  # a weight that is read again behind itself: rounded by what there is
                node = next(each for each in self._pending if self._has_inputs(each))
            twins = [each for each in self._twins(node) if self._has_inputs(each)]
            if node.name in self._ours and node.input[1] not in weights:
                weights[node.input[1]] = self._integers(twins)
            for twin in twins:
                if twin.name in self._ours:
                    shifts[twin.name] = self._convolve(twin, weights[twin.input[1]], means[twin.name])
                    if progress is not None:
                        progress(len(shifts), len(self._ours))
                else:
                    self._run(twin, in_int8=True)
                self._pending.remove(twin)
        return Fitted(self._method, {name: self._steps(name, integers) for name, integers in weights.items()}, shifts)

    def _steps(self, name: str, integers: NDArray[np.int8]) -> NDArray[np.int8]:
        weight = self._array(name)
        steps: NDArray[np.int8] = (integers - quantise_weights(weight, weight_scales(weight))).ravel()
        return steps

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that lead to convolutions, as far back as they only carry activations."""
        wanted = {node.name for node in self._ours.values()}
        values = {node.input[0] for node in self._ours.values()}
        for node in reversed(self._model.graph.node):
            if node.op_type in CARRIERS and node.name not in wanted and values & set(node.output):
                wanted.add(node.name)
                values.update(node.input)
        return [node for node in self._model.graph.node if node.name in wanted]

    def _twins(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The convolutions that share a weight; any other node alone."""
        if node.name not in self._ours:
            return [node]
        return [each for each in self._pending if each.name in self._ours and each.input[1] == node.input[1]]

    def _has_inputs(self, node: onnx.NodeProto) -> bool:
        return all(name in self._values for name in node.input if name and name not in self._constants)

    def _is_ready(self, node: onnx.NodeProto) -> bool:
        return all(self._has_inputs(each) for each in self._twins(node))

    def _integers(self, twins: list[onnx.NodeProto]) -> NDArray[np.int8]:
        """Of one weight, for all that its readers see."""
        weight = self._array(twins[0].input[1])
        scales, groups = weight_scales(weight), groups_of(twins[0])
        flat = weight.reshape(groups, len(weight) // groups, -1).astype(np.float64)
        if flat.shape[2] > MOST_INPUTS:
            return quantise_weights(weight, scales)
        covariance = sum(
            (self._covariance(node, groups, flat.shape[2]) for node in twins), start=np.zeros((groups, flat.shape[2], flat.shape[2]))
        )
        found = round_weights(flat, covariance, scales.astype(np.float64).reshape(groups, -1)).reshape(weight.shape)
        if self._keep_scales:
            nearest = quantise_weights(weight, scales)
            found = np.where(np.abs(nearest.astype(np.int16)) == LEVELS, nearest, found)
        return found

    def _covariance(self, node: onnx.NodeProto, groups: int, inputs: int) -> NDArray[np.float64]:
        """(groups, K, K) of the rounded inputs, over images and some positions."""
        form = _form(node, self._array(node.input[1]).shape)
        positions = None
        total, square, count = np.zeros((groups, inputs)), np.zeros((groups, inputs, inputs)), 0
        for value in self._values[node.input[0]]:
            height, width = _output_size(value.shape, **form)
            if positions is None:
                chosen = self._random.permutation(height * width)[:POSITIONS]
                positions = np.stack([chosen // width, chosen % width], 1)
            read = patches(self._round(node.input[0], value), positions, groups=groups, **form)
            square += read @ read.transpose(0, 2, 1)
            total += read.sum(2)
            count += read.shape[2]
        mean = total / count
        return square / count - mean[:, :, None] * mean[:, None, :]

    def _convolve(self, node: onnx.NodeProto, integers: NDArray[np.int8], exact: NDArray[np.float64]) -> NDArray[np.float32]:
        """Run a rounded convolution and return what its bias lacks for the exact means; its output
        has it already."""
        weight = self._array(node.input[1])
        scales = weight_scales(weight).reshape(-1, *[1] * (weight.ndim - 1))
        run, stepped, bias = _one_node(node, 3), (integers * scales).astype(np.float32), self._bias(node)
        outputs = [run(self._round(node.input[0], value), stepped, bias) for value in self._taken(node.input[0])]
        correction = rounded(exact - _mean(outputs)).astype(np.float32)  # as a table holds it
        for each in outputs:
            each += correction.reshape(-1, 1, 1)
        self._values[node.output[0]] = outputs
        return correction

    def _run(self, node: onnx.NodeProto, *, in_int8: bool = False) -> None:
        run = _one_node(node, len(node.input))
        rounds = in_int8 and node.op_type == "Add" and all(name in self._scales for name in node.input)
        parts = [repeat(self._array(name)) if name in self._constants else self._taken(name) for name in node.input]
        outputs = []
        for inputs in zip(*parts, strict=False):  # constants go on for ever
            read = [self._round(name, value) for name, value in zip(node.input, inputs, strict=True)] if rounds else inputs
            outputs.append(run(*read))
        self._values[node.output[0]] = outputs

    def _taken(self, value: str) -> Iterable[NDArray[np.float32]]:
        """A value, batch by batch, given up where this is its last reader."""
        self._left[value] -= 1
        batches = self._values[value]
        if self._left[value] == 0:
            del self._values[value]
            batches.reverse()
            while batches:
                yield batches.pop()
        else:
            yield from batches

    def _round(self, name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """As int8, or as uint8 where it cannot be negative (``edge.lower.positive``)."""
        scale, lowest, highest = self._scales[name], -LEVELS - 1, LEVELS
        bound = upper_bound(name, self._source, self._constants)
        if bound is not None:
            scale, lowest, highest = min(scale * 127 / 255, bound / 255), 0, 255
        rounded = np.multiply(value, np.float32(1 / scale))
        np.rint(rounded, out=rounded)
        np.clip(rounded, lowest, highest, out=rounded)
        rounded *= np.float32(scale)
        return rounded

    def _array(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self._constants[name])

    def _bias(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        return self._array(node.input[2]) if len(node.input) > 2 else np.zeros(len(self._array(node.input[1])), np.float32)


def _mean(outputs: Values) -> NDArray[np.float64]:
    """Of each channel, over all batches."""
    total = sum((each.sum((0, 2, 3), dtype=np.float64) for each in outputs), start=np.zeros(outputs[0].shape[1]))
    return np.asarray(total / sum(each[:, 0].size for each in outputs))


def _one_node(node: onnx.NodeProto, count: int) -> Callable[..., NDArray[np.float32]]:
    """A function of a node's inputs, all of them given when it is called."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    names = [f"input_{index}" for index in range(count)]
    alone.input[:] = names
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph([alone], "node", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    session = Session(model.SerializeToString())
    return lambda *values: np.array(session.run(dict(zip(names, values, strict=True)))[node.output[0]])


def _form(node: onnx.NodeProto, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    given = {each.name: tuple(each.ints) for each in node.attribute if each.name in ("strides", "dilations", "pads")}
    return {
        "kernel": shape[2:],
        "stride": given.get("strides", (1, 1)),
        "dilation": given.get("dilations", (1, 1)),
        "pads": given.get("pads", (0, 0, 0, 0)),
    }


def _output_size(
    shape: tuple[int, ...], *, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], pads: tuple[int, ...]
) -> tuple[int, int]:
    sides = [(shape[2 + i] + pads[i] + pads[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    return sides[0], sides[1]
