"""How boxes move with the class maps they are cut from."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks.boxes import compare  # noqa: E402


def test_boxes_that_move_are_told_from_those_that_stay():
    maps = torch.full((2, 3, 8, 8), -4.0)
    maps[:, :, 2:5, 2:5] = 6.0  # a plateau in every map
    maps[:, 2] -= 6.0  # a faint one
    other = maps.clone()
    other[0, 0] = maps[0, 0].roll((3, 3), (0, 1))
    found, same = compare(maps, other, 256, 0.5), compare(maps, maps, 256, 0.5)
    assert same["IoU"] == same["IoU of class 1"] == 1
    assert same["error of logits, of their spread"] == 0
    assert found["boxes moved by more than 32 px"] == pytest.approx(1 / 6)
    assert found["their part of what IoU lacks"] == pytest.approx(1)
    assert found["IoU of class 1"] < 0.7
    assert found["IoU of class 2"] == found["IoU of class 3"] == 1
    assert 0 < found["IoU, white noise of 3.0%"] <= 1
