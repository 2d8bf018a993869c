"""Training for int8: a network that computes as the int8 engine will (``edge.models.rounded``), and
its ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import EdgeError
from edge.image import preprocess
from edge.models.network import Network
from edge.models.rounded import Rounded
from edge.spec import ImageSpec, ModelSpec

if TYPE_CHECKING:
    import onnx

    from calib.calibration import Fitted

BATCH = 4
RANGE_IMAGES = 64  # of which ranges are taken
SAMPLE = 8192  # values of a tensor counted per image


def prepare(network: Network, spec: ModelSpec, image: ImageSpec, images: NDArray[np.uint8]) -> Network:
    """A copy of the network that rounds, with channels equalised and weights and biases fitted as
    in a build (``calib.equalise``, ``calib.fit``): training begins with what is reached without it.

    Weights lie on the steps they are rounded to. A bias, of which a build has one for each stream,
    is shifted by the mean.

    Args:
        images: (N, S, S, 3) uint8 RGB, of which some are calibrated on.

    Raises:
        EdgeError: the libraries that export and calibrate are missing.
    """
    try:
        from calib.equalise import equalise
        from calib.fit import fit, images_for
        from calib.peaks import IMAGES, peaks
        from calib.placement import DEFAULT_METHOD
        from calib.ranges import observe
        from export.exporter import export_graph
    except ImportError as error:
        raise EdgeError(
            "train",
            f"Training for int8 exports the network and calibrates it first: {error}",
            "Install both: pip install 'mcar-edge[build]'",
        ) from error

    def batches(count: int) -> Iterator[NDArray[np.float32]]:
        chosen = images[:: max(1, len(images) // count)][:count]
        return (np.stack([preprocess(each, image) for each in chosen[i : i + BATCH]]) for i in range(0, len(chosen), BATCH))

    graph = export_graph(network, spec, image)
    start = equalise(graph, peaks(graph, batches(IMAGES))).graph
    named = (([f"training image {i}"] * len(each), each) for i, each in enumerate(batches(RANGE_IMAGES)))
    table = observe(start, named, data={}, coverage={})
    fitted = fit(start, table, batches(images_for(image.size)), method=DEFAULT_METHOD, keep_scales=True)
    prepared = rounding(network)
    prepared.unfold({name: torch.from_numpy(value) for name, value in rounded_weights(start.parse(), fitted).items()})
    return prepared


def rounding(network: Network) -> Network:
    """A copy of the network that rounds, its weights as they are."""
    made = copy.deepcopy(network)
    assert isinstance(made.features, torch.nn.Sequential)
    assert isinstance(network.features, torch.nn.Sequential)
    made.features = Rounded(made.features, network.features)
    return made


def rounded_weights(model: onnx.ModelProto, fitted: Fitted) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of a graph with what was fitted in them, by name."""
    from onnx import numpy_helper

    from calib.scales import quantise_weights, weight_scales

    values = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    for name, steps in fitted.steps.items():
        scales = weight_scales(values[name])
        integers = quantise_weights(values[name], scales) + steps.reshape(values[name].shape).astype(np.float32)
        values[name] = (integers * scales.reshape(-1, *[1] * (integers.ndim - 1))).astype(np.float32)
    shifts: dict[str, list[NDArray[np.float32]]] = {}
    for node in model.graph.node:
        if node.name in fitted.shifts and len(node.input) > 2:
            shifts.setdefault(node.input[2], []).append(fitted.shifts[node.name])
    return values | {name: (values[name] + np.mean(each, 0)).astype(np.float32) for name, each in shifts.items()}


def unrounded(network: Network) -> Network:
    """The network with its plain backbone, as checkpoints hold it."""
    if not isinstance(network.features, Rounded):
        return network
    plain = copy.copy(network)
    plain._modules = {**network._modules, "features": network.features.unrounded()}
    return plain


@torch.no_grad()
def measure(network: Network, images: Iterable[Tensor], method: str | None = None) -> None:
    """Set the steps of a rounding backbone from what it computes unrounded, as ``calib`` sets
    scales.

    Args:
        images: batches (b, 3, S, S) float32 normalised.
        method: of ``calib.scales.METHODS``; None: the default of a build.
    """
    from calib.histogram import Accumulator
    from calib.placement import DEFAULT_METHOD
    from calib.scales import activation_scale

    backbone = network.features
    assert isinstance(backbone, Rounded)
    seen: dict[tuple[int, int], Accumulator] = {}
    generator = torch.Generator().manual_seed(0)

    def observe(number: int, place: int, value: Tensor) -> None:
        low, high = (float(each) for each in value.aminmax())
        chosen = torch.randint(value.numel(), (SAMPLE * len(value),), generator=generator).to(value.device)
        sample = value.permute(0, 2, 3, 1).reshape(-1)[chosen].float().cpu().numpy()
        seen.setdefault((number, place), Accumulator()).add(sample, low, high)

    network.eval()
    backbone.observe = observe
    try:
        for batch in images:
            network.stream_scores(batch)
    finally:
        backbone.observe = None
    for (number, place), accumulator in seen.items():
        backbone.steps[number, place] = activation_scale(accumulator.histogram(), method or DEFAULT_METHOD)
