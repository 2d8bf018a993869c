"""Training for int8: a network that computes as the int8 engine will (``edge.models.rounded``), and
its ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import EdgeError
from edge.image import preprocess
from edge.models.network import Network
from edge.models.rounded import Rounded
from edge.spec import ImageSpec, ModelSpec

BATCH = 4
SAMPLE = 8192  # values of a tensor counted per image


def prepare(network: Network, spec: ModelSpec, image: ImageSpec, images: NDArray[np.uint8]) -> Network:
    """A copy of the network with channels equalised as a build has them (``calib.equalise``), and a
    backbone that rounds.

    It learns in the form in which it will be rounded; what it computes in float stays.

    Args:
        images: (N, S, S, 3) uint8 RGB, of which the peaks of channels are seen.

    Raises:
        EdgeError: the libraries that export and calibrate are missing.
    """
    try:
        from onnx import numpy_helper

        from calib.equalise import equalise
        from calib.peaks import IMAGES, peaks
        from export.exporter import export_graph
    except ImportError as error:
        raise EdgeError(
            "train",
            f"Training for int8 exports the network and calibrates it first: {error}",
            "Install both: pip install 'mcar-edge[build]'",
        ) from error
    chosen = images[:: max(1, len(images) // IMAGES)][:IMAGES]
    graph = export_graph(network, spec, image)
    batches = (np.stack([preprocess(each, image) for each in chosen[i : i + BATCH]]) for i in range(0, len(chosen), BATCH))
    made = equalise(graph, peaks(graph, batches)).graph.parse()
    prepared = copy.deepcopy(network)
    prepared.unfold({each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in made.graph.initializer})
    assert isinstance(prepared.features, torch.nn.Sequential)
    assert isinstance(network.features, torch.nn.Sequential)
    prepared.features = Rounded(prepared.features, network.features)
    return prepared


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
