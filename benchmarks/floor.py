"""The floor: an engine's own backbone, cut out of the graph its backend parsed, once per stream.

1. A stream's backbone ends at its pooling (``global/reducemean``, ``local/reducemean`` …): what
   comes out is small, so that writing a feature map to memory weighs on nobody.
2. It begins at the image, the second one at the crops (the value ``crop``).
3. Casts and Q/DQ on the way belong to it: it computes in exactly the engine's precision, with the
   engine's scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from edge.graph import CLOSER, LOOK, WHOLE, cut

POOLINGS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool")
STREAMS = {"global": (LOOK, "image"), "local": (CLOSER, "crop")}


def backbones(lowered: Mapping[str, bytes], size: int, batch: int, regions: int, folder: Path) -> dict[str, Path]:
    """Write ``global.onnx`` and ``local.onnx``, batches fixed to B and B·K.

    Args:
        lowered: what the backend parsed, by stage.
        size: S; regions: K.

    Raises:
        LookupError: the graph has no pooling in one of the streams.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for stream, (stage, source) in STREAMS.items():
        count = batch * (regions if stream == "local" else 1)
        paths[stream] = folder / f"{stream}.onnx"
        model = onnx.load_from_string(lowered[stage if stage in lowered else WHOLE])
        onnx.save(backbone(model, stream, source, (count, 3, size, size)), str(paths[stream]))
    return paths


def backbone(model: onnx.ModelProto, stream: str, source: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The part of ``model`` between the value ``source`` and the pooling of ``stream``."""
    ends: list[str] = []
    behind: set[str] = set()  # what follows a pooling: behind the classifier there is a maximum over the regions
    for node in model.graph.node:
        pools = node.op_type in POOLINGS and node.name.startswith(f"{stream}/")
        if pools and not behind & set(node.input):
            ends += node.output
        if pools or behind & set(node.input):
            behind.update(node.output)
    if not ends:
        raise LookupError(f"no pooling in stream {stream}")
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ends]
    return cut(model, [helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, shape)], outputs)
