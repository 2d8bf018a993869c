"""Outputs over a data set: order, streaming, the cache."""

from __future__ import annotations

import tracemalloc
import weakref

import numpy as np
import pytest

from edge.data import loader
from edge.data.base import Dataset, Sample
from edge.errors import EdgeError
from edge.measure.outputs import cached, collect, sample
from edge.spec import ImageSpec


def batches(sizes, start=0):
    for size in sizes:
        yield [str(start + index) for index in range(size)], np.arange(start, start + size, dtype=np.float32)[:, None]
        start += size


def infer(images):
    return {"scores": np.hstack([images, images / 2]), "regions": np.zeros((len(images), 2, 4), np.float32), "something": images}


def test_outputs_come_in_the_order_of_the_images():
    seen = []
    found = collect(infer, batches([3, 3, 1]), 7, progress=lambda done, total: seen.append((done, total)))
    assert found.outputs["scores"][:, 0].tolist() == list(range(7))
    assert found.outputs["regions"].shape == (7, 2, 4)
    assert "something" not in found.outputs
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_time_in_the_engine_and_time_waiting_are_told_apart():
    now = [0.0]

    def slow_batches():
        for names, images in batches([2, 2]):
            now[0] += 3
            yield names, images

    def slow_infer(images):
        now[0] += 1
        return infer(images)

    found = collect(slow_infer, slow_batches(), 4, clock=lambda: now[0])
    assert (found.inferring_s, found.waiting_s) == (2, 6)


def test_reused_output_buffers_are_copied():
    buffer = np.zeros((2, 2), np.float32)

    def reusing(images):
        buffer[:] = images
        return {"scores": buffer}

    assert collect(reusing, batches([2, 2]), 4).outputs["scores"][:, 0].tolist() == [0, 1, 2, 3]


def test_no_image_outlives_its_turn_however_many_there_are():
    """The peak of a thousand images is that of a hundred: beside what runs now, only what is
    decoded ahead is held."""

    class Blank(Dataset):
        name, split, splits, report_split, classes, labels = "blank", "test", ("test",), "test", (), None

        def __len__(self):
            return 200

        def __getitem__(self, index):
            return Sample(str(index), np.full((40, 40, 3), index, np.uint8))

    alive: list[weakref.ref[np.ndarray]] = []
    held = []

    def counting(images):
        alive.append(weakref.ref(images))
        held.append(sum(one() is not None for one in alive))
        return {"scores": images.mean((2, 3))}

    tracemalloc.start()
    try:
        peaks = []
        for count in (20, 200):
            dataset = Blank().subset(range(count))
            tracemalloc.reset_peak()
            found = collect(counting, loader.batches(dataset, ImageSpec(64), 4), count)
            peaks.append(tracemalloc.get_traced_memory()[1])
            assert len(found.outputs["scores"]) == count
    finally:
        tracemalloc.stop()
    assert max(held) <= 2
    batch = 4 * 3 * 64 * 64 * 4
    assert peaks[1] - peaks[0] < 2 * batch  # what the threads read ahead varies; of 180 images more there are 45 batches
    assert peaks[0] < (loader.AHEAD + 3) * batch


def test_no_images_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(EdgeError, match="There are no images"):
        collect(infer, [], 0)
    with pytest.raises(EdgeError, match="image 1 and 0 others"):
        collect(lambda images: {"scores": np.array([[0.5], [np.nan]])}, batches([2]), 2)


@pytest.mark.parametrize(
    ("count", "wanted", "expected"), [(10, 5, [0, 2, 4, 6, 8]), (3, 10, [0, 1, 2]), (10, 3, [0, 3, 6]), (4, 4, [0, 1, 2, 3])]
)
def test_a_sample_is_spread_evenly(count, wanted, expected):
    assert sample(count, wanted) == expected


def test_cache_answers_for_the_same_key_only(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"scores": np.full((2, 3), len(made), np.float32)}

    first = cached({"graph": "a"}, make, tmp_path)
    again = cached({"graph": "a"}, make, tmp_path)
    other = cached({"graph": "b"}, make, tmp_path)
    assert [one["scores"][0, 0] for one in (first, again, other)] == [1, 1, 2]


def test_a_damaged_or_unwritable_cache_is_made_anew(tmp_path):
    key = {"graph": "a"}

    def make():
        return {"scores": np.ones((2, 3), np.float32)}

    cached(key, make, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:40])
    assert cached(key, make, tmp_path)["scores"].shape == (2, 3)
    whole = entry.read_bytes()
    for place in range(0, len(whole), 7):  # zlib, zipfile and NumPy each raise their own
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert cached(key, make, tmp_path)["scores"].shape == (2, 3)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert cached(key, make, blocked)["scores"].shape == (2, 3)
