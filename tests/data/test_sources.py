"""The SPEC grammar, unlabelled folders, views of a data set, and matching of labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.data import REPORT, match_labels, open_dataset
from edge.errors import EdgeError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("voc2008:x", "no data set 'voc2008:x'. .* scenes, aerial, csv:DIR, .* or images:DIR"),
        ("", "no data set ''"),
        ("csv", "lacks its folder. Write csv:FOLDER"),
        ("csv:", "lacks its folder"),
        ("scenes:x", "scenes takes no folder"),
    ],
)
def test_an_unknown_spec_is_refused_with_what_there_is(spec: str, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        open_dataset(spec, "train")


def test_images_are_found_in_all_folders_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/y.webp", "c.txt", ".hidden.png", ".thumbs/t.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("RGB", (4, 4)).save(path)
    dataset = open_dataset(f"images:{tmp_path}", "train")
    assert [dataset[index].name for index in range(len(dataset))] == ["a/y.webp", "a/z.png", "b.JPG"]
    assert dataset.labels is None
    assert dataset.classes == ()
    assert dataset.name == tmp_path.name
    assert open_dataset(f"images:{tmp_path}", REPORT).digest == dataset.digest
    assert match_labels(dataset, ["cat"]) is dataset


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"No image in .*files that end in .jpg"):
        open_dataset(f"images:{tmp_path}", "train")
    with pytest.raises(EdgeError, match="no folder"):
        open_dataset(f"images:{tmp_path / 'x'}", "train")


def test_images_are_decoded_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    dataset = open_dataset(f"images:{tmp_path}", "train")
    with pytest.raises(EdgeError, match=r"broken.jpg: it is not an image"):
        dataset[0]


def test_a_subset_keeps_order_labels_and_has_its_own_digest(csv_tree) -> None:
    root = csv_tree("a.png,train,cat", "b.png,train,dog", "c.png,train,")
    whole = open_dataset(f"csv:{root}", "train")
    part = whole.subset([2, 0])
    assert (len(part), part.name, part.split, part.splits, part.classes) == (2, "things", "train", ("train",), ("cat", "dog"))
    assert part.labels.tolist() == [[-1, -1], [1, -1]]
    assert [part[0].name, part[1].name] == ["c.png", "a.png"]
    assert part.subset([1])[0].name == "a.png"
    assert len({whole.digest, part.digest, whole.subset([0, 2]).digest}) == 3
    for wrong in ([3], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.2"):
            whole.subset(wrong)


def test_labels_of_the_model_rule_the_columns(csv_tree) -> None:
    dataset = open_dataset(f"csv:{csv_tree('a.png,train,cat', 'b.png,train,dog;cat')}", "train")
    assert match_labels(dataset, ("cat", "dog")) is dataset
    with pytest.warns(UserWarning, match="things has no labels for emu"):
        matched = match_labels(dataset, ["dog", "emu", "cat"])
    assert matched.classes == ("dog", "emu", "cat")
    assert matched.labels.tolist() == [[-1, -1, 1], [1, -1, 1]]
    assert matched[1].name == "b.png"
    assert matched.digest != dataset.digest
    assert matched.subset([1]).labels.tolist() == [[1, -1, 1]]


def test_a_class_the_model_lacks_is_an_error(csv_tree) -> None:
    dataset = open_dataset(f"csv:{csv_tree('a.png,train,cat;yak')}", "train")
    with pytest.raises(EdgeError, match=r"the bundle does not have: yak. Rename .*cat, dog"):
        match_labels(dataset, ["cat", "dog"], "the bundle")


def test_scenes_open_by_the_same_call() -> None:
    test = open_dataset("scenes", REPORT)
    assert test.split == "test"
    assert test.labels.shape == (len(test), len(test.classes))
    with pytest.raises(EdgeError, match=r"train, test and validation"):
        open_dataset("scenes", "val")


@pytest.mark.parametrize("kind", ["images", "csv", "voc2007", "coco2014", "mosaic:csv"])
def test_a_folder_whose_name_is_too_long_is_refused(kind: str) -> None:
    with pytest.raises(EdgeError, match=r"\[data\]"):
        open_dataset(f"{kind}:{'a' * 300}", "train")


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "z.jpg")
    with pytest.raises(EdgeError, match=r"z.jpg: Not a regular file"):
        _ = open_dataset(f"images:{tmp_path}", "train").digest
