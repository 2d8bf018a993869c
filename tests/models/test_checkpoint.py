"""Checkpoints that are damaged, foreign or malformed, and what one leaves behind when it cannot be
written."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from edge.errors import EdgeError
from edge.labels import COCO_CLASSES, VOC_CLASSES
from edge.models import create, load_checkpoint
from edge.models.checkpoint import describe, read, save_checkpoint

CLASSES = ("a", "b", "c", "d", "e")


def saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(small, tmp_path, legacy):
    whole = saved({"state_dict": {"convclass.bias": small.convclass.bias.detach()}, "epoch": 1}, legacy=legacy)
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


@pytest.mark.parametrize(("write", "says"), [(pickle.dumps, r"evil\.pth"), (saved, "contains code to run")])
def test_nothing_in_a_checkpoint_runs(tmp_path, capsys, write, says):
    (tmp_path / "evil.pth").write_bytes(write({"state_dict": Payload()}))
    with pytest.raises(EdgeError, match=says):
        read(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


def archive(name: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>404 Not Found</html>", "damaged, or is not a PyTorch checkpoint"),
        (archive("readme.txt", "no weights"), "damaged, or is not a PyTorch checkpoint"),
        (saved([1, 2]), "instead of named weights"),
        (saved({"state_dict": {}}), "instead of named weights"),
        (None, "Cannot read"),
    ],
    ids=["page", "zip", "list", "bare", "missing"],
)
def test_files_that_are_no_checkpoint_are_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(EdgeError, match=says) as caught:
        read(tmp_path / "a.pth")
    assert "a.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ours",
    [
        "text", {"model": ["mcar-resnet50"]}, {"classes": 5}, {"classes": "abcde"}, {"classes": []}, {"classes": [1, 2, 3, 4, 5]},
        {"size": "256"}, {"size": 256.5}, {"size": True}, {"regions": "4"}, {"threshold": "0.5"}, {"pooling": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_description_is_refused(small, ours):
    with pytest.raises(EdgeError, match=r"key 'edge' has .*, which is not"):
        describe({"state_dict": small.state_dict(), "edge": ours})


def test_an_empty_entry_of_ours_leaves_the_file_name_its_say(small):
    told = describe({"state_dict": small.state_dict(), "edge": {"size": None, "regions": 3}}, "voc2007-mobilenetv2-gwp-448-2-0.5.pth.tar")
    assert (told.size, told.options["regions"], told.options["pooling"]) == (448, 3, "gwp")


def test_a_path_describes_itself_by_its_name(small, tmp_path):
    path = tmp_path / "coco2014-mobilenetv2-max-576-6-0.3.pth.tar"
    path.write_bytes(saved({"state_dict": small.state_dict()}))
    told = describe(path)
    assert (told.model, told.num_classes, told.size) == ("mcar-mobilenetv2", 5, 576)
    assert told.options == {"pooling": "max", "regions": 6, "threshold": 0.3}
    assert describe(read(path)).options == {}


def test_weights_of_no_known_architecture_name_the_known_ones():
    with pytest.raises(EdgeError, match=r"mcar-resnet101, mcar-resnet50 or mcar-mobilenetv2, or one written by edge\.train"):
        describe({"fc.weight": torch.zeros(5, 2)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_saved_loads_again(small, tmp_path, dtype):
    path = tmp_path / "ours.pth"
    save_checkpoint(
        path, small, name="mcar-mobilenetv2", classes=CLASSES, size=96, epoch=7, best_score=12.5, extra={"seed": 3}, dtype=dtype
    )
    content = read(path)
    assert (content["epoch"], content["arch"], content["best_score"], content["edge"]["seed"]) == (7, None, 12.5, 3)
    told = describe(path)
    again = load_checkpoint(create(told.model, told.num_classes, **told.options), path)
    for name, value in small.state_dict().items():
        expected = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[name], expected), name


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [("rma-mobilenetv2", {"regions": 3}, r"convclass\.weight \(5, 128\) for \(6, 128\)"),
     ("aamn-mobilenetv2", {"width": 16}, r"memory\.prototypes \(5, 1280\) for \(6, 1280\)")],
)  # fmt: skip
def test_a_checkpoint_tells_its_options_and_fits_its_own_kind_only(small, tmp_path, name, options, other):
    path, network = tmp_path / "ours.pth", create(name, num_classes=5, **options)
    save_checkpoint(path, network, name=name, classes=CLASSES, size=64)
    told = describe(path)
    assert (told.model, told.num_classes, told.options) == (name, 5, network.spec_options())
    again = load_checkpoint(create(told.model, told.num_classes, **told.options), path)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(EdgeError, match=other) as caught:
        load_checkpoint(create(name, num_classes=6, **options), path)
    assert "\n" not in str(caught.value)
    with pytest.raises(EdgeError, match=r"unknown \((region|memory)"):
        load_checkpoint(create("mcar-mobilenetv2", num_classes=5), path)
    with pytest.raises(EdgeError, match=r"missing \((region|memory)"):
        load_checkpoint(create(name, num_classes=5, **options), small.state_dict())


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(small, tmp_path, monkeypatch):
    path = tmp_path / "ours.pth"
    path.write_bytes(b"the old file")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(EdgeError, match=r"ours\.pth"):
        save_checkpoint(path, small, name="mcar-mobilenetv2", classes=CLASSES, size=96)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("ours.pth", b"the old file")]


def test_a_refused_checkpoint_leaves_the_model_as_it_was(small):
    target = create("mcar-mobilenetv2", num_classes=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    wrong = {**small.state_dict(), "convclass.bias": torch.zeros(6)}
    with pytest.raises(EdgeError, match=r"convclass\.bias \(6,\) for \(5,\)"):
        load_checkpoint(target, wrong)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_load(small, tmp_path, prefix, legacy):
    state = {prefix + name: value for name, value in small.state_dict().items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "voc2007-mobilenetv2-gwp-448-3-0.4.pth.tar"
    content = {"epoch": 60, "arch": None, "state_dict": state, "best_score": torch.tensor(91.3)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = create("mcar-mobilenetv2", num_classes=5)
    load_checkpoint(model, path)
    torch.testing.assert_close(model.convclass.weight, small.convclass.weight)
    told = describe(read(path), path.name)
    assert (told.model, told.num_classes, told.size) == ("mcar-mobilenetv2", 5, 448)
    assert told.options == {"pooling": "gwp", "regions": 3, "threshold": 0.4}
    assert told.classes is None  # 5 classes are not VOC's 20, whatever the name says


def test_our_key_rules_over_the_file_name(small, tmp_path):
    path = tmp_path / "coco2014-mobilenetv2-gwp-448-4-0.5.pth"
    save_checkpoint(path, small, name="mcar-mobilenetv2", classes=("a", "b", "c", "d", "e"), size=96, dtype=torch.float16)
    told = describe(read(path), path.name)
    assert told.classes == ("a", "b", "c", "d", "e")
    assert told.size == 96
    assert told.options == {"pooling": "avg", "regions": 2, "threshold": 0.5}
    model = load_checkpoint(create("mcar-mobilenetv2", num_classes=5), path)
    assert model.convclass.weight.dtype == torch.float32


def test_the_official_name_tells_the_classes():
    state = {"features.6.22.conv3.weight": torch.zeros(1), "convclass.weight": torch.zeros(80, 2048, 1, 1)}
    assert describe(state, "coco2014-resnet101-gwp-448-4-0.5.pth.tar").classes == COCO_CLASSES
    assert (
        describe({**state, "convclass.weight": torch.zeros(20, 2048, 1, 1)}, "voc2012-resnet101-gwp-448-4-0.5.pth.tar").classes
        == VOC_CLASSES
    )


def test_a_checkpoint_that_does_not_fit_says_where(small):
    with pytest.raises(EdgeError, match=r"convclass\.weight \(5, 1280, 1, 1\) for \(20, 1280, 1, 1\)"):
        load_checkpoint(create("mcar-mobilenetv2", num_classes=20), small.state_dict())
    with pytest.raises(EdgeError, match=r"missing \(features\.0\.weight"):
        load_checkpoint(create("mcar-resnet50", num_classes=5), small.state_dict())


def test_weights_that_are_not_finite_are_refused(small):
    state = {name: value.clone() for name, value in small.state_dict().items()}
    state["convclass.bias"][0] = float("nan")
    with pytest.raises(EdgeError, match="finite"):
        load_checkpoint(create("mcar-mobilenetv2", num_classes=5), state)


def odd(kind: str, weights: torch.Tensor) -> torch.Tensor:
    """Weights in a form that no model has."""
    if kind == "sparse":
        return weights.to_sparse()
    if kind == "quantised":
        return torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8)
    return weights.to("meta") if kind == "meta" else weights.to(getattr(torch, kind))


@pytest.mark.parametrize("kind", ["sparse", "quantised", "meta", "float8_e4m3fn", "complex64", "int32", "bool", "int64"])
def test_weights_in_a_form_that_no_model_has_are_refused(small, kind):
    state = small.state_dict()
    name = next(iter(state))
    with pytest.raises(EdgeError, match=rf"\[models\] The checkpoint's {name} is"):
        load_checkpoint(small, {**state, name: odd(kind, state[name])})
