"""The graph: a model as one ONNX file, with what it is and where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edge.manifest import digest_bytes
from edge.spec import ImageSpec, ModelSpec

if TYPE_CHECKING:
    import onnx

OPSET = 19
IR_VERSION = 10
INPUT = "image"
OUTPUTS = ("scores", "global_scores", "local_scores", "regions", "region_classes")
# What a network gives for N images, by those names: scores (N, C) float32; where it has regions,
# their boxes (N, K, 4) float32, x1 y1 x2 y2 in pixels, x2/y2 exclusive, and classes (N, K) int64.
Outputs: TypeAlias = Mapping[str, np.ndarray]
BATCH = "batch"
# A model with a second pass runs as two stages; any other as one, whose name is empty.
WHOLE, LOOK, CLOSER = "", "look", "closer"
BOXES, OWNER, REGION_SCORES = "boxes", "owner", "region_scores"  # what *closer* takes beside the image, and gives
PRODUCER = "mcar-edge"
FLOAT32_PREFIX = "float32/"  # of nodes that must compute in float32 where a runtime would choose types itself
FLOAT32_NODES = "edge.float32_nodes"  # metadata: JSON list of the nodes that compute in float32 in every precision


@dataclass(frozen=True)
class Graph:
    """A canonical graph (fp32, or int8 with Q/DQ): opset 19, one input ``image`` (batch, 3, S, S)
    float32.

    Attributes:
        proto: the serialised ONNX model; frozen, so that its digest is its name.
        model: labels and options of the network.
        image: size and normalisation of the input.
        parents: digests of what it was made from (``weights``, ``graph``, ``data``,
            ``calibration``).
    """

    proto: bytes = field(repr=False)
    model: ModelSpec
    image: ImageSpec
    parents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto, spec: ModelSpec, image: ImageSpec, parents: Mapping[str, str]) -> Graph:
        return cls(model.SerializeToString(deterministic=True), spec, image, dict(parents))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the serialised graph."""
        return digest_bytes(self.proto)

    def parse(self) -> onnx.ModelProto:
        """A fresh ONNX model, the caller's to change."""
        import onnx

        return onnx.load_from_string(self.proto)

    def derived(self, model: onnx.ModelProto, **parents: str) -> Graph:
        """A graph made from this one; its parents are this graph and what is named."""
        return Graph.of(model, self.model, self.image, {**self.parents, "graph": self.digest, **parents})


def outputs_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of an ONNX model's outputs, in order."""
    return tuple(value.name for value in model.graph.output)


def prune(graph: onnx.GraphProto) -> None:
    """Drop, in place, the nodes and constants that no output needs, inputs being given."""
    given, read = {value.name for value in graph.input}, {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if read & (set(node.output) - given):
            kept.append(node)
            read.update(node.input)
    constants = [each for each in graph.initializer if each.name in read - given]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def cut(model: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The part of a model between values, with its metadata: ``inputs`` become its inputs, whatever
    computed them before."""
    part = type(model)()
    part.CopyFrom(model)
    graph = part.graph
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    prune(graph)
    given = {value.name for value in inputs}
    for node in graph.node:  # one that computed an input may have other outputs in use
        node.output[:] = [f"{name}/unused" if name in given else name for name in node.output]
    return part


def node_domains(proto: bytes) -> frozenset[str]:
    """The domains of a serialised model's nodes; read without onnx, which a device need not have.

    What is no model has none: whoever parses it says so.
    """
    model = memoryview(proto)
    try:
        return frozenset(
            bytes(domain).decode()
            for graph in _messages(model, 7)  # ModelProto.graph
            for node in _messages(graph, 1)  # GraphProto.node
            for domain in _messages(node, 7)  # NodeProto.domain
        )
    except (IndexError, ValueError):
        return frozenset()


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of that number in a protobuf message that have a length: strings and messages."""

    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        field, wire = divmod(number(), 8)
        if wire == 0:
            number()
        else:
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                length = number()
            if wire == 2 and field == wanted:
                yield data[at : at + length]
            at += length
