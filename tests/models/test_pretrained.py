"""Weights of torchvision: whatever head they have, they give the backbone; those of another
architecture are refused by name."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torchvision.models import get_model, get_model_weights  # noqa: E402

from edge.errors import EdgeError  # noqa: E402
from edge.models import MODELS, create  # noqa: E402
from edge.models.backbones import PUBLISHED  # noqa: E402
from edge.models.pretrained import from_torchvision, imagenet  # noqa: E402
from edge.training.start import start  # noqa: E402

SMALL = {"rma-vgg16": {"regions": 2}}


@pytest.mark.parametrize("name", [name for name in MODELS if "101" not in name])
def test_a_torchvision_checkpoint_gives_the_backbone(name: str, tmp_path: Path) -> None:
    backbone = MODELS[name][2]["backbone"]
    published = get_model(PUBLISHED[backbone], weights=None, num_classes=7).eval()
    torch.save(published.state_dict(), tmp_path / "published.pth")
    model = start(create(name, num_classes=5, **SMALL.get(name, {})), 0, tmp_path / "published.pth").eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if backbone.startswith("resnet"):
            stem = published.maxpool(published.relu(published.bn1(published.conv1(image))))
            expected = published.layer4(published.layer3(published.layer2(published.layer1(stem))))
        else:
            expected = published.features(image)
        assert torch.equal(model.features(image), expected)


def test_every_backbone_holds_torchvisions_layers_in_their_order() -> None:
    for backbone, name in PUBLISHED.items():
        with torch.device("meta"):
            state = get_model(name, weights=None).state_dict()
        assert all(key.startswith("features.") for key in from_torchvision(state, backbone))


def test_mobilenetv2_of_flat_blocks_gives_the_backbone() -> None:
    model = create("plain-mobilenetv2", num_classes=2)
    layers = [*model.features[0], model.features[1]]
    older = torch.nn.Sequential(*layers).state_dict(prefix="features.")
    found = from_torchvision(older, "mobilenetv2")
    assert list(found) == [name for name in model.state_dict() if name.startswith("features.")]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.items())


def test_counters_that_old_files_lack_are_not_missed() -> None:
    with torch.device("meta"):
        state = get_model("resnet50", weights=None).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert "features.7.2.bn3.running_var" in from_torchvision(old, "resnet50")


@pytest.mark.parametrize(
    ("given", "model", "words"),
    [
        ("resnet18", "mcar-resnet50", "torchvision's resnet18, but the backbone is resnet50"),
        ("resnet101", "mcar-resnet50", "torchvision's resnet101, but the backbone is resnet50"),
        ("mobilenet_v3_small", "mcar-mobilenetv2", "torchvision's mobilenet_v3_small, but the backbone is mobilenet_v2"),
        ("vgg16_bn", "rma-vgg16", "torchvision's vgg16_bn, but the backbone is vgg16"),
    ],
)
def test_another_architecture_is_refused_by_name(given: str, model: str, words: str) -> None:
    with torch.device("meta"):
        state = get_model(given, weights=None).state_dict()
    with pytest.raises(EdgeError, match=words):
        from_torchvision(state, MODELS[model][2]["backbone"])


def test_official_names_come_back_as_they_are() -> None:
    with torch.device("meta"):
        state = create("mcar-resnet50", num_classes=5).state_dict()
    assert list(from_torchvision(state, "resnet50")) == list(state)


def test_without_network_the_file_to_fetch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = get_model_weights("mobilenet_v2")

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(weights, "get_state_dict", unreachable)
    with pytest.raises(EdgeError, match=r"mobilenet_v2 could not be downloaded: .*not known.*Download mobilenet_v2-\w+\.pth"):
        imagenet("mobilenetv2")
