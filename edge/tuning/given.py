"""What a search needs before any work: the weights, the images that decide, the engines that may be
tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge import __version__, backends
from edge.bundle import Bundle
from edge.data import Dataset, match_labels, open_dataset, validation_split
from edge.errors import EdgeError
from edge.events import Events
from edge.manifest import digest_json
from edge.measure import energy
from edge.measure.outputs import sample
from edge.options import BuildOptions, deciding
from edge.spec import PRECISIONS
from edge.tuning.budget import Budget, bounds_accuracy
from edge.tuning.options import TuneOptions
from edge.tuning.search import Space
from edge.tuning.trial import Candidate

if TYPE_CHECKING:
    from edge.models.source import Source

VALIDATION = "validation"  # the split that decides, where a data set has one
FORMAT = 4  # of a trial's folder: raise it when trials of older code may not be read
MOST_IMAGES = 500  # that decide
MOST_MORE = 2000  # on which the choice is judged again, and what the fewer images leave unsure
FEWEST_IMAGES = 5
FEWEST_SURE = 300  # below which a user should know how little they tell
SMALLER = (0.875, 0.75, 0.5)  # of the own size, to try besides
CHEAPEST_FIRST = tuple(reversed(PRECISIONS))


@dataclass(frozen=True)
class Given:
    """What all trials share.

    Attributes:
        options: of the weights, with ``dataset`` where there is one.
        images: validation images, whose labels are in the order of the model's; to time on where
            ``judged`` is False.
        more: these and others, to judge again on; None where there are no more, or no labels.
        judged: whether these labels say what scores are worth.
        folder: of the trials.
        digest: of the weights.
        metrics: that are asked for.
    """

    options: BuildOptions
    batch: int
    images: Dataset
    more: Dataset | None
    judged: bool
    staged: bool
    folder: Path
    digest: str
    metrics: frozenset[str]

    def key(self, first: Candidate) -> str:
        """A digest of all that decides what a trial finds, but for its candidate.

        Args:
            first: of ``Space``, what the drops are counted from.
        """
        read = ("model", "labels", "threshold", "pooling", "dataset", "calib_method", "calib_images", "repair", "seed")
        machine = [[name, support.version, support.device] for name in backends.BACKENDS if not (support := backends.probe(name)).reason]
        return digest_json(
            {
                "version": [__version__, FORMAT],
                "weights": self.digest,
                "images": [self.images.digest, self.more and self.more.digest],
                "batch": self.batch,
                "own": [first.size, first.regions],
                "options": {name: str(vars(self.options)[name]) for name in read},
                "machine": machine,
            }
        )[:8]


def fitted_on(bundle: Bundle, images: Dataset) -> dict[str, str]:
    """What a rule for the second pass comes from, as its manifest says it."""
    data = f"{images.name}, {len(images)} validation images"
    return {"backend": bundle.target.backend, "precision": bundle.target.precision, "data": data, "digest": images.digest}


def prepare(
    options: BuildOptions,
    asked: TuneOptions,
    conditions: Budget,
    folder: Path,
    events: Events,
) -> tuple[Given, Space, str]:
    """What all trials share, what is tried, and the objective.

    Raises:
        EdgeError: a budget that cannot be judged here.
    """
    metrics = frozenset({condition.metric for condition in conditions} | ({asked.minimise} if asked.minimise else set()))
    usable = _backends(asked)
    _check_meter(metrics, usable)
    from edge.models.source import open_source

    source = open_source(
        options.weights,
        model=options.model,
        labels=Path(options.labels) if options.labels else None,
        options={name: vars(options)[name] for name in ("pooling", "threshold") if vars(options)[name] is not None},
        seed=options.seed,
    )
    judging = bounds_accuracy(conditions) or asked.minimise == "map_drop"
    more, judged = _validation(options, source, judging=judging)
    images = more.subset(sample(len(more), MOST_IMAGES))
    for warning in source.warnings:
        events.warn(warning)
    if not judged and not judging:
        events.warn("there are no labels to choose an effort by, so every engine processes all regions")
    if judged and len(images) < FEWEST_SURE:
        events.warn(f"only {len(images)} images decide, so a loss of mAP is known to about half a point")
    minimise = asked.minimise or ("map_drop" if judged and not bounds_accuracy(conditions) else "mean")
    own, regions = source.image.size, source.model.options.get("regions")
    staged = isinstance(regions, int)
    smaller = tuple(max(32, round(own * share / 32) * 32) for share in SMALLER)
    fewer = (max(1, regions // 2),) if isinstance(regions, int) else ()
    space = Space(
        usable,
        tuple(name for name in CHEAPEST_FIRST if name in (asked.precisions or PRECISIONS)),
        _own_first(own, asked.sizes or (own, *smaller)),
        _own_first(regions, asked.regions or (regions, *fewer)) if isinstance(regions, int) else (None,),
        Candidate(usable[0], PRECISIONS[0], own, regions if isinstance(regions, int) else None),
    )
    given = Given(
        options, asked.batch, images, more if judged and len(more) > len(images) else None, judged, staged, folder, source.digest, metrics
    )
    return given, space, minimise


def _backends(asked: TuneOptions) -> tuple[str, ...]:
    """Those that are to be tried, all of which work here."""
    if asked.backends:
        for name in asked.backends:
            backends.require(name)
        return asked.backends
    first = backends.automatic()
    return (first, *(name for name in backends.BACKENDS if name != first and not backends.probe(name).reason))


def _check_meter(metrics: frozenset[str], usable: tuple[str, ...]) -> None:
    if "energy" not in metrics:
        return
    for name in usable:
        source, why = energy.find(gpu=backends.backend(name).on_gpu)
        if source is None:
            raise EdgeError("tune", f"Energy cannot be measured for {name} here: {why}", "Remove energy from `budget` and `minimise`")


def _own_first(own: int, values: Iterable[int]) -> tuple[int, ...]:
    """The own one, what is smaller, what is larger: each as near as may be to the own one, for
    there the mAP is."""
    return tuple(sorted(set(values), key=lambda value: (value > own, abs(value - own))))


def _validation(options: BuildOptions, source: Source, *, judging: bool) -> tuple[Dataset, bool]:
    """Images that decide, and whether their labels do: never those that are only reported.

    Args:
        judging: whether labels must be there.
    """
    dataset = options.dataset or deciding(source.default_dataset)
    why = fix = ""
    if dataset is None:
        why, fix = "no labelled images are given", "Set `dataset` to scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT or coco2014:ROOT"
    elif not source.trained:
        why, fix = "random weights have none", "Use trained `weights`, or a `budget` without mAP"
    elif not source.named:
        why, fix = "the weights do not name their classes", "Set `labels` to a file of class names, one per line"
    if dataset is None or (why and judging):
        raise EdgeError("tune", f"{'The budget needs mAP' if judging else 'Engines are timed on images'}, and {why}", fix)
    train = open_dataset(dataset, "train", seed=options.seed)
    found = open_dataset(dataset, VALIDATION, seed=options.seed) if VALIDATION in train.splits else validation_split(train)[1]
    judged = not why and found.labels is not None
    if judged:
        found = match_labels(found, source.model.labels)
    if judging and (not judged or len(found) < FEWEST_IMAGES):
        has = f"holds out {len(found)} images" if judged else "has no labels"
        raise EdgeError("tune", f"The budget needs labelled images, and {dataset} {has}", "Use another `dataset`")
    return found.subset(sample(len(found), MOST_MORE)), judged and len(found) >= FEWEST_IMAGES
