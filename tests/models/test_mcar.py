"""MCAR: the recorded official outputs, the official key names, options and checkpoints."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from edge.errors import EdgeError
from edge.labels import COCO_CLASSES, VOC_CLASSES
from edge.models import MODELS, create, load_checkpoint
from edge.models.checkpoint import describe, read, save_checkpoint
from edge.models.mcar import pool, top_classes


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return create("mcar-mobilenetv2", num_classes=5, regions=2)


def test_recorded_official_outputs(official_case):
    _, network, images, expected = official_case
    with torch.inference_mode():
        found = {name: value.numpy() for name, value in network(torch.from_numpy(images)).items()}
    for name in ("regions", "region_classes"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("global_scores", "local_scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5)
    np.testing.assert_array_equal(found["scores"], np.maximum(found["global_scores"], found["local_scores"]))


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mcar-")])
def test_keys_and_shapes_are_the_official_ones(name, golden):
    official, net = golden.read("official_keys"), name.removeprefix("mcar-")
    expected = {str(key): str(shape) for key, shape in zip(official[f"{net}_keys"], official[f"{net}_shapes"], strict=True)}
    found = {key: str(tuple(value.shape)) for key, value in create(name, num_classes=20).state_dict().items()}
    assert {key: shape.replace(" ", "") for key, shape in found.items()} == {key: _normal(shape) for key, shape in expected.items()}


def _normal(shape: str) -> str:
    sizes = [part for part in shape.strip("()[]").replace("x", ",").replace(" ", "").split(",") if part]
    return f"({','.join(sizes)}{',' if len(sizes) == 1 else ''})"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"regions": 0}, "region"),
        ({"regions": 6}, "1 to 5"),
        ({"pooling": "mean"}, "avg, gwp or max"),
        ({"topn": 4}, "pooling, regions or threshold"),
    ],
)
def test_options_that_cannot_be_are_refused(options, says):
    with pytest.raises(EdgeError, match=says):
        create("mcar-mobilenetv2", num_classes=5, **options)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(EdgeError, match="mcar-resnet101"):
        create("mcar-vgg16", num_classes=5)


def test_equal_logits_rank_by_index():
    logits = torch.tensor([[1.0, 3, 3, 2, 3, 0], [0, 0, 0, 0, 0, 0]])
    assert top_classes(logits, 4).tolist() == [[1, 2, 4, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("side", [8, 14, 18])
def test_gwp_is_the_mean_of_both_poolings(side):
    maps = torch.randn(2, 3, side, side)
    torch.testing.assert_close(pool(maps, "gwp"), (maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)) / 2)


def test_folding_batch_norm_changes_nothing(small):
    images = torch.randn(1, 3, 64, 64)
    model = create("mcar-mobilenetv2", num_classes=5, regions=2)
    load_checkpoint(model, small.state_dict())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    folded = model.fused_for_export()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded.features(images), model.features(images), rtol=1e-4, atol=1e-5)


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


def test_numpy_scalars_are_let_in(small, tmp_path):
    torch.save({"state_dict": small.state_dict(), "best_score": np.float64(91.3)}, tmp_path / "a.pth")
    assert read(tmp_path / "a.pth")["best_score"] == 91.3


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


class Payload:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_nothing_in_a_checkpoint_runs(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Payload()}))
    torch.save({"state_dict": Payload()}, tmp_path / "evil-zip.pth")
    for name in ("evil.pth", "evil-zip.pth"):
        with pytest.raises(EdgeError, match=name):
            read(tmp_path / name)
    assert capsys.readouterr().out == ""


def files_that_are_none(folder, small):
    buffer = io.BytesIO()
    torch.save({"state_dict": small.state_dict()}, buffer)
    whole = buffer.getvalue()
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "text.pth").write_text("not a checkpoint")
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "tail.pth").write_bytes(whole[:-100])
    torch.save([1, 2], folder / "list.pth")
    torch.save({"state_dict": {}}, folder / "bare.pth")
    return ["zip.pth", "empty.pth", "text.pth", "half.pth", "tail.pth", "list.pth", "bare.pth", "missing.pth"]


def test_files_that_are_no_checkpoint_are_named(small, tmp_path):
    for name in files_that_are_none(tmp_path, small):
        with pytest.raises(EdgeError, match=name) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


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
