"""Checkpoints that are damaged, foreign or malformed, and what one leaves behind when it cannot be written."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from edge.errors import EdgeError
from edge.models import create, load_checkpoint
from edge.models.checkpoint import describe, read, save_checkpoint

CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create("mcar-mobilenetv2", num_classes=5, regions=2)


def saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(model, tmp_path, legacy):
    whole = saved({"state_dict": {"convclass.bias": model.convclass.bias.detach()}, "epoch": 1}, legacy=legacy)
    path = tmp_path / "cut.pth"
    path.write_bytes(whole)
    assert read(path)["epoch"] == 1
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(EdgeError, match=r"cut\.pth"):
            read(path)


@pytest.mark.parametrize("home", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["numpy 1", "numpy 2"])
def test_numpy_scalars_load_whichever_numpy_wrote_them(tmp_path, home):
    data = saved({"state_dict": {"w": torch.zeros(1)}, "best_score": np.float64(91.3)}, legacy=True)
    for place in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        data = data.replace(b"c" + place + b"\nscalar", b"c" + home + b"\nscalar")
    assert b"c" + home + b"\nscalar" in data
    (tmp_path / "old.pth.tar").write_bytes(data)
    assert read(tmp_path / "old.pth.tar")["best_score"] == 91.3


class Payload:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_a_web_page_is_not_accused_of_running_code(tmp_path):
    (tmp_path / "page.pth").write_text("<html>404 Not Found</html>")
    with pytest.raises(EdgeError, match="damaged or no PyTorch checkpoint"):
        read(tmp_path / "page.pth")
    (tmp_path / "code.pth").write_bytes(saved({"state_dict": Payload()}))
    with pytest.raises(EdgeError, match="asks to run code"):
        read(tmp_path / "code.pth")


@pytest.mark.parametrize(
    "ours",
    [
        "text", {"model": ["mcar-resnet50"]}, {"classes": 5}, {"classes": "abcde"}, {"classes": []}, {"classes": [1, 2, 3, 4, 5]},
        {"size": "256"}, {"size": 256.5}, {"size": True}, {"regions": "4"}, {"threshold": "0.5"}, {"pooling": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_description_is_refused(model, ours):
    with pytest.raises(EdgeError, match="under 'edge', which is not"):
        describe({"state_dict": model.state_dict(), "edge": ours})


def test_an_empty_entry_of_ours_leaves_the_file_name_its_say(model):
    told = describe({"state_dict": model.state_dict(), "edge": {"size": None, "regions": 3}}, "voc2007-mobilenetv2-gwp-448-2-0.5.pth.tar")
    assert (told.size, told.options["regions"], told.options["pooling"]) == (448, 3, "gwp")


def test_a_path_describes_itself_by_its_name(model, tmp_path):
    path = tmp_path / "coco2014-mobilenetv2-max-576-6-0.3.pth.tar"
    path.write_bytes(saved({"state_dict": model.state_dict()}))
    told = describe(path)
    assert (told.model, told.num_classes, told.size) == ("mcar-mobilenetv2", 5, 576)
    assert told.options == {"pooling": "max", "regions": 6, "threshold": 0.3}
    assert describe(read(path)).options == {}


def test_weights_of_no_known_architecture_name_the_known_ones():
    with pytest.raises(EdgeError, match="mcar-resnet101, mcar-resnet50 or mcar-mobilenetv2"):
        describe({"fc.weight": torch.zeros(5, 2)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_saved_loads_again(model, tmp_path, dtype):
    path = tmp_path / "ours.pth"
    save_checkpoint(
        path, model, name="mcar-mobilenetv2", classes=CLASSES, size=96, epoch=7, best_score=12.5, extra={"seed": 3}, dtype=dtype
    )
    content = read(path)
    assert (content["epoch"], content["arch"], content["best_score"], content["edge"]["seed"]) == (7, None, 12.5, 3)
    told = describe(path)
    again = load_checkpoint(create(told.model, told.num_classes, **told.options), path)
    for name, value in model.state_dict().items():
        expected = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[name], expected), name


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(model, tmp_path, monkeypatch):
    path = tmp_path / "ours.pth"
    path.write_bytes(b"the old file")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(EdgeError, match=r"ours\.pth"):
        save_checkpoint(path, model, name="mcar-mobilenetv2", classes=CLASSES, size=96)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("ours.pth", b"the old file")]


def test_a_refused_checkpoint_leaves_the_model_as_it_was(model):
    target = create("mcar-mobilenetv2", num_classes=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    wrong = {**model.state_dict(), "convclass.bias": torch.zeros(6)}
    with pytest.raises(EdgeError, match=r"convclass\.bias \(6,\) for \(5,\)"):
        load_checkpoint(target, wrong)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
