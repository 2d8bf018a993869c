"""AAMN: arithmetic of the memory, what is folded, modules that can be left out."""

from __future__ import annotations

import pytest
import torch

from edge.models import create, load_checkpoint
from edge.models.aamn import AAMN, CategoricalMemory, ChannelRelation, SpatialRelation
from edge.models.plain import Plain


@pytest.fixture(scope="module")
def model() -> AAMN:
    network = create("aamn-mobilenetv2", num_classes=5)
    network.initialise(torch.Generator().manual_seed(0))
    network.warm(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        network.spatial.gamma.fill_(0.5)
        network.memory.value.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
        network.convclass.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
    assert isinstance(network, AAMN)
    return network


def memory(momentum: float = 0.9) -> CategoricalMemory:
    torch.manual_seed(0)
    return CategoricalMemory(channels=6, classes=4, width=3, momentum=momentum)


def test_a_prototype_is_the_first_mean_then_a_running_one():
    made = memory(0.75)
    maps, flat = torch.rand(2, 6, 3, 3), torch.zeros(2, 4, 3, 3)  # flat class maps: the mean over pixels
    targets = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 0]])
    made.remember(maps, flat, targets)
    means = maps.mean((2, 3))
    torch.testing.assert_close(made.prototypes[0], means.mean(0))
    torch.testing.assert_close(made.prototypes[2], means[0])
    assert made.seen.tolist() == [1, 0, 1, 0]
    assert not made.prototypes[[1, 3]].any()
    other = torch.rand(2, 6, 3, 3)
    before = made.prototypes.clone()
    made.remember(other, flat, torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0]]))
    torch.testing.assert_close(made.prototypes[2], 0.75 * before[2] + 0.25 * other[0].mean((1, 2)))
    torch.testing.assert_close(made.prototypes[1], other[1].mean((1, 2)))
    torch.testing.assert_close(made.prototypes[0], before[0])


def test_a_class_is_remembered_where_its_map_is_strong():
    made = memory()
    maps, class_maps = torch.rand(1, 6, 3, 3), torch.zeros(1, 4, 3, 3)
    class_maps[0, 1, 2, 0] = 50
    made.remember(maps, class_maps, torch.tensor([[0.0, 1, 0, 0]]))
    torch.testing.assert_close(made.prototypes[1], maps[0, :, 2, 0])


def test_the_order_of_a_batch_plays_no_part():
    maps, class_maps, targets = torch.rand(5, 6, 3, 3), torch.rand(5, 4, 3, 3), (torch.rand(5, 4) > 0.5).float()
    one, other = memory(), memory()
    order = torch.tensor([3, 0, 4, 1, 2])
    one.remember(maps, class_maps, targets)
    other.remember(maps[order], class_maps[order], targets[order])
    torch.testing.assert_close(one.prototypes, other.prototypes)


def test_classes_never_seen_say_nothing():
    made = memory()
    maps = torch.rand(2, 6, 3, 3)
    torch.testing.assert_close(made(maps), maps)  # an empty memory
    made.remember(maps, torch.rand(2, 4, 3, 3), torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]]))
    before = made(maps)
    with torch.no_grad():
        made.prototypes[1] = 100.0  # unseen, whatever it holds
    torch.testing.assert_close(made(maps), before)
    folded = made.folded()
    assert folded.attention.weight.shape == (2, 6, 1, 1)
    torch.testing.assert_close(folded(maps), before)


def test_an_empty_memory_folds_to_nothing():
    assert isinstance(memory().folded(), torch.nn.Identity)


def test_the_local_convolution_folds_into_the_gate():
    made, maps = ChannelRelation(12, 8), torch.rand(2, 12, 3, 3)
    before = made(maps)
    assert not torch.allclose(before, maps * 1.5, atol=1e-3)
    folded = made.folded()
    assert isinstance(folded.near, torch.nn.Identity)
    torch.testing.assert_close(folded(maps), before)


def test_no_spatial_relation_at_the_start_and_its_factor_folds():
    made, maps = SpatialRelation(12, 8).eval(), torch.rand(2, 12, 3, 3)
    assert torch.equal(made(maps), maps)
    with torch.no_grad():
        made.gamma.fill_(0.7)
    before = made(maps)
    assert not torch.allclose(before, maps, atol=1e-3)
    torch.testing.assert_close(made.folded()(maps), before)


def test_what_is_exported_computes_the_same(model, images):
    folded = model.fused_for_export()
    assert not any(isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv1d, CategoricalMemory)) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images)["scores"], model(images)["scores"], atol=1e-5, rtol=1e-4)


def test_every_module_matters_and_can_be_left_out(model, images):
    with torch.no_grad():
        whole = model(images)["scores"]
        for name in ("memory", "channel", "spatial"):
            network = create("aamn-mobilenetv2", num_classes=5, **{name: False})
            kept = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
            load_checkpoint(network, kept)
            assert not torch.allclose(network(images)["scores"], whole, atol=1e-4), name
            assert network.spec_options()[name] is False
        bare = create("aamn-mobilenetv2", num_classes=5, memory=False, channel=False, spatial=False, pooling="avg")
        plain = create("plain-mobilenetv2", num_classes=5)
        load_checkpoint(plain, bare.state_dict())
        assert isinstance(plain, Plain)
        torch.testing.assert_close(bare(images), plain(images))


def test_a_loss_teaches_every_part(model, images, untaught):
    assert not untaught(model, images)


def test_only_training_fills_the_memory(model, images):
    before = model.memory.prototypes.clone()
    outputs = model.training_outputs(images)
    assert torch.equal(model.memory.prototypes, before)
    model.observe(outputs, torch.eye(5)[:2])
    changed = (model.memory.prototypes != before).any(1)
    assert changed.tolist() == [True, True, False, False, False]


def test_larger_backbones_have_wider_modules():
    with torch.device("meta"):
        network = create("aamn-resnet50", num_classes=80)
    assert network.spec_options()["width"] == 512
    assert network.memory.prototypes.shape == (80, 2048)


def test_random_weights_give_scores_that_do_not_hang_on_the_last_bit():
    torch.manual_seed(0)
    network = create("aamn-resnet50", num_classes=5)
    images = torch.randn(4, 3, 64, 64)
    network.warm(images)
    with torch.no_grad():
        assert network.training_outputs(images)["logits"].std() == pytest.approx(1, rel=0.05)
