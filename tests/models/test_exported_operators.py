"""The pieces of MCAR that tracing must not change: the ranking's ties, and the two region operators
with any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edge.models import localisation  # noqa: F401  # defines torch.ops.edge.*
from edge.models.mcar import top_classes


class Ranking(nn.Module):
    def forward(self, logits):
        return top_classes(logits, 4)


def test_ties_rank_alike_in_torch_and_in_the_graph(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (200, 80)).astype(np.float32)  # about eleven classes share each value
    program = torch.onnx.export(
        Ranking().eval(),
        (torch.zeros(2, 80),),
        dynamo=True,
        opset_version=19,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert [node.op_type for node in program.model_proto.graph.node] == ["TopK"]
    program.save(tmp_path / "ranking.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "ranking.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: logits})
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(top_classes(torch.from_numpy(logits), 4).numpy(), expected)


def test_the_operators_keep_torchs_own_rules():
    cams = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.ops.edge.region_boxes(cams, 128, 0.5)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.edge.region_boxes.default, (cams, 128, 0.5), test_utils=checks)
    torch.library.opcheck(torch.ops.edge.roi_resize.default, (torch.randn(2, 3, 128, 128), boxes, 128), test_utils=checks)


class Regions(nn.Module):
    def forward(self, image, cams):
        boxes = torch.ops.edge.region_boxes(cams, 64, 0.5)
        return boxes, torch.ops.edge.roi_resize(image, boxes, 64)


def test_a_trace_takes_any_batch():
    batch = torch.export.Dim("batch", min=1, max=4096)
    traced = torch.export.export(
        Regions(), (torch.rand(2, 3, 64, 64), torch.rand(2, 3, 2, 2)), dynamic_shapes=({0: batch}, {0: batch})
    ).module()
    for count in (1, 5):
        image, cams = torch.rand(count, 3, 64, 64), torch.rand(count, 3, 2, 2)
        boxes, crops = traced(image, cams)
        expected_boxes, expected_crops = Regions()(image, cams)
        assert crops.shape == (3 * count, 3, 64, 64)
        assert torch.equal(boxes, expected_boxes)
        assert torch.equal(crops, expected_crops)
