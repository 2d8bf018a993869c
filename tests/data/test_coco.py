from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.data import REPORT, open_dataset
from edge.errors import EdgeError
from edge.labels import COCO_CLASSES

SPLITS = {"train": [(9, [3, 3, 1]), (4, [90]), (7, [])], "val": [(5, [1])]}


def test_classes_are_alphabetical_and_images_without_annotations_left_out(coco_tree) -> None:
    root = coco_tree(SPLITS)
    train = open_dataset(f"coco2014:{root}", "train")
    assert train.classes == ("apple", "person", "zebra")
    assert [train[index].name for index in range(len(train))] == ["COCO_train2014_000000000004.jpg", "COCO_train2014_000000000009.jpg"]
    assert train.labels.tolist() == [[1, -1, -1], [-1, 1, 1]]
    assert abs(int(train[1].image[0, 0, 0]) - 90) < 3


def test_the_official_class_order_is_the_alphabetical_one() -> None:
    assert list(COCO_CLASSES) == sorted(COCO_CLASSES)


def test_test_and_report_mean_val(coco_tree) -> None:
    root = coco_tree(SPLITS)
    for split in ("val", "test", REPORT):
        found = open_dataset(f"coco2014:{root}", split)
        assert (found.split, len(found), found.report_split, found.splits) == ("val", 1, "val", ("train", "val"))


def test_images_may_lie_under_images(coco_tree) -> None:
    root = coco_tree(SPLITS)
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    assert open_dataset(f"coco2014:{root}", "train")[0].image.shape[2] == 3


def test_missing_parts_are_named(coco_tree, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no folder"):
        open_dataset(f"coco2014:{tmp_path / 'absent'}", "train")
    root = coco_tree({"val": SPLITS["val"]})
    with pytest.raises(EdgeError, match=r"no split 'train'; it has val. .*annotations"):
        open_dataset(f"coco2014:{root}", "train")
    (root / "val2014" / "COCO_val2014_000000000005.jpg").unlink()
    with pytest.raises(EdgeError, match=r"no file .*000000000005.jpg, which .*instances_val2014.json lists"):
        open_dataset(f"coco2014:{root}", "val")


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:200], r"instances_train2014.json, line \d+: not JSON"),
        (lambda text: "[1, 2]", "it holds a list"),
        (lambda text: "[" * 100000, "nested too deep|not JSON"),
        (lambda text: text.replace("900", "9" * 5000, 1), "not a COCO annotation file"),
        (damage(lambda c: c.pop("categories")), "no list of categories"),
        (damage(lambda c: c.update(images=[3])), "no list of images"),
        (damage(lambda c: c["images"][0].pop("file_name")), "entry of images lacks id or file_name"),
        (damage(lambda c: c["annotations"][0].update(category_id=2)), "annotation 900 is of category 2,"),
        (damage(lambda c: c["annotations"][0].update(category_id=[2])), r"category \[2\]"),
        (damage(lambda c: c["annotations"][0].update(image_id=77)), "annotation 900 is of image 77,"),
        (damage(lambda c: c["categories"][0].update(name="person")), "two categories have one name"),
        (damage(lambda c: c.update(annotations=[])), "instances_train2014.json lists no image"),
        (damage(lambda c: c["images"][0].update(file_name="../x.jpg")), r"no file .*\.\./x.jpg"),
    ],
)
def test_damaged_annotations_are_refused_by_name(coco_tree, change: Callable[[str], str], message: str) -> None:
    root = coco_tree(SPLITS)
    path = root / "annotations" / "instances_train2014.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(EdgeError, match=message):
        open_dataset(f"coco2014:{root}", "train")
