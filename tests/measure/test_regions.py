"""Region drift on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge.measure.regions import Drift, box_iou, drift, inputs_changed, region_iou

BOXES = np.array([[[0, 0, 10, 10], [20, 20, 40, 40]], [[5, 5, 25, 45], [0, 0, 64, 64]]], np.float32)
CLASSES = np.array([[3, 1], [0, 2]], np.int64)


def outputs(boxes: np.ndarray = BOXES, classes: np.ndarray = CLASSES) -> dict[str, np.ndarray]:
    return {"regions": boxes, "region_classes": classes}


def test_an_engine_that_looks_where_the_reference_looked_does_not_drift() -> None:
    found = drift(outputs(), outputs())
    assert found == Drift(1.0, 1.0, iou_above=1.0, images_changed=0.0, class_agreement_interval=(1.0, 1.0), mean_iou_interval=(1.0, 1.0))


def test_another_order_of_the_same_regions_is_no_drift() -> None:
    found = drift(outputs(BOXES[:, ::-1], CLASSES[:, ::-1]), outputs())
    assert found is not None
    assert (found.class_agreement, found.mean_iou, found.images_changed) == (1.0, 1.0, 0.0)


def test_boxes_are_matched_by_class() -> None:
    boxes, classes = BOXES.copy(), CLASSES.copy()
    boxes[0, 0] = [0, 0, 10, 5]  # half of the box of class 3
    classes[1, 1] = 9  # a class the reference did not choose, over the same box
    found = drift(outputs(boxes, classes), outputs())
    assert found is not None
    assert found.class_agreement == 3 / 4
    np.testing.assert_allclose(region_iou(outputs(boxes, classes), outputs()), [[0.5, 1.0], [1.0, np.nan]])
    assert found.mean_iou == pytest.approx(2.5 / 3)
    assert found.iou_above == pytest.approx(2 / 3)
    assert found.images_changed == 0.5  # image 1 saw the same crops


def test_intervals_are_of_the_images_drawn_again() -> None:
    boxes, classes = np.repeat(BOXES, 50, 0), np.repeat(CLASSES, 50, 0)
    changed, moved = classes.copy(), boxes.copy()
    changed[::5, 0] = 9  # in every fifth of 100 images one of two classes
    moved[1::2, 1, 2] = moved[1::2, 1, 0] + (moved[1::2, 1, 2] - moved[1::2, 1, 0]) / 2  # in every second one a box of half the width
    found = drift(outputs(moved, changed), outputs(boxes, classes))
    assert found is not None
    assert found.class_agreement_interval is not None
    assert found.mean_iou_interval is not None
    # a mean of 100 independent images: 1.96 standard errors
    spread = 1.96 * 0.5 * np.sqrt(0.2 * 0.8 / 100)
    assert found.class_agreement_interval == pytest.approx((0.9 - spread, 0.9 + spread), abs=0.01)
    low, high = found.mean_iou_interval
    assert low < found.mean_iou < high
    assert high - low == pytest.approx(2 * 1.96 * 0.125 / 10, abs=0.01)  # images of 0.75 and of 1


def test_without_a_shared_class_there_is_no_iou() -> None:
    found = drift(outputs(classes=CLASSES + 10), outputs())
    assert found == Drift(class_agreement=0.0, mean_iou=None, iou_above=None, images_changed=0.0)


def test_a_model_without_regions_and_no_images_have_no_drift() -> None:
    assert drift({"scores": BOXES}, outputs()) is None
    assert drift(outputs(BOXES[:0], CLASSES[:0]), outputs(BOXES[:0], CLASSES[:0])) is None


def test_a_box_seen_twice_is_another_input_than_two_boxes() -> None:
    doubled = BOXES.copy()
    doubled[0, 1] = doubled[0, 0]
    np.testing.assert_array_equal(inputs_changed(doubled, BOXES), [True, False])
    np.testing.assert_array_equal(inputs_changed(BOXES, doubled), [True, False])


def test_iou_of_boxes_that_touch_contain_or_are_empty() -> None:
    a = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2]], np.float32)
    b = np.array([[4, 0, 8, 4], [1, 1, 3, 3], [2, 0, 6, 4], [2, 2, 2, 2]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [0, 4 / 16, 8 / 24, 0])
