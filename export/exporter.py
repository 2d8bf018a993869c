"""Trace a model with today's exporter; the two region operators stay single nodes of domain
``edge``."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import onnx
import torch

from edge.errors import EdgeError
from edge.graph import BATCH, FLOAT32_NODES, INPUT, IR_VERSION, OPSET, OUTPUTS, PRODUCER, Graph
from edge.models import localisation  # noqa: F401  # defines torch.ops.edge.*
from edge.models.network import Network
from edge.ops import DOMAIN, register_schemas
from edge.spec import ImageSpec, ModelSpec
from export.name_nodes import name_nodes, nodes_of
from export.tidy import tidy

Value: TypeAlias = Any  # a symbolic value of onnxscript, which has no types
# What a graph that TensorRT 10.0 to 11, OpenVINO and ONNX Runtime all take must not hold.
FORBIDDEN = frozenset({"NonZero", "Loop", "If", "Scan", "CumSum", "Shape", "Expand", "Range", "ScatterND", "BatchNormalization"})


def export_graph(model: Network, spec: ModelSpec, image: ImageSpec, parents: Mapping[str, str] | None = None) -> Graph:
    """The canonical fp32 graph of a model.

    Args:
        model: maps (B, 3, S, S) float32 to a dict of the outputs in ``edge.graph.OUTPUTS``; Conv+BN
            pairs are folded here.
        spec, image: what travels with the graph; ``image.size`` fixes S.
        parents: digests of what the model was made from.

    Raises:
        EdgeError: the traced graph holds an operator that some target cannot run.
    """
    register_schemas()
    folded = model.fused_for_export()
    example = torch.zeros(2, 3, image.size, image.size)  # a batch of 1 would be taken for a constant
    outputs = [name for name in OUTPUTS if name in _output_names(folded, example)]
    with _quietly():
        program = torch.onnx.export(
            folded,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim(BATCH, min=1, max=4096)},),
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert program is not None  # only with a file name does the exporter return nothing
    traced: onnx.ModelProto = program.model_proto
    traced.producer_name, traced.producer_version = PRODUCER, ""
    traced.ir_version = min(traced.ir_version, IR_VERSION)
    named = name_nodes(traced, model.layer_names)
    exact = nodes_of(named, model.float_layers)
    proto = tidy(named)
    if exact:
        onnx.helper.set_model_props(proto, {FLOAT32_NODES: json.dumps(exact)})
    _refuse_forbidden(proto)
    onnx.checker.check_model(proto, full_check=True)
    return Graph.of(proto, spec, image, dict(parents or {}))


def _output_names(model: torch.nn.Module, example: torch.Tensor) -> list[str]:
    # Shapes only: a real pass of ResNet-101 at 576 would cost seconds.
    with torch.no_grad(), torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return list(model(mode.from_tensor(example)))


def _translations() -> dict[Callable[..., Value], Callable[..., Value]]:
    from onnxscript.values import Opset

    operators = Opset(DOMAIN, 1)
    # The plugin attributes are what TensorRT's parser looks a plugin up by.
    plugin = {"plugin_version": "1", "plugin_namespace": DOMAIN}

    def region_boxes(cams: Value, size: int, threshold: float) -> Value:
        return operators.RegionBoxes(cams, size=size, threshold=threshold, **plugin)

    def roi_resize(image: Value, boxes: Value, size: int) -> Value:
        return operators.RoiResize(image, boxes, size=size, **plugin)

    return {torch.ops.edge.region_boxes.default: region_boxes, torch.ops.edge.roi_resize.default: roi_resize}


def _refuse_forbidden(model: onnx.ModelProto) -> None:
    found = sorted({node.op_type for node in model.graph.node} & FORBIDDEN)
    if found:
        raise EdgeError(
            "export",
            f"The traced graph has {', '.join(found)}, which some runtimes refuse",
            "Rewrite the model's forward without dynamic shapes",
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter reports its steps on stdout and warns about its own internals; neither helps a
    user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
