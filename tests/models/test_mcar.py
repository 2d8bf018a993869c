"""MCAR: the recorded official outputs, the official key names, ranking, pooling, folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge.models import MODELS, create, load_checkpoint
from edge.models.mcar import pool, top_classes


def test_recorded_official_outputs(official_case):
    _, network, images, expected = official_case
    with torch.inference_mode():
        found = {name: value.numpy() for name, value in network(torch.from_numpy(images)).items()}
    for name in ("regions", "region_classes"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("global_scores", "local_scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5)
    np.testing.assert_array_equal(found["scores"], np.maximum(found["global_scores"], found["local_scores"]))


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mcar-")])
def test_keys_and_shapes_are_the_official_ones(name, golden):
    official, net = golden.read("official_keys"), name.removeprefix("mcar-")
    expected = {str(key): str(shape) for key, shape in zip(official[f"{net}_keys"], official[f"{net}_shapes"], strict=True)}
    found = {key: str(tuple(value.shape)) for key, value in create(name, num_classes=20).state_dict().items()}
    assert {key: shape.replace(" ", "") for key, shape in found.items()} == {key: _normal(shape) for key, shape in expected.items()}


def _normal(shape: str) -> str:
    sizes = [part for part in shape.strip("()[]").replace("x", ",").replace(" ", "").split(",") if part]
    return f"({','.join(sizes)}{',' if len(sizes) == 1 else ''})"


def test_equal_logits_rank_by_index():
    logits = torch.tensor([[1.0, 3, 3, 2, 3, 0], [0, 0, 0, 0, 0, 0]])
    assert top_classes(logits, 4).tolist() == [[1, 2, 4, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("side", [8, 14, 18])
def test_gwp_is_the_mean_of_both_poolings(side):
    maps = torch.randn(2, 3, side, side)
    torch.testing.assert_close(pool(maps, "gwp"), (maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)) / 2)


def test_folding_batch_norm_changes_nothing(small):
    images = torch.randn(1, 3, 64, 64)
    model = create("mcar-mobilenetv2", num_classes=5, regions=2)
    load_checkpoint(model, small.state_dict())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    folded = model.fused_for_export()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded.features(images), model.features(images), rtol=1e-4, atol=1e-5)
