"""What training asks of a network: each stream's logits with their gradients, and the parameters by
learning rate."""

from __future__ import annotations

import pytest
import torch

from edge.errors import EdgeError
from edge.models import create


@pytest.fixture
def model():
    """Untouched random weights give every crop the same scores, which would hide any mistake:
    settle the norms, spread the classes."""
    torch.manual_seed(0)
    network = create("mcar-mobilenetv2", num_classes=5, regions=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # cumulative average
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 64, 64))
        network.convclass.weight.normal_(0, 0.05)
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def global_logits(model, images):
    return model.training_outputs(images, streams="global")["global_logits"]


def test_the_streams_are_those_of_inference(model, images):
    with torch.no_grad():
        found, streams, alone = model(images), model.training_outputs(images), global_logits(model, images)
    torch.testing.assert_close(torch.sigmoid(streams["global_logits"]), found["global_scores"])
    torch.testing.assert_close(torch.sigmoid(streams["local_logits"]), found["local_scores"])
    torch.testing.assert_close(alone, streams["global_logits"])


def test_the_local_stream_is_the_best_of_the_global_pass_over_each_crop(model, images):
    with torch.no_grad():
        found = model(images)
        crops = torch.ops.edge.roi_resize(images, found["regions"], 64)
        each = torch.sigmoid(global_logits(model, crops)).view(2, 3, 5)
    assert (each.max(1).values - each.min(1).values).max() > 0.1, "the crops must differ for this to say anything"
    torch.testing.assert_close(found["local_scores"], each.max(1).values)
    assert torch.equal(found["scores"], torch.maximum(found["global_scores"], found["local_scores"]))


@pytest.mark.parametrize("stream", ["global_logits", "local_logits"])
def test_each_stream_teaches_backbone_and_head(model, images, stream):
    images.requires_grad_()
    model.train().training_outputs(images)[stream].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    # The crops are data: only the global stream leads back to the image.
    assert (images.grad is not None) == (stream == "global_logits")


def test_fewer_regions_are_drawn_from_the_same_ones(model, images):
    seen = []
    hook = model.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.training_outputs(images)
        for seed in (0, 0, 1):
            model.training_outputs(images, sample=1, generator=torch.Generator().manual_seed(seed))
    hook.remove()
    everything, first, again, other = seen[1::2]
    assert (len(everything), len(first)) == (6, 2)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    for index in range(2):
        assert any(torch.equal(first[index], crop) for crop in everything[3 * index : 3 * index + 3])


def test_boxes_are_found_in_float32_under_autocast(model, images, monkeypatch):
    found = []
    original = torch.ops.edge.region_boxes
    monkeypatch.setattr(torch.ops.edge, "region_boxes", lambda cams, *rest: found.append(cams.dtype) or original(cams, *rest))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.training_outputs(images)
    assert found == [torch.float32]


def test_parameters_fall_into_backbone_and_head(model):
    head = {id(parameter) for parameter in model.parameters()} - {id(parameter) for parameter in model.backbone_parameters()}
    assert {id(model.convclass.weight), id(model.convclass.bias)} == head


@pytest.mark.parametrize("shape", [(100, 100), (64, 96), (33, 33)])
@pytest.mark.parametrize("call", ["forward", "training_outputs"])
def test_images_that_do_not_fill_the_grid_are_refused(model, shape, call):
    with pytest.raises(EdgeError, match=f"{shape[0]} × {shape[1]}"):
        getattr(model, call)(torch.zeros(1, 3, *shape))
