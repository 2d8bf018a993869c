"""What may be searched, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.backends import BACKENDS
from edge.errors import EdgeError, one_of
from edge.measure.latency import Plan
from edge.options import BuildOptions
from edge.report.options import STANDARD
from edge.spec import PRECISIONS
from edge.tuning.budget import OBJECTIVES


@dataclass(frozen=True)
class TuneOptions:
    """What is searched, and for how long.

    Attributes:
        batch: images of a call.
        sizes, regions, precisions, backends: to try; empty for the own size and three smaller, the
            own number of regions and half of it, all precisions, and all backends that work here.
        minimise: of what fits; None: ``mean`` where the budget says something about mAP, else
            ``map_drop`` where there are labels.
        minutes: after which no trial begins.
        images: test images, at most, of the report; None: 500, or as many as the choice was
            judged on where those are more.
        plan: how long the report measures.

    Raises:
        EdgeError: a value out of range.
    """

    batch: int = 1
    sizes: tuple[int, ...] = ()
    regions: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    minimise: str | None = None
    minutes: float = 30.0
    images: int | None = None
    plan: Plan = STANDARD

    def __post_init__(self) -> None:
        for name, values, allowed in (
            ("precisions", self.precisions, PRECISIONS),
            ("backends", self.backends, tuple(BACKENDS)),
            ("minimise", (self.minimise,) if self.minimise is not None else (), OBJECTIVES),
        ):
            for value in values:
                if value not in allowed:
                    raise EdgeError("tune", f"`{name}` has {value!r}", f"Use {one_of(allowed)}")
        if not (0 < self.minutes < math.inf):
            raise EdgeError("tune", f"`minutes` is {self.minutes:g}", "Use a value above 0")
        for size in self.sizes:
            BuildOptions(size=size)
        for regions in self.regions:
            BuildOptions(regions=regions)
        BuildOptions(batch=self.batch)
        if self.images is not None and self.images < 1:
            raise EdgeError("tune", f"`images` is {self.images}", "Use 1 or more")
