"""Node times become stages."""

from __future__ import annotations

import pytest

from edge.measure.stages import of_images, of_nodes, stage_of


@pytest.mark.parametrize(
    ("node", "stage"),
    [
        ("global/layer3.5/conv2", "global"),
        ("local/convclass_reorder", "local"),
        ("boxes_2/row_maxima", "boxes"),
        ("Reorder_crop/grid", "crop"),
        ("fuse/max", "fuse"),
        ("image", "other"),
        ("globalish/conv", "other"),
    ],
)
def test_stage_is_read_from_the_name(node, stage):
    assert stage_of(node) == stage


def test_stages_sum_to_the_latency():
    stages = of_nodes({"global/a": 0.004, "global/b": 0.001, "local/a": 0.010, "boxes/x": 0.0005}, p50_ms=16.5)
    assert stages == pytest.approx({"global": 5, "local": 10, "boxes": 0.5, "other": 1})


def test_counters_slower_than_the_latency_leave_no_negative_rest():
    assert "other" not in of_nodes({"global/a": 0.020}, p50_ms=16)


def test_decode_and_preprocess_are_given_per_batch():
    now = [0.0]

    def spend(seconds):
        now[0] += seconds

    stages = of_images(lambda index: spend(0.001 * (index + 1)), lambda image: spend(0.002), range(3), 8, clock=lambda: now[0])
    assert stages == pytest.approx({"decode": 16, "preprocess": 16})
    assert of_images(lambda index: None, lambda image: None, (), 8) == {}
