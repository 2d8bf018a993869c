"""The generated scenes: the same on every machine, splits apart, labels true to what stands in the
image."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from edge.data import scenes
from edge.data.scenes import SIZE, SPLITS, Scenes
from edge.data.shapes import CLASSES, KINDS
from edge.errors import EdgeError


# Taken with NumPy 2.4 and equal under NumPy 1.26: the pixels may never depend on the version.
@pytest.mark.parametrize(
    ("seed", "split", "index", "digest"),
    [
        (0, "train", 0, "e657864992148b58"),
        (0, "train", 2999, "181ccefea2d6847f"),
        (0, "test", 0, "194493ad64511736"),
        (7, "test", 1234, "18e9472afd1c2ff0"),
        (0, "validation", 7, "c38d72689c9e35bb"),
    ],
)
def test_pixels_are_golden(seed: int, split: str, index: int, digest: str) -> None:
    assert hashlib.sha256(scenes.render(seed, split, index).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_is_common_and_scenes_hold_one_to_four_things(split: str) -> None:
    labels = Scenes(split, seed=0).labels
    assert labels.shape == (SPLITS[split], len(CLASSES))
    assert set(np.unique(labels)) == {-1, 1}
    share = (labels > 0).mean(axis=0)
    assert share.min() > 0.08
    assert share.max() < 0.13
    assert all(1 <= len(scenes.plan(0, split, index)) <= 4 for index in range(200))


def test_sizes_differ_widely() -> None:
    sides = [thing.side for index in range(300) for thing in scenes.plan(0, "train", index)]
    assert min(sides) < 28
    assert max(sides) > 170
    assert 0.15 < np.mean([side < 40 for side in sides]) < 0.35


def test_things_lie_inside_and_hardly_cover_each_other() -> None:
    for index in range(200):
        things = scenes.plan(0, "test", index)
        for thing in things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= SIZE
            assert 0 <= y1 < y2 <= SIZE
        for one in things:
            for other in things:
                if one is not other:
                    assert scenes._overlap(one.box, other.box) * 12 <= min(one.side, other.side) ** 2


def test_what_is_planned_is_drawn() -> None:
    """Leaving a thing out changes pixels inside its box only (noise and light are drawn from fixed
    places of the stream)."""
    everything = scenes.plan(0, "train", 11)
    canvas = np.full((SIZE, SIZE, 3), 128, dtype=np.int32)
    for thing in everything:
        before = canvas.copy()
        body, detail = np.array([250, 20, 20], dtype=np.int32), np.array([20, 20, 250], dtype=np.int32)
        scenes._put(canvas, KINDS[CLASSES[thing.kind]][0], thing.x, thing.y, thing.side, thing.turn, body, detail)
        rows, columns = np.nonzero((canvas != before).any(axis=2))
        assert len(rows) > thing.side**2 // 10
        reach = thing.side * 3 // 4 + 1
        assert abs(rows - thing.y).max() <= reach
        assert abs(columns - thing.x).max() <= reach


def test_kinds_with_a_like_outline_differ_inside() -> None:
    axis = np.arange(-1000, 1000, 8, dtype=np.int32)
    u, v = np.meshgrid(axis, axis)
    for group in (("ball", "button", "target"), ("chessboard", "die", "window"), ("eye", "leaf")):
        drawn = [KINDS[name][0](u, v) for name in group]
        for first, second in itertools.pairwise(drawn):
            assert (first[0] ^ second[0]).mean() < 0.05  # the outline
            assert ((first[0] & first[1]) ^ (second[0] & second[1])).mean() > 0.05  # the inside


def test_colour_alone_never_tells_a_kind() -> None:
    hues = [hue for _, hue in KINDS.values()]
    assert all(hues.count(hue) >= 2 for hue in hues)


def test_outlines_are_distinct_otherwise() -> None:
    axis = np.arange(-1000, 1000, 8, dtype=np.int32)
    u, v = np.meshgrid(axis, axis)
    looks = {name: np.where(body & detail, 2, body.astype(int)) for name, (body, detail) in ((n, k[0](u, v)) for n, k in KINDS.items())}
    names = list(looks)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert (looks[name] != looks[other]).mean() > 0.03, (name, other)


def test_splits_and_seeds_draw_from_different_streams() -> None:
    draws = {(seed, split): scenes.render(seed, split, 0).tobytes() for seed in (0, 1) for split in SPLITS}
    assert len(set(draws.values())) == len(draws)
    assert len({Scenes(split, seed=seed).digest for seed in (0, 1) for split in SPLITS}) == 6


def test_the_data_set_gives_what_its_labels_say() -> None:
    data = Scenes("test", seed=3)
    sample = data[17]
    assert np.array_equal(sample.image, scenes.render(3, "test", 17))
    present = {CLASSES[thing.kind] for thing in scenes.plan(3, "test", 17)}
    assert {name for name, label in zip(data.classes, data.labels[17], strict=True) if label > 0} == present
    assert (data.name, data.split, len(data)) == ("scenes", "test", SPLITS["test"])


def test_a_missing_split_names_those_present() -> None:
    with pytest.raises(EdgeError, match="train, test and validation"):
        Scenes("val", seed=0)


@pytest.mark.parametrize("degrees", range(-360, 720, 15))
def test_the_integer_sine_is_close(degrees: int) -> None:
    assert scenes._sine(degrees) / 4096 == pytest.approx(np.sin(np.radians(degrees)), abs=0.002)
