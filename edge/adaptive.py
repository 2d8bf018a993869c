"""What a build decides about the second pass: where it looks, how much, and the thresholds of
labels that go with that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edge import backends
from edge.backends.base import Facts
from edge.bundle import Bundle
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import Events
from edge.graph import Outputs
from edge.options import AUTO, MAX_EFFORT_DROP, BuildOptions, deciding, refuse_unread
from edge.spec import RuleSpec, StagesSpec, from_plain, to_plain

if TYPE_CHECKING:
    from calib.effort import FittedEffort
    from edge.data import Dataset
    from edge.models.source import Source

ASSETS = Path(__file__).resolve().parent / "assets"
VALIDATION = "validation"  # the split that decides, where a data set has one
MOST_IMAGES = 2000
BATCH = 8
REFIT = "Set `dataset` to scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT or coco2014:ROOT with labels, or `effort` to a number"


@dataclass(frozen=True)
class Origin:
    """What of the weights decides on which images may judge them.

    Attributes:
        digest: SHA-256.
        shipped: their name, where they come with the project.
        trained: False for random ones.
        held_out: whether a part of the train split is known that they have not seen.
        dataset: to decide on by default.
        automatic: whether the effort is decided where none is asked for.
    """

    digest: str
    shipped: str | None
    trained: bool
    held_out: bool
    dataset: str | None
    automatic: bool

    @classmethod
    def of_source(cls, source: Source) -> Origin:
        trained = source.trained and source.named
        held_out = trained and (source.shipped is not None or source.data is not None)  # the part that edge.train always cuts off
        return cls(source.digest, source.shipped, trained, held_out, deciding(source.default_dataset), automatic=held_out)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Origin:
        """As its manifest tells, which names a shipped file no longer: a rebuild keeps what came
        from that."""
        manifest = bundle.manifest
        held_out = manifest.get("held_out") is True
        return cls(
            str(manifest.get("parents", {}).get("weights")), None, bool(manifest.get("trained", True)), held_out, None, automatic=False
        )


Decide: TypeAlias = Callable[[Bundle, Origin, BuildOptions, Events], Facts]  # a complete bundle → further keys of its manifest


def check_effort(origin: Origin, options: BuildOptions) -> None:
    """Refuse, before the work, an effort that nothing could judge."""
    if options.effort is None and not origin.automatic:
        refuse_unread(options.given & {"max_effort_drop"}, "where every region is processed", "set `effort` to auto")
    if options.effort != AUTO:
        return
    if not origin.trained:
        raise EdgeError("build", "`effort` auto measures mAP, which needs trained weights with named classes", "Set `effort` to a number")
    if deciding(options.dataset) is None and origin.dataset is None and not _table(origin):
        raise EdgeError("build", "`effort` auto needs labelled images, and there is no data set", REFIT)


def check_stages(stages: StagesSpec | None, options: BuildOptions) -> None:
    """Refuse an effort for an engine that has no second stage."""
    if stages is None and options.effort not in (None, 1):
        raise EdgeError("build", f"`effort` is {options.effort}, but this engine has no second stage", "Leave it out, or set it to 1")


def decide(bundle: Bundle, origin: Origin, options: BuildOptions, events: Events) -> Facts:
    """The manifest keys ``stages``, ``model``, ``thresholds`` and ``effort`` of a bundle that is
    complete but for them, if they change.

    Args:
        bundle: loadable.
    """
    stages = bundle.stages
    if stages is None or (options.effort is None and not origin.automatic):
        return {}
    given = deciding(options.dataset)
    images = _validation(given, bundle, origin, options)
    if images is None and options.max_effort_drop is None and _belongs(_table(origin), bundle, origin):
        return _shipped(bundle, stages, _table(origin), options, events)
    if given is None:
        images = _validation(origin.dataset, bundle, origin, options)
    if images is None and options.effort == AUTO:
        problem = f"`effort` auto needs labelled images: the shipped table is not for {bundle.image.size} px and these options"
        raise EdgeError("build", problem, REFIT)
    if images is None:  # nothing judges: as much as was asked for
        effort = stages.effort if options.effort is None else float(options.effort)
        return {"stages": to_plain(replace(stages, effort=effort))}
    fitted = _fitted(bundle, images, origin, options, events)
    return keys_of(bundle, stages, fitted)


def keys_of(bundle: Bundle, stages: StagesSpec, fitted: FittedEffort) -> Facts:
    """The manifest keys ``stages``, ``model``, ``thresholds`` and ``effort`` of a bundle with that
    rule and effort."""
    facts = asdict(fitted)
    del facts["rule"], facts["thresholds"], facts["full_thresholds"]
    return _keys(bundle, stages, fitted.rule, fitted.effort, fitted.thresholds, fitted.full_thresholds, facts)


def kept(stages: StagesSpec | None, old: Bundle) -> StagesSpec | None:
    """The stages of a rebuilt bundle, with the rule, the effort and the thresholds of the old
    one."""
    if stages is None or old.stages is None:
        return stages
    return replace(stages, rule=old.stages.rule, effort=old.stages.effort, thresholds=old.stages.thresholds)


def _keys(
    bundle: Bundle,
    stages: StagesSpec,
    rule: RuleSpec,
    effort: float,
    thresholds: tuple[float, ...],
    full_thresholds: tuple[float, ...],
    facts: Facts,
) -> Facts:
    return {
        "stages": to_plain(replace(stages, rule=rule, effort=effort, thresholds=thresholds)),
        "model": to_plain(replace(bundle.model, thresholds=full_thresholds)),
        "thresholds": {"thresholds": list(full_thresholds), "data": rule.fitted_on.get("data")},
        "effort": dict(facts),
    }


# The table that comes with shipped weights.


def _table(origin: Origin) -> Facts:
    """``<name>.effort.json``; empty where there is none."""
    path = ASSETS / f"{origin.shipped}.effort.json"
    if origin.shipped is None or not path.is_file():
        return {}
    content: Facts = json.loads(path.read_bytes())
    return content


def _belongs(table: Facts, bundle: Bundle, origin: Origin) -> bool:
    """Whether a table was made for these weights, at their size and with their options."""
    made_for = [table.get(name) for name in ("weights", "size", "options")]
    return made_for == [origin.digest, bundle.image.size, dict(bundle.model.options)]


def _shipped(bundle: Bundle, stages: StagesSpec, table: Facts, options: BuildOptions, events: Events) -> Facts:
    made = table["int8" if bundle.target.precision == "int8" else "float"]
    effort = made["effort"] if options.effort in (None, AUTO) else float(options.effort)
    low, high = made["judged"]["interval"]
    judged = f"{made['judged']['looks']:.2f} regions per image, Δ mAP {0 - made['judged']['drop']:+.2f} [{0 - high:+.2f}, {0 - low:+.2f}]"
    events.say("effort", f"{effort:g}, from the table shipped with the weights ({made['effort']:g}: {judged})")
    rule = from_plain(RuleSpec, made["rule"])
    return _keys(bundle, stages, rule, effort, tuple(made["thresholds"]), tuple(made["full_thresholds"]), made["judged"])


# Fitting.


def _validation(dataset: str | None, bundle: Bundle, origin: Origin, options: BuildOptions) -> Dataset | None:
    """Labelled images that were not trained on: a split of their own, else the part that edge.train
    holds out. None without."""
    from calib.effort import FOLDS
    from edge.data import match_labels, open_dataset, validation_split

    if dataset is None or not origin.trained:
        return None
    train = open_dataset(dataset, "train", seed=options.seed)
    found = None
    if train.labels is not None:
        found = open_dataset(dataset, VALIDATION, seed=options.seed) if VALIDATION in train.splits else validation_split(train)[1]
        found = match_labels(found, bundle.model.labels)
    if options.effort == AUTO and (found is None or len(found) < FOLDS):
        has = "has no labels" if found is None else f"holds out {len(found)}"
        raise EdgeError("build", f"`effort` auto needs labelled images, and {dataset} {has}", REFIT)
    return found.subset(range(min(len(found), MOST_IMAGES))) if found is not None and len(found) >= FOLDS else None


def _fitted(bundle: Bundle, images: Dataset, origin: Origin, options: BuildOptions, events: Events) -> FittedEffort:
    """The rule and the effort as images decide."""
    from calib.effort import FEWEST, fit_effort

    assert images.labels is not None
    if not origin.held_out:
        events.warn("the weights may have been trained on the images that choose `effort`, so its Δ mAP may mean nothing")
    if len(images) < FEWEST:
        events.warn(f"{len(images)} images choose `effort`; with fewer than {FEWEST} its Δ mAP is mostly noise")
    outputs, backend = _outputs(bundle, images, events)
    fitted_on = {
        "backend": backend,
        "precision": bundle.target.precision,
        "data": f"{images.name}, {len(images)} validation images",
        "digest": images.digest,
    }
    judged = options.effort in (None, AUTO)
    fitted = fit_effort(
        outputs,
        images.labels,
        bundle.image.size,
        effort=None if judged else float(options.effort or 0),
        max_drop=MAX_EFFORT_DROP if options.max_effort_drop is None else options.max_effort_drop,
        fitted_on=fitted_on,
    )
    events.say("effort", str(fitted))
    return fitted


def _outputs(bundle: Bundle, images: Dataset, events: Events) -> tuple[Outputs, str]:
    """What the engine says of every region of the images, and the backend that said it: another
    stands in where it does not run here."""
    from edge.data import batches
    from edge.measure.outputs import collect

    target = bundle.target
    if backends.probe(target.backend).reason:
        from calib.trials import Trials

        with Trials(images, target) as trials:
            events.warn(f"{target.backend} does not run here, so {trials.target.backend} is used to choose `effort`")
            return trials.run(bundle.graph(), each=True), trials.target.backend
    with Engine.load(bundle.path) as engine, events.progress("effort") as report:
        size = min(BATCH, target.max_batch)
        return collect(engine.infer_each, batches(images, bundle.image, size), len(images), progress=report).outputs, target.backend
