"""What each part of the network costs in int8, and the gate that returns the worst parts to
float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import GateError
from edge.events import Progress
from edge.graph import Graph, Outputs
from edge.lower.backbone import convolutions, residual_adds
from edge.measure.accuracy import evaluate
from edge.measure.quality import Gain, Sensitivity
from edge.measure.regions import drift
from edge.plain import Json, to_plain

Quantise = Callable[[Collection[str]], Graph]  # names of nodes to leave in float → int8 graph
Run = Callable[[Graph], Outputs]  # int8 graph → its outputs on the validation images, on the target


@dataclass(frozen=True)
class Judgement:
    """An int8 graph against the fp32 graph on the validation images.

    Attributes:
        map_drop: points (0..100) of mAP lost.
        score_error: mean |difference| of the fused scores; less noisy than mAP, which only sees
            order.
        class_agreement, mean_iou: region drift (``edge.measure.regions``); 1 for a model without
            regions.
    """

    map_drop: float
    score_error: float
    class_agreement: float
    mean_iou: float


@dataclass(frozen=True)
class Gated:
    """What the gate ended with.

    Attributes:
        graph: the int8 graph that holds.
        judgement: of that graph; ``before``: of the graph with everything in int8.
        returned: units in float, worst first; ``nodes``: their nodes, for ``float_nodes``.
        ranking: all units, worst first; empty where int8 held at once.
    """

    graph: Graph
    judgement: Judgement
    before: Judgement
    returned: tuple[str, ...]
    nodes: tuple[str, ...]
    ranking: tuple[Gain, ...]

    def plain(self) -> dict[str, Json]:
        """For the bundle, as JSON types."""
        return to_plain(Sensitivity(self.judgement.map_drop, self.before.map_drop, self.returned, self.ranking))


def units(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Stream × stage: ``global/layer3`` or ``local/block5`` → names of its convolutions and Adds,
    in graph order."""
    parsed = graph.parse()
    quantised = {node.name for node in convolutions(parsed)} | {add.node.name for add in residual_adds(parsed)}
    found: dict[str, list[str]] = {}
    for node in parsed.graph.node:
        if node.name in quantised:
            stream, _, rest = node.name.partition("/")
            found.setdefault(f"{stream}/{rest.partition('/')[0].partition('.')[0]}", []).append(node.name)
    return {name: tuple(nodes) for name, nodes in found.items()}


def judge(outputs: Outputs, reference: Outputs, labels: NDArray[np.integer]) -> Judgement:
    """Compare outputs on the same images."""
    moved = drift(outputs, reference)
    return Judgement(
        map_drop=evaluate(reference["scores"], labels).map - evaluate(outputs["scores"], labels).map,
        score_error=float(np.abs(outputs["scores"].astype(np.float64) - reference["scores"]).mean()),
        class_agreement=moved.class_agreement if moved else 1.0,
        mean_iou=(moved.mean_iou or 0.0) if moved else 1.0,
    )


def rank(
    quantise: Quantise,
    parts: Mapping[str, Sequence[str]],
    run: Run,
    reference: Outputs,
    labels: NDArray[np.integer],
    *,
    before: Judgement,
    progress: Progress | None = None,
) -> tuple[Gain, ...]:
    """Units by what returning each alone to float brings: those that bring the scores nearest to
    the reference's come first.

    mAP only sees order, and of some hundred images the gain of a single unit is mostly chance.
    """
    gains = []
    for done, (unit, nodes) in enumerate(parts.items(), 1):
        now = judge(run(quantise(nodes)), reference, labels)
        gains.append(
            Gain(
                unit,
                before.map_drop - now.map_drop,
                before.score_error - now.score_error,
                now.class_agreement - before.class_agreement,
                now.mean_iou - before.mean_iou,
            )
        )
        if progress is not None:
            progress(done, len(parts))
    return tuple(sorted(gains, key=lambda gain: (-gain.score_error, -gain.map_points)))


def hold_gate(
    quantise: Quantise,
    parts: Mapping[str, Sequence[str]],
    run: Run,
    reference: Outputs,
    labels: NDArray[np.integer],
    *,
    max_map_drop: float,
    progress: Progress | None = None,
) -> Gated:
    """Return units to float until the drop on the validation images is at most ``max_map_drop``,
    and no more than needed.

    1. Where the whole int8 graph holds, nothing is ranked and nothing returned.
    2. Units are ranked one by one; then the worst are returned together, as many as it takes: 1, 2,
       4 … and by halves back.
    3. Each unit returned, least useful first, is tried in int8 again and stays so where the gate
       still holds: a unit may be in the list by chance, and every one in float costs time.

    Args:
        quantise: names of nodes in float → int8 graph (``calib.placement.quantize`` with the rest
            bound).
        parts: unit → nodes, from ``units``.
        run: outputs of an int8 graph on the validation images.
        reference: outputs of the fp32 graph, before any repair, on the same images.
        labels: (N, C) of those images.

    Raises:
        GateError: not even with every unit in float; the message says how near it came.
    """

    def tried(count_or_units: Sequence[str]) -> tuple[Graph, Judgement]:
        graph = quantise([node for unit in count_or_units for node in parts[unit]])
        return graph, judge(run(graph), reference, labels)

    graph, before = tried(())
    if before.map_drop <= max_map_drop:
        return Gated(graph, before, before, (), (), ())
    ranking = rank(quantise, parts, run, reference, labels, before=before, progress=progress)
    order = [gain.unit for gain in ranking]

    results: dict[int, tuple[Graph, Judgement]] = {}

    def holds(count: int) -> bool:
        results[count] = tried(order[:count])
        return results[count][1].map_drop <= max_map_drop

    low, count = 0, 1  # so many were not enough; so many are tried
    while not holds(count):  # 2
        if count == len(order):
            nearest = min(result[1].map_drop for result in results.values())
            drop = before.map_drop
            raise GateError(
                "calib",
                f"INT8 loses {drop:.2f} points of mAP, {nearest:.2f} with the most sensitive layers in float; limit {max_map_drop:g}",
                "Raise `max_map_drop`, change `calib_method`, or set `precision` to fp16",
            )
        low, count = count, min(2 * count, len(order))
    while count - low > 1:
        middle = (low + count) // 2
        if holds(middle):
            count = middle
        else:
            low = middle
    returned = order[:count]
    graph, judgement = results[count]
    for unit in reversed(order[:low]):  # 3; the last one in float is needed: without it the gate failed in 2
        fewer = [each for each in returned if each != unit]
        candidate, found = tried(fewer)
        if found.map_drop <= max_map_drop:
            returned, graph, judgement = fewer, candidate, found
    nodes = tuple(node for unit in returned for node in parts[unit])
    return Gated(graph, judgement, before, tuple(returned), nodes, ranking)
