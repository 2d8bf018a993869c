"""``edge.predict``: every readable image is predicted, every other one named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edge import command, predict


def run(*words: object) -> int:
    return command.run(predict.main, predict.arguments().parse_args([str(word) for word in words]))


@pytest.fixture
def bundle(small_bundle):
    return small_bundle("onnxruntime")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for index in range(5):  # more than the bundle's largest batch
        path = tmp_path / f"photo{index}.jpg"
        Image.fromarray(rng.integers(0, 256, (60, 80 + index, 3), np.uint8)).save(path)
        paths.append(path)
    return paths


def test_images_become_labels_and_regions_in_photo_pixels(bundle, photos, tmp_path, capsys):
    assert run(bundle, *photos, "--json", tmp_path / "out.json", "--draw", tmp_path / "drawn", "--score-threshold", "0") == 0
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [entry["image"] for entry in entries] == [str(path) for path in photos]
    for index, entry in enumerate(entries):
        assert set(entry) == {"image", "labels", "regions"}
        scores = [label["score"] for label in entry["labels"]]
        assert len(scores) == 20
        assert scores == sorted(scores, reverse=True)
        assert len(entry["regions"]) == 4
        for region in entry["regions"]:
            x1, y1, x2, y2 = region["box"]
            assert 0 <= x1 < x2 <= 80 + index
            assert 0 <= y1 < y2 <= 60
            assert region["looked"] is True
            assert {"name": region["label"], "score": region["score"]} in entry["labels"]
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"photo{index}.png" for index in range(5)]
    assert np.asarray(Image.open(drawn[0])).std() > 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_photographs_of_one_name_are_all_drawn(bundle, photos, tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("photo0.jpg", "photo0-2.jpg"):
        (tmp_path / "b" / name).write_bytes(photos[1].read_bytes())
    given = [photos[0], tmp_path / "b" / "photo0.jpg", tmp_path / "b" / "photo0-2.jpg", photos[2]]
    assert run(bundle, *given, "--draw", tmp_path / "drawn") == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"photo0.png", "photo0-2.png", "photo0-2-2.png", "photo2.png"}


def test_an_unreadable_image_is_named_and_the_rest_is_written(bundle, photos, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(photos[0].read_bytes()[:100])
    mixed = [photos[0], tmp_path / "broken.jpg", tmp_path / "missing.jpg", photos[1]]
    assert run(bundle, *mixed, "--json", tmp_path / "out.json") == 1
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [("error" in entry) for entry in entries] == [False, True, True, False]
    assert set(entries[1]) == {"image", "error"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "broken.jpg" in lines[0]
    assert "missing.jpg" in lines[1]


def test_one_photo_among_many_gets_the_scores_it_gets_alone(bundle, photos, tmp_path):
    run(bundle, *photos, "--json", tmp_path / "all.json", "--score-threshold", "0")
    run(bundle, photos[3], "--json", tmp_path / "one.json", "--score-threshold", "0")
    together, alone = json.loads((tmp_path / "all.json").read_text())[3], json.loads((tmp_path / "one.json").read_text())[0]
    for a, b in zip(together["regions"], alone["regions"], strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_approximate_pixels_change_scores_a_little_and_boxes_stay_in_the_photo(bundle, tmp_path, capsys):
    coarse = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    Image.fromarray(coarse).resize((1501, 1101)).save(tmp_path / "large.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no photograph")
    entries = []
    for more in ([], ["--approximate-pixels"]):
        words = [bundle, tmp_path / "large.jpg", tmp_path / "bad.jpg", "--json", tmp_path / "out.json", "--score-threshold", "0", *more]
        assert run(*words) == 1
        good, bad = json.loads((tmp_path / "out.json").read_text())
        assert bad["error"].startswith("[image] Cannot read")
        entries.append(good)
        assert max(region["box"][2] for region in good["regions"]) > 600
    exact, approximate = ({label["name"]: label["score"] for label in entry["labels"]} for entry in entries)
    assert 0 < max(abs(exact[name] - approximate[name]) for name in exact) < 0.05


@pytest.mark.parametrize("value", ["-0.1", "1.5"])
def test_a_threshold_that_is_no_probability_is_refused(bundle, photos, value, capsys):
    assert run(bundle, photos[0], "--score-threshold", value) == 1
    assert f"--score-threshold is {value}. Use a value from 0 to 1" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_refused(photos, tmp_path, capsys):
    assert run(tmp_path, photos[0]) == 1
    assert "edge.build" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_an_error(bundle, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run(bundle, photos[0], "--json", tmp_path / "file" / "out.json") == 1
    assert "Cannot write" in capsys.readouterr().err


def test_no_photograph_and_nothing_of_others_is_drawn_over(bundle, photos, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    Image.open(photos[0]).save(folder / "photo0.png")
    Image.open(photos[1]).save(folder / "photo1.png")
    (folder / "photo2.png").write_text("somebody's notes")
    (folder / "photo3.png").symlink_to(folder / "photo1.png")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    given = [folder / "photo0.png", photos[1], photos[2], photos[3]]
    for _ in range(2):  # the second time over the drawings of the first
        assert run(bundle, *given, "--draw", folder) == 0
        assert {name: (folder / name).read_bytes() for name in kept} == kept
        assert {path.name for path in folder.iterdir()} - set(kept) == {f"photo{index}-2.png" for index in range(4)}
    drawn = (folder / "photo0-2.png").read_bytes()
    assert run(bundle, folder / "photo0-2.png", "--draw", folder) == 0  # a drawing may be a photograph, too
    assert (folder / "photo0-2.png").read_bytes() == drawn


def test_the_result_does_not_replace_a_photograph(bundle, photos, capsys):
    before = photos[0].read_bytes()
    assert run(bundle, *photos, "--json", photos[0]) == 1
    assert "photo0.jpg is one of the input images" in capsys.readouterr().err
    assert photos[0].read_bytes() == before


def test_a_drawing_that_cannot_be_written_costs_no_result(bundle, photos, tmp_path, capsys):
    stem = "x" * 250
    photos[1].rename(tmp_path / f"{stem}.jpg")
    given = [photos[0], tmp_path / f"{stem}.jpg", photos[2]]
    assert run(bundle, *given, "--draw", tmp_path / "drawn", "--json", tmp_path / "out.json") == 1
    assert [set(entry) for entry in json.loads((tmp_path / "out.json").read_text())] == [{"image", "labels", "regions"}] * 3
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"photo0.png", "photo2.png"}
    assert capsys.readouterr().err.count("File name too long") == 1


def test_a_folder_that_takes_no_drawings_is_told_before_the_work(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict.Engine, "load", lambda *_: pytest.fail("the work began"))
    (tmp_path / "file").write_text("in the way")
    for place in ("file", "file/x", "/proc/nope/x"):
        assert run("bundle", photos[0], "--draw", tmp_path / place) == 1
        assert "Cannot write" in capsys.readouterr().err
