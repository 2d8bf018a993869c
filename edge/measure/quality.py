"""Accuracy and drift of an engine, as in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.data import Dataset
from edge.graph import Outputs
from edge.measure.accuracy import TOP_K, evaluate, map_drop_interval, map_interval
from edge.measure.causes import Causes

WORST = 3
RESAMPLES = 500


@dataclass(frozen=True)
class Top:
    """Rates over each image's ``k`` best scores, in points."""

    k: int
    cf1: float
    of1: float


@dataclass(frozen=True)
class ClassAp:
    """AP of a class in points, and how much of it is lost against the reference; None without
    one."""

    ap: float
    ap_reference: float | None
    drop: float | None


@dataclass(frozen=True)
class Quality:
    """Accuracy of an engine on labelled images, in points (0..100), against the FP32 graph if that
    ran too.

    Attributes:
        dataset: its name and split.
        map_drop: reference − engine.
        map_interval, map_drop_interval: 95 %, by bootstrap; the second is paired.
        threshold: of CF1 and OF1.
        convention: how the figures are computed, in one sentence.
        ties: tied scores, kept in the order of the data.
        per_class: in the order of the model's labels.
        worst: (class, points lost) of those that lost most, most first.
        causes: the drop by what caused it; None where it was not split.
    """

    dataset: str
    images: int
    map: float
    map_interval: tuple[float, float] | None
    map_reference: float | None
    map_drop: float | None
    map_drop_interval: tuple[float, float] | None
    cf1: float
    of1: float
    cf1_reference: float | None
    of1_reference: float | None
    top: Top
    threshold: float
    convention: str
    ties: int
    per_class: Mapping[str, ClassAp]
    worst: tuple[tuple[str, float], ...]
    causes: Causes | None = None


@dataclass(frozen=True)
class Gain:
    """The effect of returning one part of the network to float: differences to the whole int8
    graph, positive if better."""

    unit: str
    map_points: float
    score_error: float
    class_agreement: float
    mean_iou: float


@dataclass(frozen=True)
class Sensitivity:
    """What the gate of a build found on its validation images; drops in points of mAP, the largest
    first."""

    map_drop: float
    map_drop_all_int8: float
    returned_to_float: tuple[str, ...]
    ranking: tuple[Gain, ...]


def accuracy(engine: Outputs, reference: Outputs | None, dataset: Dataset, threshold: float) -> Quality | None:
    """mAP, drop with its paired interval, rates and per-class AP; None for unlabelled images.

    Args:
        engine, reference: outputs over all of ``dataset``, in its order; the reference is the graph
            in FP32.
        dataset: its classes are the model's labels.
        threshold: of CF1 and OF1.
    """
    labels = dataset.labels
    if labels is None:
        return None
    mine = evaluate(engine["scores"], labels, threshold=threshold)
    base = evaluate(reference["scores"], labels, threshold=threshold) if reference is not None else None
    interval = map_drop_interval(reference["scores"], engine["scores"], labels, resamples=RESAMPLES) if reference is not None else None
    per_class, lost = {}, []
    for column, name in enumerate(dataset.classes):
        ap, before = mine.per_class[column], base.per_class[column] if base else None
        drop = before - ap if before is not None else None
        per_class[name] = ClassAp(ap, before, drop)
        if drop is not None and drop > 0:
            lost.append((name, drop))
    return Quality(
        dataset=f"{dataset.name} {dataset.split}",
        images=mine.images,
        map=mine.map,
        map_interval=map_interval(engine["scores"], labels, resamples=RESAMPLES),
        map_reference=base.map if base else None,
        map_drop=base.map - mine.map if base else None,
        map_drop_interval=interval,
        cf1=mine.cf1,
        of1=mine.of1,
        cf1_reference=base.cf1 if base else None,
        of1_reference=base.of1 if base else None,
        top=Top(TOP_K, mine.top.cf1, mine.top.of1),
        threshold=threshold,
        convention=mine.convention,
        ties=mine.ties,
        per_class=per_class,
        worst=tuple(sorted(lost, key=lambda pair: -pair[1])[:WORST]),
    )
