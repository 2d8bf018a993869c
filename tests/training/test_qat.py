"""Training for int8: what is simulated is what the int8 graph computes, and training makes its
error smaller."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
pytest.importorskip("onnxruntime")

from calib.equalise import equalise  # noqa: E402
from calib.peaks import peaks  # noqa: E402
from calib.placement import quantize  # noqa: E402
from calib.ranges import observe  # noqa: E402
from edge import lower  # noqa: E402
from edge.backends.onnxruntime import Session  # noqa: E402
from edge.data import open_dataset  # noqa: E402
from edge.errors import EdgeError  # noqa: E402
from edge.image import resize  # noqa: E402
from edge.models import create  # noqa: E402
from edge.models.checkpoint import load_checkpoint  # noqa: E402
from edge.models.network import Network  # noqa: E402
from edge.models.recipe import Augmentation, Phase  # noqa: E402
from edge.models.rounded import Rounded  # noqa: E402
from edge.models.source import open_source  # noqa: E402
from edge.spec import ImageSpec, ModelSpec  # noqa: E402
from edge.training import qat, recipes  # noqa: E402
from edge.training.augmentation import normalise  # noqa: E402
from edge.training.folder import BEST  # noqa: E402
from edge.training.trainer import About, Part, Trainer  # noqa: E402
from export.exporter import export_graph  # noqa: E402

SPEC, IMAGE = ModelSpec("mcar-mobilenetv2", ("a", "b", "c"), {"pooling": "avg", "regions": 2, "threshold": 0.5}), ImageSpec(64)
ABOUT = About(SPEC.name, SPEC.labels, 64, "toy")


pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int, seed: int) -> np.ndarray:
    """(N, 64, 64, 3) uint8, rough and smooth."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    fine = np.random.default_rng(seed + 1).integers(-30, 31, (count, 64, 64, 3))
    return np.clip(coarse.repeat(8, 1).repeat(8, 2) + fine, 0, 255).astype(np.uint8)


def inputs(pixels: np.ndarray) -> torch.Tensor:
    return normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))


SEEN = images(32, 0)


@pytest.fixture(scope="module")
def network() -> Network:
    """Random weights whose classes differ, with the statistics of some images."""
    made = create("mcar-mobilenetv2", num_classes=3, regions=2)
    made.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.convclass.weight.mul_(8)
    made.warm(inputs(images(16, 5)))
    return made


@pytest.fixture(scope="module")
def prepared(network: Network) -> Network:
    return qat.prepare(network, SPEC, IMAGE, SEEN)


def logits(network: Network, pixels: np.ndarray) -> np.ndarray:
    """(N, C) of the global stream, by torch."""
    with torch.no_grad():
        return torch.logit(network.eval().stream_scores(inputs(pixels))["global"].double()).numpy()


def int8_logits(network: Network, spec: ModelSpec, seen: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The same by ONNX Runtime, from the int8 graph of plain calibration on ``seen``."""
    graph = export_graph(network, spec, IMAGE)
    table = observe(graph, [(["x"] * len(seen), inputs(seen).numpy())], data={}, coverage={})
    model = lower.lower(quantize(graph, table, method="minmax").parse(), backend="openvino", precision="int8")
    scores = Session(model.SerializeToString())(inputs(pixels).numpy())["global_scores"].astype(np.float64)
    return np.log(scores) - np.log1p(-scores)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.fixture(scope="module")
def trained() -> tuple[Network, ModelSpec]:
    """Trained weights: in random ones, one tie that falls the other way changes everything."""
    source = open_source("mcar-mobilenetv2-ucmerced")
    with torch.no_grad():
        for value in source.network.convclass.parameters():
            value.mul_(0.1)  # scores of 0 and 1 have no logits
    return source.network, ModelSpec(SPEC.name, source.model.labels, source.network.spec_options())


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    tiles = open_dataset("aerial", "test")
    return np.stack([resize(tiles[index].image, 64) for index in range(0, 200, 5)])


@pytest.fixture(scope="module")
def simulated(trained: tuple[Network, ModelSpec], photos: np.ndarray) -> Network:
    """Equalised weights, rounded to the nearest."""
    graph = export_graph(*trained, IMAGE)
    start = equalise(graph, peaks(graph, [inputs(photos[:32]).numpy()])).graph.parse()
    made = qat.rounding(trained[0])
    made.unfold({each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in start.graph.initializer})
    qat.measure(made, [inputs(photos[:8])], "minmax")  # whose ranges do not depend on sampling
    return made


def test_what_is_simulated_is_what_the_int8_graph_computes(
    trained: tuple[Network, ModelSpec], simulated: Network, photos: np.ndarray
) -> None:
    pixels, learning = photos[32:], copy.deepcopy(simulated)
    assert isinstance(learning.features, Rounded)
    learning.features.observe = lambda *_: None  # nothing is rounded
    exact, engine = logits(learning, pixels), int8_logits(qat.unrounded(simulated), trained[1], photos[:8], pixels)
    # Equalised: the peaks at which channels are cut off are kept in few bits.
    np.testing.assert_allclose(logits(learning, photos[:4]), logits(trained[0], photos[:4]), atol=0.05)
    error = rms(engine - exact)
    assert error > 0.003 * rms(exact)
    # Integer kernels and float products differ at ties, which 50 layers amplify. Of two roundings
    # that have nothing in common, the difference would be larger than either error.
    assert rms(logits(simulated, pixels) - engine) < 0.6 * error
    steps = simulated.features.steps
    assert (steps > 0).all()
    assert not torch.equal(steps[0], steps[1])  # the passes have ranges of their own


def test_what_is_written_computes_unrounded_what_was_learned(simulated: Network, photos: np.ndarray) -> None:
    learned = copy.deepcopy(simulated)
    assert isinstance(learned.features, Rounded)
    learned.features.steps.zero_()  # no value is rounded, but the weights are
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in learned.features.parameters():
            if weight.ndim == 4:  # far from its steps, as training leaves it
                weight += 0.004 * weight.abs().amax((1, 2, 3), keepdim=True) * torch.rand(weight.shape, generator=generator)
    expected = logits(learned, photos[32:])
    np.testing.assert_allclose(logits(qat.unrounded(learned), photos[32:]), expected, atol=1e-3)
    learned.features.observe = lambda *_: None
    assert rms(logits(learned, photos[32:]) - expected) > 0.02  # what learns, unrounded


def test_training_begins_with_what_is_reached_without_it(
    trained: tuple[Network, ModelSpec], simulated: Network, photos: np.ndarray
) -> None:
    begun = qat.prepare(*trained, IMAGE, photos[:32])
    qat.measure(begun, [inputs(photos[:32])])
    exact, plain, fitted = (logits(each, photos[32:]) for each in (trained[0], simulated, begun))
    assert rms(fitted - exact) < 0.9 * rms(plain - exact)
    # Rounded as an engine will, the weights stay what they are.
    assert isinstance(begun.features, Rounded)
    for name, weight in qat.unrounded(begun).named_parameters():
        if name.startswith("features.") and weight.ndim == 4:
            largest = weight.detach().abs().amax((1, 2, 3), keepdim=True)
            levels = 127 * weight.detach() / largest
            off = (levels - levels.round()).abs().amax((1, 2, 3))
            living = largest.flatten() > 1e-3 * largest.max()  # channels near zero have a minimum step
            assert float(off[living].max()) < 1e-3, name


def test_training_makes_the_error_of_int8_smaller(prepared: Network, tmp_path: Path) -> None:
    recipe = recipes.choose("qat", 64, 40, pretrained=True)
    recipe = replace(recipe, ema=0.8, augmentation=Augmentation(crop=1.0, jitter=0.0))
    seen = SEEN[:8]

    def error(network: Network) -> float:
        """Of the feature maps of these images, the network as it simulates int8."""
        with torch.no_grad():
            return rms((network.eval().features(inputs(seen)) - network.features.exact(inputs(seen))).numpy())

    before = copy.deepcopy(prepared)
    qat.measure(before, [inputs(seen)])
    part = Part(seen, np.ones((8, 3), np.int8))
    later = count()  # each epoch is the best so far
    one = Part(seen[:1], part.labels[:1])
    trainer = Trainer(copy.deepcopy(prepared), part, one, recipe, lambda scores, _: float(next(later)), tmp_path, ABOUT)
    trainer.run()
    assert error(trainer.mean) < 0.96 * error(before)  # the beginning is what a build reaches
    plain = load_checkpoint(copy.deepcopy(qat.unrounded(prepared)), tmp_path / BEST)
    assert not any(isinstance(module, Rounded) for module in plain.modules())


def test_training_for_int8_begins_with_trained_weights() -> None:
    with pytest.raises(EdgeError, match="starts from trained weights"):
        recipes.choose("qat", 64)
    assert [phase.streams for phase in recipes.choose("qat", 64, 2, pretrained=True).phases] == ["both"]


def test_ranges_stay_after_the_first_epoch(prepared: Network, tmp_path: Path) -> None:
    recipe = replace(
        recipes.choose("qat", 64, pretrained=True),
        phases=(Phase(64, 3, (1e-3, 1e-3), batch=4, streams="both", regions=1, fixed_norm=True),),
    )
    part = Part(images(8, 0), np.ones((8, 3), np.int8))

    def trainer(folder: str) -> Trainer:
        return Trainer(copy.deepcopy(prepared), part, part, recipe, lambda scores, _: 0.0, tmp_path / folder, ABOUT)

    whole, stopped, resumed = trainer("whole"), trainer("parts"), trainer("parts")
    seen = []
    whole.run(stop=lambda: seen.append(whole.model.features.steps.clone()) or False)
    assert not torch.equal(seen[1], seen[2])  # after an epoch of two steps
    assert all(torch.equal(each, seen[2]) for each in seen[2:])
    stopped.run(stop=lambda: stopped.state.updates == 3)
    assert resumed.resume()
    resumed.run()
    assert all(
        torch.equal(value, its) for value, its in zip(whole.mean.state_dict().values(), resumed.mean.state_dict().values(), strict=True)
    )
