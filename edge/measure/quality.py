"""Accuracy, drop and drift of an engine as the bench's JSON holds them."""

from __future__ import annotations

from typing import Any

from edge.data import Dataset
from edge.measure.accuracy import evaluate, map_drop_interval, map_interval
from edge.measure.outputs import Outputs
from edge.measure.regions import Drift, drift

WORST = 3
RESAMPLES = 500


def accuracy(engine: Outputs, reference: Outputs | None, dataset: Dataset, threshold: float) -> dict[str, Any] | None:
    """mAP, drop with its paired interval, rates and per-class AP; None for unlabelled images.

    Args:
        engine, reference: outputs over all of ``dataset``, in its order; the reference is the graph in FP32.
        dataset: its classes are the model's labels.
        threshold: of CF1 and OF1.
    """
    if dataset.labels is None:
        return None
    mine = evaluate(engine.scores, dataset.labels, threshold=threshold)
    base = evaluate(reference.scores, dataset.labels, threshold=threshold) if reference is not None else None
    low, high = map_interval(engine.scores, dataset.labels, resamples=RESAMPLES)
    facts: dict[str, Any] = {
        "dataset": f"{dataset.name} {dataset.split}",
        "images": mine.images,
        "map": mine.map,
        "map_interval": [low, high],
        "map_reference": base.map if base else None,
        "map_drop": base.map - mine.map if base else None,
        "map_drop_interval": None,
        "cf1": mine.cf1,
        "of1": mine.of1,
        "cf1_reference": base.cf1 if base else None,
        "of1_reference": base.of1 if base else None,
        "top": {"k": mine.topk, "cf1": mine.top.cf1, "of1": mine.top.of1},
        "threshold": threshold,
        "convention": mine.convention,
        "ties": mine.ties,
        "per_class": {},
        "worst": [],
    }
    if reference is not None:
        facts["map_drop_interval"] = list(map_drop_interval(reference.scores, engine.scores, dataset.labels, resamples=RESAMPLES))
    for column, name in enumerate(dataset.classes):
        ap, before = mine.per_class[column], base.per_class[column] if base else None
        facts["per_class"][name] = {"ap": ap, "ap_reference": before, "drop": before - ap if before is not None else None}
    if base:
        lost = sorted(((name, one["drop"]) for name, one in facts["per_class"].items()), key=lambda pair: -pair[1])
        facts["worst"] = [[name, drop] for name, drop in lost[:WORST] if drop > 0]
    return facts


def drifted(engine: Outputs, reference: Outputs | None) -> Drift | None:
    """Region drift against the reference; None for a model without regions or without a reference."""
    return drift(engine.values, reference.values) if reference is not None else None
