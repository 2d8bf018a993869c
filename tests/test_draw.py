"""What is drawn over a photograph: regions strong or thin, labels that keep apart, whatever the
size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import edge.draw
from edge.draw import draw
from edge.prediction import Prediction, Region


def shown(labels: list[tuple[str, float]], regions: list[Region]) -> Prediction:
    return Prediction(np.zeros(0, np.float32), labels, regions)


def changed(drawn: Image.Image, photo: np.ndarray) -> np.ndarray:
    return (np.asarray(drawn)[: photo.shape[0], : photo.shape[1]] != photo).any(axis=2)


def test_a_found_region_is_strong_and_another_thin() -> None:
    photo = np.full((800, 1000, 3), 90, np.uint8)
    box = (200.0, 300.0, 800.0, 700.0)
    strong = changed(draw(photo, shown([("dog", 0.9)], [Region(box, "dog", 0.9)])), photo)
    thin = changed(draw(photo, shown([], [Region(box, "dog", 0.1)])), photo)
    assert strong[500, 190:215].sum() > 2 * thin[500, 190:215].sum() > 0
    assert not strong[400:600, 300:700].any()


def test_the_line_runs_along_the_box() -> None:
    photo = np.full((720, 720, 3), 90, np.uint8)
    drawn = draw(photo, shown([("dog", 0.9)], [Region((100, 200, 500, 600), "dog", 0.9)]))
    colour = np.asarray(drawn)[400, 101]
    assert (np.asarray(drawn)[400, 498] == colour).all()
    assert (np.asarray(drawn)[598, 300] == colour).all()
    assert (colour != 90).all()


def test_a_region_that_was_not_looked_at_is_dashed() -> None:
    photo = np.full((800, 1000, 3), 90, np.uint8)
    box = (200.0, 300.0, 800.0, 700.0)
    for labels in ([], [("dog", 0.9)]):
        looked, passed = (changed(draw(photo, shown(labels, [Region(box, "dog", 0.9, seen)])), photo) for seen in (True, False))
        assert looked[350:650, 201].all()
        assert 0.3 < passed[350:650, 201].mean() < 0.7
        assert 0.3 < passed[698, 250:750].mean() < 0.7
        assert not passed[400:600, 300:700].any()


def test_small_photos_are_enlarged_and_large_ones_keep_their_pixels() -> None:
    prediction = shown([("cat", 0.8)], [Region((2, 2, 30, 20), "cat", 0.8)])
    assert draw(np.zeros((24, 32, 3), np.uint8), prediction).width == 720
    assert draw(np.zeros((600, 2000, 3), np.uint8), prediction).width == 2000


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (50, 3000)])
def test_any_photo_and_prediction_can_be_drawn(shape: tuple[int, int]) -> None:
    photo = np.zeros((*shape, 3), np.uint8)
    height, width = shape
    boxes = [(0, 0, width, height), (0, 0, 0.2, 0.2), (width - 0.3, height - 0.3, width, height), (-5, -5, width + 9, height + 9)]
    regions = [Region(box, "a rather long class name indeed", 0.5) for box in boxes] * 3
    for labels in ([], [(f"class {i}", 1 - i / 100) for i in range(80)], [("a rather long class name indeed", 1.0)]):
        drawn = draw(photo, shown(labels, regions))
        assert drawn.mode == "RGB"
        assert drawn.height > drawn.width / width * height


def test_labels_of_regions_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[tuple[int, int, int, int]] = []
    tag = edge.draw._tag

    def spy(canvas, text, box, colour, unit, taken, *, strong):
        tag(canvas, text, box, colour, unit, taken, strong=strong)
        placed[:] = taken

    monkeypatch.setattr(edge.draw, "_tag", spy)
    regions = [Region((0, 0, 640, 480), f"thing {rank}", 0.9 - rank / 10) for rank in range(6)]
    draw(np.zeros((480, 640, 3), np.uint8), shown([], regions))
    assert len(placed) == 6
    for index, (x1, y1, x2, y2) in enumerate(placed):
        assert all(x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1 for a1, b1, a2, b2 in placed[:index])
