from __future__ import annotations

import pytest

from edge.data import REPORT, open_dataset
from edge.errors import EdgeError
from edge.labels import VOC_CLASSES

TRAIN = {"000005": {"chair": 1, "person": 0}, "000007": {"car": 1}, "000009": {"horse": 1, "person": 1}}
TEST = {"000001": {"dog": 1, "person": 1}}


def present(labels: list[int]) -> dict[str, int]:
    return {name: label for name, label in zip(VOC_CLASSES, labels, strict=True) if label != -1}


@pytest.mark.parametrize("class_files", [True, False])
def test_labels_come_from_the_class_files_or_else_the_annotations(voc_tree, class_files: bool) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST}, class_files=class_files)
    train = open_dataset(f"voc2007:{home}", "train")
    assert train.classes == VOC_CLASSES
    assert [present(row) for row in train.labels.tolist()] == list(TRAIN.values())
    assert train[2].name == "000009.jpg"
    assert abs(int(train[2].image[0, 0, 0]) - 20) < 3


def test_the_root_may_be_any_of_three_folders(voc_tree) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST})
    for root in (home, home.parent, home.parent.parent):
        test = open_dataset(f"voc2007:{root}", REPORT)
        assert (len(test), test.split, test.splits, test.name) == (1, "test", ("train", "test"), "voc2007")
    with pytest.raises(EdgeError, match=r"No ImageSets/Main in .*VOC2012"):
        open_dataset(f"voc2012:{home.parent}", "train")


def test_voc2012_reports_val_and_refuses_test_with_the_reason(voc_tree) -> None:
    home = voc_tree("2012", {"train": TRAIN, "val": TEST, "trainval": {**TRAIN, **TEST}})
    assert [len(open_dataset(f"voc2012:{home}", split)) for split in ("train", "val", "trainval", REPORT)] == [3, 1, 4, 1]
    assert open_dataset(f"voc2012:{home}", "train").report_split == "val"
    with pytest.raises(EdgeError, match=r"not public. Use its train, val or trainval"):
        open_dataset(f"voc2012:{home}", "test")


def test_a_missing_list_names_the_splits_present(voc_tree) -> None:
    home = voc_tree("2007", {"trainval": TRAIN})
    with pytest.raises(EdgeError, match=r"no split 'test'; it has train. .*ImageSets/Main"):
        open_dataset(f"voc2007:{home}", "test")


def test_a_missing_image_and_an_empty_list_are_named(voc_tree) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST})
    (home / "JPEGImages" / "000007.jpg").unlink()
    with pytest.raises(EdgeError, match=r"no file .*000007.jpg, which .*trainval.txt lists.*Restore it"):
        open_dataset(f"voc2007:{home}", "train")
    (home / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(EdgeError, match=r"trainval.txt lists no image"):
        open_dataset(f"voc2007:{home}", "train")


def test_a_list_cannot_name_files_elsewhere(voc_tree) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST})
    (home / "ImageSets" / "Main" / "trainval.txt").write_text("../JPEGImages/000005\n")
    with pytest.raises(EdgeError, match=r"no file .*\.\./JPEGImages"):
        open_dataset(f"voc2007:{home}", "train")


@pytest.mark.parametrize("line", ["000005 2", "000005", "000005 1 1", "000005 x"])
def test_a_damaged_class_file_is_named_with_its_line(voc_tree, line: str) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST})
    (home / "ImageSets" / "Main" / "dog_trainval.txt").write_text(f"000007 -1\n\n{line}\n000009 -1\n")
    with pytest.raises(EdgeError, match=rf"dog_trainval.txt, line 3: '{line}'"):
        open_dataset(f"voc2007:{home}", "train")


def test_incomplete_class_files_are_refused(voc_tree) -> None:
    home = voc_tree("2007", {"trainval": TRAIN, "test": TEST})
    main = home / "ImageSets" / "Main"
    (main / "dog_trainval.txt").write_text("000007 -1\n000009 -1\n")
    with pytest.raises(EdgeError, match=r"dog_trainval.txt has no label for 000005"):
        open_dataset(f"voc2007:{home}", "train")
    (main / "dog_trainval.txt").unlink()
    with pytest.raises(EdgeError, match=r"dog_trainval.txt: No such file"):
        open_dataset(f"voc2007:{home}", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object><name>dog</name>\n", r"000007.xml, line 3: not XML .*Restore"),
        (
            "<annotation><object><name>wolf</name></object></annotation>",
            r"000007.xml has an object of class 'wolf'. .*aeroplane, .* or tvmonitor",
        ),
        ("<annotation><object/></annotation>", r"000007.xml has an object of class ''"),
        (None, r"no file .*000007.xml.*Restore Annotations"),
    ],
)
def test_damaged_annotations_are_named(voc_tree, content: str | None, message: str) -> None:
    home = voc_tree("2007", {"trainval": TRAIN}, class_files=False)
    path = home / "Annotations" / "000007.xml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(EdgeError, match=message):
        open_dataset(f"voc2007:{home}", "train")
