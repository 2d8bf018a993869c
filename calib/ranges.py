"""Ranges of activations, observed on images."""

from __future__ import annotations
from dataclasses import dataclass
from collections.abc import Mapping
from calib.histogram import Histogram
from edge.graph import Graph


@dataclass(frozen=True)
class Calibration:
    graph: str
    ranges: Mapping[str, Histogram]
    digest: str = "0"

    def check_belongs(self, graph: Graph) -> None: ...
