"""RMA: the sampler against torch's own, the cell, the anchors, the losses as stated, the published
sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from edge.models import create, load_checkpoint
from edge.models.rma import Cell, anchors_of, boxes_of, localisation_loss, profiles
from edge.training import recipes

WHOLE = torch.tensor([[1.0, 1.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def model():
    network = create("rma-mobilenetv2", num_classes=5, regions=3)
    network.initialise(torch.Generator().manual_seed(0))
    network.warm(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        network.localise.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
        network.convclass.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    return network


def sampled(maps, place, grid):
    across, down = profiles(torch.linspace(-1, 1, grid), place, maps.shape[-1]).unbind(1)
    return down[:, None] @ maps @ across.transpose(1, 2)[:, None]


def test_the_identity_is_a_plain_resize():
    maps = torch.randn(2, 3, 16, 16)
    expected = functional.interpolate(maps, (14, 14), mode="bilinear", align_corners=True)
    torch.testing.assert_close(sampled(maps, WHOLE.expand(2, 4), 14), expected, atol=1e-5, rtol=0)


def test_any_place_samples_as_a_spatial_transformer_does():
    maps = torch.randn(50, 2, 8, 8)
    place = torch.randn(50, 4)
    transform = torch.zeros(50, 2, 3)
    transform[:, 0, 0], transform[:, 1, 1], transform[:, :, 2] = place[:, 0], place[:, 1], place[:, 2:]
    grid = functional.affine_grid(transform, [50, 2, 14, 14], align_corners=True)
    expected = functional.grid_sample(maps, grid, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(sampled(maps, place, 14), expected, atol=1e-5, rtol=0)


def test_outside_the_image_there_is_nothing():
    assert not sampled(torch.randn(1, 2, 8, 8), torch.tensor([[0.1, 0.1, 3.0, 0.0]]), 14).any()


def test_the_mean_of_a_region_is_the_mean_of_its_samples(model, images):
    network = create("rma-mobilenetv2", num_classes=5, regions=1)
    network.region = torch.nn.Identity()
    maps, place = torch.rand(2, 1280, 8, 8), torch.randn(2, 4)
    torch.testing.assert_close(network._region(maps, place), sampled(maps, place, network.grid).mean((2, 3)), atol=1e-5, rtol=1e-4)


def test_the_cell_is_torchs():
    cell, known = Cell(6, 4), torch.nn.LSTMCell(6, 4)
    with torch.no_grad():
        known.weight_ih.copy_(cell.input.weight)
        known.weight_hh.copy_(cell.recurrent.weight)
        known.bias_ih.copy_(cell.input.bias)
        known.bias_hh.zero_()
    first, second = torch.randn(2, 3, 6)
    ours, theirs = cell(first, None), known(first)
    for one, other in zip([*ours, *cell(second, ours)], [*theirs, *known(second, theirs)], strict=True):
        torch.testing.assert_close(one, other)


def test_anchors_stand_on_a_circle_around_the_first():
    assert anchors_of(5) == [(0, 0), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5)]
    assert anchors_of(1) == [(0, 0)]
    assert all(math.hypot(*anchor) == pytest.approx(math.sqrt(0.5), abs=1e-5) for anchor in anchors_of(8)[1:])


@pytest.mark.parametrize(("mode", "scale", "shift"), [("loss", 1.0, 0.0), ("offset", 0.5, 1.0)])
def test_places_begin_at_what_the_anchors_say(images, mode, scale, shift):
    network = create("rma-mobilenetv2", num_classes=5, regions=4, anchors=mode)
    network.initialise(torch.Generator().manual_seed(0))
    places = network.training_outputs(images)["places"]
    expected = torch.cat([torch.full((4, 2), scale), shift * torch.tensor(anchors_of(4))], 1)
    torch.testing.assert_close(places, expected.expand(2, 4, 4))


def test_regions_are_the_places_in_pixels():
    places = torch.tensor([[[1, 1, 0, 0], [-0.5, 0.5, 0.5, 0], [1, 1, 1, -1], [0.1, 0.1, 5, 5], [0, 0, 0, 0]]])
    expected = [[0, 0, 64, 64], [32, 16, 64, 48], [32, 0, 64, 32], [63, 63, 64, 64], [32, 32, 33, 33]]
    torch.testing.assert_close(boxes_of(places, 64)[0], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_scores_are_of_the_strongest_step(model, images, score):
    network = create("rma-mobilenetv2", num_classes=5, regions=3, score=score)
    load_checkpoint(network, model.state_dict())
    with torch.no_grad():
        found, logits = network(images), network.training_outputs(images)["logits"]
    assert logits.shape == (2, 3, 5)
    strongest = logits.max(1).values
    torch.testing.assert_close(found["scores"], strongest.softmax(1) if score == "softmax" else strongest.sigmoid())
    assert torch.equal(found["region_classes"], logits.argmax(2))
    assert found["regions"].shape == (2, 3, 4)
    assert found["regions"].dtype == torch.float32


def test_one_step_will_do(images):
    found = create("rma-mobilenetv2", num_classes=2, regions=1)(images)
    assert (found["regions"].shape, found["region_classes"].shape) == ((2, 1, 4), (2, 1))


def test_the_published_loss_compares_shares_and_skips_images_that_show_nothing():
    network = create("rma-mobilenetv2", num_classes=4, regions=1, score="softmax")
    exact = {"logits": torch.tensor([[[9.0, 9.0, -99, -99]], [[5.0, 0, 0, 0]]]), "places": torch.tensor([[[0.3, 0.3, 0.0, 0.0]]] * 2)}
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    assert network.loss(exact, targets).item() == pytest.approx(0, abs=1e-9)
    targets[0, 1] = 0  # half a share too little and half too much
    assert network.loss(exact, targets).item() == pytest.approx(0.5)


def test_the_localisation_loss_adds_anchor_scale_and_sign():
    centres = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    at_rest = torch.tensor([[[0.3, 0.3, 0.0, 0.0], [0.3, 0.3, 0.5, 0.5]]])
    assert localisation_loss(at_rest, centres) == 0
    off = at_rest + torch.tensor([[[0.0, 0.0, 0.2, 0.0], [0.4, -0.5, 0.0, 0.0]]])
    expected = 0.01 * 0.5 * 0.2**2 + (0.7 - 0.5) ** 2 + 0.1 * (0.1 + 0.2)
    assert localisation_loss(off, centres).item() == pytest.approx(expected)


def test_a_loss_teaches_every_part(model, images, untaught):
    assert not untaught(model, images)


def test_the_published_configuration_has_the_published_size():
    with torch.device("meta"):
        network = create("rma-vgg16", num_classes=20)
    backbone, whole = (sum(parameter.numel() for parameter in part) for part in (network.backbone_parameters(), network.parameters()))
    assert backbone == 14_714_688
    assert whole - backbone == pytest.approx(254e6, rel=0.01)
    assert network.spec_options() == {
        "regions": 5, "score": "softmax", "anchors": "loss", "pooling": "max", "grid": 14, "width": 4096, "hidden": 4096, "embedding": 4096,
    }  # fmt: skip


def test_the_published_configuration_runs_small(images):
    network = create("rma-vgg16", num_classes=3, width=8, hidden=8, embedding=8, regions=2)
    found = network(images)
    torch.testing.assert_close(found["scores"].sum(1), torch.ones(2))
    torch.testing.assert_close(found["regions"][:, 0], torch.tensor([[0.0, 0, 64, 64]] * 2))


def test_the_published_recipe_is_adams():
    with torch.device("meta"):
        network = create("rma-vgg16", num_classes=20)
    recipe = network.adapted(recipes.official(512, 45))
    assert [(phase.epochs, *phase.lr) for phase in recipe.phases] == [(30, 1e-5, 1e-5), (15, 1e-6, 1e-6)]
    assert (recipe.optimiser, recipe.weight_decay, recipe.backbone_lr) == ("adamw", 0, 1)
    assert {phase.streams for phase in network.adapted(recipes.scratch(256, 10)).phases} == {"global"}
