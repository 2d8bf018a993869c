"""Graph → int8 graph: calibration, repair, the gate and the thresholds that validation images
decide, a comparison of speeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from edge.backends.base import Facts
from edge.bundle import CALIBRATION
from edge.errors import EdgeError
from edge.events import Events
from edge.graph import Graph
from edge.options import CALIBRATION_IMAGES, REPAIRS, BuildOptions, deciding
from edge.spec import TargetSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calib.calibration import Calibration, Fitted
    from calib.trials import Trials
    from edge.data import Dataset
    from edge.models.source import Source

VALIDATION_IMAGES = 500  # at most: what a gate can tell apart, for the time it takes


@dataclass(frozen=True)
class Quantised:
    """An int8 graph, and what the bundle keeps of how it came about.

    Attributes:
        graph: with Q/DQ and, where validation images fitted them, decision thresholds.
        files: further files of the bundle, by name.
        facts: manifest keys ``calibration``, ``equalisation``, ``sensitivity``, ``thresholds``,
            ``latency``, as JSON types.
    """

    graph: Graph
    files: Mapping[str, bytes]
    facts: Facts


def quantise(graph: Graph, source: Source, target: TargetSpec, options: BuildOptions, events: Events) -> Quantised:
    """The int8 graph of a canonical fp32 graph.

    Args:
        graph: exported from ``source``.
        target: what the engine is for; where it cannot run here, another stands in for the gate and
            speeds are not compared.

    Raises:
        EdgeError: no images to calibrate on, or none that could judge; its kind ``GateError``:
            ``max_map_drop`` does not hold.
    """
    from calib.placement import quantize
    from calib.trials import Trials, runs_here

    dataset = _training_data(source, options)
    validation = _validation(dataset, source, options)
    start, calibration, train, facts = _calibrated(graph, source, dataset, options, events)
    repairs = _repairs(options, calibration, train, events)
    fitted = calibration.fitted if "rounding" in repairs else None
    if train is not None and "rounding" in repairs:
        fitted = _fitted(start, calibration, train, options, events)
        calibration = replace(calibration, fitted=fitted)
    facts["calibration"] = {
        "method": options.calib_method,
        "images": calibration.images,
        "data": dict(calibration.data),
        "digest": calibration.digest,
        "repairs": sorted(repairs),
    }
    events.say("int8", f"{options.calib_method} ranges of {calibration.images} images of {calibration.data.get('name')}")
    corrected = "bias-correction" in repairs

    def quantised(float_nodes: Collection[str] = ()) -> Graph:
        return quantize(start, calibration, method=options.calib_method, float_nodes=float_nodes, bias_correction=corrected, fitted=fitted)

    if validation is None:
        result = quantised()
    else:
        with Trials(validation, target) as trials:
            result, judged = _judged(quantised, graph, trials, target, options, events)
        facts |= judged
    if runs_here(target):
        facts["latency"] = _compared(result, graph, target, events)
    else:
        events.say("speed", f"not compared: {target.backend} does not run here")
    return Quantised(result, {CALIBRATION: calibration.text.encode()}, facts)


def check_gate(source: Source, options: BuildOptions) -> None:
    """Refuse a gate, before the work, where nothing could be judged; whether the images are
    labelled shows when they are opened."""
    if options.max_map_drop is None:
        return
    if not source.trained:
        raise EdgeError(
            "build", "`max_map_drop` measures mAP, which means nothing for random weights", "Leave it out, or use trained `weights`"
        )
    if not source.named:
        raise EdgeError("build", "`max_map_drop` needs class names, which the weights do not have", "Pass `labels` FILE")
    if _training_data(source, options) is None:
        raise _unjudged("there is no data set")


def _training_data(source: Source, options: BuildOptions) -> str | None:
    """What may be calibrated and decided on; of the images that are only there to judge by, the
    shipped table stands in."""
    return deciding(options.dataset or source.default_dataset)


def _unjudged(why: str) -> EdgeError:
    fix = "Set `dataset` to scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT or coco2014:ROOT"
    return EdgeError("build", f"`max_map_drop` needs labelled images, and {why}", fix)


def _validation(dataset: str | None, source: Source, options: BuildOptions) -> Dataset | None:
    """The part of the train split that decides on gate and thresholds; never the test split. None
    without a data set."""
    from edge.data import match_labels, open_dataset, validation_split

    labelled = None
    # Without class names nobody knows which column is which; without training there is nothing to
    # decide.
    if dataset is not None and source.named and source.trained:
        train = open_dataset(dataset, "train", seed=options.seed)
        if train.labels is not None:
            labelled = validation_split(match_labels(train, source.model.labels))[1]
            labelled = labelled.subset(range(min(len(labelled), VALIDATION_IMAGES)))
    if labelled is None and options.max_map_drop is not None:
        raise _unjudged(f"{dataset} has no labels")
    return labelled


def _calibrated(
    graph: Graph, source: Source, dataset: str | None, options: BuildOptions, events: Events
) -> tuple[Graph, Calibration, Dataset | None, Facts]:
    """The graph that is rounded, its ranges, the images there are and manifest facts.

    Ranges are those of a given table, of images, or of the table that comes with shipped weights.
    Without images, a table says how its graph was equalised.
    """
    from calib.calibration import Calibration
    from calib.equalise import equalise
    from calib.peaks import IMAGES, peaks
    from calib.ranges import PIXELS, calibrate
    from edge.data import batches, calibration_subset, open_dataset

    def equalised(peaks: Mapping[str, NDArray[np.floating]]) -> tuple[Graph, Facts]:
        if "equalisation" not in options.repair or not peaks:
            return graph, {}
        made = equalise(graph, peaks)
        return made.graph, {"equalisation": {"groups": list(made.groups), "skipped": dict(made.skipped)}}

    shipped = deciding(options.dataset) is None and options.calib_images is None
    path = options.calibration or (source.calibration_table if shipped else None)
    if path:
        table = Calibration.load(path)
        start, facts = equalised(table.peaks)
        if options.calibration or table.belongs_to(start):
            return start, table, None, facts
    if dataset is None:
        why = "; the shipped table is of another graph" if path else ""
        raise EdgeError(
            "build",
            f"INT8 needs calibration images, or a table made from some{why}",
            "Pass `dataset` SPEC (images:DIR is enough) or `calibration` FILE",
        )
    images = CALIBRATION_IMAGES if options.calib_images is None else options.calib_images
    train = open_dataset(dataset, "train", seed=options.seed)
    found: dict[str, NDArray[np.float32]] = {}
    if "equalisation" in options.repair and len(train):
        seen = train.subset(calibration_subset(train, min(images, IMAGES), options.seed))
        found = peaks(graph, (batch for _, batch in batches(seen, graph.image, max(1, PIXELS // graph.image.size**2))))
    start, facts = equalised(found)
    if facts:
        events.say("repair", f"channels equalised between convolutions in {len(facts['equalisation']['groups'])} places")
    with events.progress("calibrate") as report:
        calibration = calibrate(start, train, images=images, seed=options.seed, progress=report)
    missing = calibration.missing_classes()
    if missing:
        events.warn(f"no calibration image contains {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
    return start, replace(calibration, peaks=found), train, facts


def _repairs(options: BuildOptions, calibration: Calibration, train: Dataset | None, events: Events) -> set[str]:
    """Those asked for that can be made: of a table without images, those that it brings."""
    repairs = set(options.repair)
    if train is None:
        fitted = calibration.fitted is not None and calibration.fitted.method == options.calib_method
        brought = {"equalisation": bool(calibration.peaks), "rounding": fitted}
        dropped = [name for name in REPAIRS if name in repairs and not brought.get(name, True)]
        repairs -= set(dropped)
        if dropped:
            events.say("repair", f"without {' and '.join(dropped)}: it needs images, and the calibration table does not contain it")
    return repairs


def _fitted(start: Graph, calibration: Calibration, train: Dataset, options: BuildOptions, events: Events) -> Fitted:
    """Weights and biases fitted to some of the calibration images."""
    from calib.fit import fit, images_for
    from calib.ranges import PIXELS
    from edge.data import batches, calibration_subset

    count = min(images_for(start.image.size), calibration.images)
    subset = train.subset(calibration_subset(train, count, options.seed))
    images = (batch for _, batch in batches(subset, start.image, max(1, PIXELS // start.image.size**2)))
    with events.progress("rounding", "layer") as report:
        return fit(start, calibration, images, method=options.calib_method, progress=report)


def _judged(
    quantised: Callable[[Collection[str]], Graph], graph: Graph, trials: Trials, target: TargetSpec, options: BuildOptions, events: Events
) -> tuple[Graph, Facts]:
    """What validation images decide: the gate, where there is one, and the thresholds; the graph
    with both, and the facts."""
    from calib.sensitivity import hold_gate, units
    from calib.thresholds import fit_thresholds

    validation, facts = trials.dataset, {}
    assert validation.labels is not None
    if trials.stand_in:
        events.warn(f"{target.backend} does not run here, so {trials.target.backend} is used on the validation images")
    if options.max_map_drop is None:
        result = quantised(())
    else:
        with events.progress("sensitivity", "stage") as report:
            gated = hold_gate(
                quantised,
                units(graph),
                trials.run,
                trials.reference(graph),
                validation.labels,
                max_map_drop=options.max_map_drop,
                progress=report,
            )
        result = gated.graph
        facts["sensitivity"] = gated.plain()
        drop, count = gated.judgement.map_drop, len(validation)
        returned = f"; float: {', '.join(gated.returned)}" if gated.returned else ""
        events.say("gate", f"Δ mAP {0 - drop:+.2f}, limit {0 - options.max_map_drop:+g}, on {count} validation images{returned}")
    fitted = fit_thresholds(trials.run(result)["scores"], validation.labels)
    facts["thresholds"] = {**asdict(fitted), "data": f"{validation.name}, {len(validation)} validation images"}
    events.say("thresholds", f"{fitted.fitted} classes; CF1 {fitted.cf1_before:.1f} → {fitted.cf1:.1f} on the images of the fit")
    return replace(result, model=replace(result.model, thresholds=fitted.thresholds)), facts


def _compared(int8: Graph, fp32: Graph, target: TargetSpec, events: Events) -> dict[str, str | float]:
    """What int8 gains in time here, with a warning where that is nothing."""
    from calib.trials import compare_speed

    speed = compare_speed(int8, fp32, target)
    events.say("speed", str(speed))
    if speed.ratio >= 1:
        better = "fp32" if speed.reduced == "fp32" else "fp16"
        events.warn(f"int8 is no faster than {speed.reduced} here: {speed}. Consider `precision` {better}")
    return speed.plain()
