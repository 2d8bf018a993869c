from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge.data import REPORT, open_dataset
from edge.errors import EdgeError


def test_a_csv_folder_is_read(csv_tree) -> None:
    root = csv_tree("a.png,train,cat;dog", "b.png,test,emu", "sub/c.png,train,", '"d,1.png",train, dog ; cat;dog')
    train, test = open_dataset(f"csv:{root}", "train"), open_dataset(f"csv:{root}", "test")
    assert train.classes == test.classes == ("cat", "dog", "emu")
    assert (train.name, train.split, train.splits, train.report_split) == ("things", "train", ("train", "test"), "test")
    assert train.labels.dtype == np.int8
    assert train.labels.tolist() == [[1, 1, -1], [-1, -1, -1], [1, 1, -1]]
    assert [train[index].name for index in range(len(train))] == ["a.png", "sub/c.png", "d,1.png"]
    assert (test[0].image == 10).all()
    assert open_dataset(f"csv:{root}", REPORT).split == "test"


def test_classes_txt_rules_names_and_order(csv_tree) -> None:
    root = csv_tree("a.png,train,dog", classes="zebra\ndog\n\ncat\n")
    dataset = open_dataset(f"csv:{root}", "train")
    assert dataset.classes == ("zebra", "dog", "cat")
    assert dataset.labels.tolist() == [[-1, 1, -1]]


def test_a_mark_at_the_start_and_more_columns_do_not_matter(csv_tree) -> None:
    root = csv_tree("a.png,dog,me,train", header="\ufeffimage,labels,who,split")
    assert open_dataset(f"csv:{root}", "train").classes == ("dog",)


def test_report_is_val_where_there_is_no_test(csv_tree) -> None:
    root = csv_tree("a.png,train,dog", "b.png,val,dog")
    assert open_dataset(f"csv:{root}", REPORT).split == open_dataset(f"csv:{root}", "train").report_split == "val"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.png,train,dog", "b.png,train"], r"labels.csv, line 3: 2 fields, where the header has 3"),
        (["a.png,train,dog", "a.png,test,dog"], r"line 3: a.png again, after line 2"),
        (["../a.png,train,dog"], r"line 2: '../a.png' is no path within images/"),
        (["/etc/a.png,train,dog"], r"within images/"),
        ([",train,dog"], r"line 2: '' is no path"),
        (["a.png,,dog"], r"line 2: '' is no name of a split"),
        (["a.png,report,dog"], r"'report' is no name of a split"),
        (['a.png,train,"dog'], r"line 2: not CSV"),
        (['a.png,train,"dog" x'], r"line 2: not CSV"),
        (["a.png,train,"], r"lists no class"),
        ([], r"lists no image"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(csv_tree, lines: list[str], message: str) -> None:
    root = csv_tree()
    (root / "labels.csv").write_text("\n".join(["image,split,labels", *lines]) + "\n")
    with pytest.raises(EdgeError, match=message):
        open_dataset(f"csv:{root}", "train")


@pytest.mark.parametrize("header", ["", "picture,split,labels", "image,split", "image,image,split,labels"])
def test_a_header_without_the_columns_is_refused(csv_tree, header: str) -> None:
    with pytest.raises(EdgeError, match=r"line 1: .*image,split,labels"):
        open_dataset(f"csv:{csv_tree(header=header)}", "train")


def test_a_missing_image_is_named_with_its_line(csv_tree) -> None:
    root = csv_tree("a.png,test,dog", "b.png,train,dog", "c.png,train,dog")
    (root / "images" / "c.png").unlink()
    with pytest.raises(EdgeError, match=r"labels.csv, line 4: there is no file .*images/c.png. Restore it"):
        open_dataset(f"csv:{root}", "train")
    assert len(open_dataset(f"csv:{root}", "test")) == 1


def test_an_unknown_class_is_named_with_its_line(csv_tree) -> None:
    root = csv_tree("a.png,train,dog", "b.png,train,dgo", classes="cat\ndog\n")
    with pytest.raises(EdgeError, match=r"line 3: 'dgo' is not in .*classes.txt"):
        open_dataset(f"csv:{root}", "train")
    (root / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(EdgeError, match=r"classes.txt, line 3: .*'cat' again"):
        open_dataset(f"csv:{root}", "train")


def test_a_missing_split_names_those_present(csv_tree) -> None:
    root = csv_tree("a.png,training,dog", "b.png,test,dog")
    with pytest.raises(EdgeError, match=r"no split 'train'; it has training and test"):
        open_dataset(f"csv:{root}", "train")


def test_missing_folders_and_binary_tables_are_refused(csv_tree, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no folder"):
        open_dataset(f"csv:{tmp_path / 'absent'}", "train")
    with pytest.raises(EdgeError, match=r"labels.csv: No such file"):
        open_dataset(f"csv:{tmp_path}", "train")
    root = csv_tree("a.png,train,dog")
    (root / "labels.csv").write_bytes(b"\xff\xfe\0\x01")
    with pytest.raises(EdgeError, match="not UTF-8"):
        open_dataset(f"csv:{root}", "train")


def test_the_digest_follows_labels_and_pixels(csv_tree) -> None:
    root = csv_tree("a.png,train,cat;dog", "b.png,train,dog")
    first = open_dataset(f"csv:{root}", "train").digest
    assert first == open_dataset(f"csv:{root}", "train").digest
    data = bytearray((root / "images" / "a.png").read_bytes())
    (root / "images" / "a.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second = open_dataset(f"csv:{root}", "train").digest
    (root / "labels.csv").write_text("image,split,labels\na.png,train,cat\nb.png,train,dog\n")
    assert len({first, second, open_dataset(f"csv:{root}", "train").digest}) == 3


def test_large_data_is_digested_by_sizes(csv_tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = csv_tree("a.png,train,dog")
    monkeypatch.setattr("edge.data.files.MAX_DIGESTED", 10)
    first = open_dataset(f"csv:{root}", "train").digest
    data = (root / "images" / "a.png").read_bytes()
    (root / "images" / "a.png").write_bytes(data[::-1])
    assert open_dataset(f"csv:{root}", "train").digest == first
    (root / "images" / "a.png").write_bytes(data + b"x")
    assert open_dataset(f"csv:{root}", "train").digest != first


def test_an_image_that_is_a_folder_is_refused(csv_tree) -> None:
    root = csv_tree("a.png,train,one", "b.png,test,one")
    (root / "images" / "a.png").unlink()
    (root / "images" / "a.png").mkdir()
    with pytest.raises(EdgeError, match=r"\[data\].*a.png: Not a regular file"):
        _ = open_dataset(f"csv:{root}", "train").digest


def test_a_table_that_is_a_pipe_is_not_waited_for(csv_tree) -> None:
    root = csv_tree("a.png,train,one")
    (root / "labels.csv").unlink()
    os.mkfifo(root / "labels.csv")
    with pytest.raises(EdgeError, match="Not a regular file"):
        open_dataset(f"csv:{root}", "train")
