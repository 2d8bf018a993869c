"""The baseline is honest only if it computes the same."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.eager import EagerMCAR, bounds  # noqa: E402
from edge.models import create  # noqa: E402
from edge.models.localisation import bounds as vectorised_bounds  # noqa: E402


def test_bounds_found_one_by_one_are_those_found_at_once():
    generator = torch.Generator().manual_seed(0)
    curves = torch.rand(300, 1, 1, 12, generator=generator)
    curves = torch.nn.functional.interpolate(curves, (1, 256), mode="bilinear", align_corners=True).reshape(300, 256)
    curves[:20] = (curves[:20] > 0.5).float()  # plateaus, where ties decide
    curves[20:25] = 0.3  # flat
    expected = vectorised_bounds(curves.clamp(1e-4, 1 - 1e-4), 0.5).tolist()
    for curve, (start, end) in zip(curves.clamp(1e-4, 1 - 1e-4), expected, strict=True):
        low, high = curve.min(), curve.max()
        scaled = curve / high if high == low else (curve - low) / (high - low)
        assert bounds(scaled, 0.5) == (start, end)


@pytest.mark.parametrize("pooling", ["avg", "gwp", "max"])
def test_the_loop_gives_the_scores_and_regions_of_the_network(pooling):
    torch.manual_seed(1)
    network = create("mcar-mobilenetv2", num_classes=6, pooling=pooling, regions=3)
    for layer in network.features.modules():
        if isinstance(layer, torch.nn.Conv2d):  # activations must reach the end, or every map is flat
            torch.nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        images = torch.randn(2, 3, 96, 96)
        expected, found = network(images), EagerMCAR(network)(images)
    assert np.array_equal(found["region_classes"], expected["region_classes"])
    assert np.array_equal(found["regions"], expected["regions"])
    for name in ("scores", "global_scores", "local_scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
