"""Bundles + images → a ``Result``: what the engines cost and what they are worth."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from edge.bundle import Bundle, newest
from edge.data import REPORT, Dataset, match_labels, open_dataset
from edge.engine import Engine
from edge.errors import EdgeError
from edge.events import SILENT, Events
from edge.fit import check_fit
from edge.measure import latency
from edge.measure.outputs import sample
from edge.models import GENERATED_DATA
from edge.reading import read_whole
from edge.report import gate, text
from edge.report.engine import Judge, bench_engine, noise
from edge.report.options import BenchOptions
from edge.report.page import Photo
from edge.report.result import Compared, Result

ENGINES = Path("engines")
DEFAULT_BATCH = 8
MAX_BASELINE = 256 << 20  # bytes
SCENES_WEIGHTS = "mcar-mobilenetv2-scenes"  # the only ones with a data set when bundles did not name it yet


@dataclass(frozen=True)
class Bench:
    """A result, and what a page shows besides: the baseline, and photographs of the first engine's
    regions."""

    result: Result
    baseline: Result | None = None
    photos: tuple[Photo, ...] = ()


def bench(options: BenchOptions, events: Events = SILENT) -> Bench:
    """Measure every bundle, compare several interleaved, judge them by the gate.

    Raises:
        EdgeError: what can be refused, before the first engine is measured. The gate is judged, not
            enforced.
    """
    conditions = gate.parse(options.fail_on) if options.fail_on is not None else ()
    baseline = _read_baseline(options.baseline) if options.baseline else None
    bundles = [Bundle.read(path) for path in options.bundle or (_newest(),)]
    sizes = _fitting(options.batch, bundles)
    for bundle in bundles[1:]:  # the first one when it is loaded
        bundle.verify()
        check_fit(bundle)
    opened = cache(partial(_opened, images=options.images))
    judges = [judge_of(options, bundle, opened) for bundle in bundles]
    labelled = all(judge.labelled(bundle) for bundle, judge in zip(bundles, judges, strict=True))
    staged = all(bundle.stages is not None for bundle in bundles)
    if options.effort is not None and not staged:
        raise EdgeError("bench", f"`effort` is {options.effort:g}, but this engine has no second stage", "Leave it out")
    looked = staged and all(judge.dataset is not None for judge in judges)
    gate.check_needs(conditions, accuracy=labelled, looked=looked, baseline=baseline, batch=max(sizes))
    benches = [bench_engine(bundle, sizes, judge, options, events) for bundle, judge in zip(bundles, judges, strict=True)]
    results = [result for result, _ in benches]
    result, titles, several = results[0], text.names(results), len(bundles) > 1
    if several:
        compared = _compare([bundle.path for bundle in bundles], max(sizes), options.plan, events)
        result = replace(result, engines=tuple(results), comparison=compared)
    if baseline is not None:
        result = replace(result, baseline=text.changes(result, baseline, str(options.baseline)))
    gates = [
        outcome
        for title, one in zip(titles, results, strict=True)
        for outcome in gate.check(conditions, one, baseline, engine=title if several else None)
    ]
    return Bench(replace(result, gates=tuple(gates)), baseline, benches[0][1])


def judge_of(options: BenchOptions, bundle: Bundle, opened: Callable[[str], Dataset]) -> Judge:
    """The images to judge a bundle on: those asked for, else its own.

    Args:
        opened: opens a data set by its specification.
    """
    if options.no_accuracy:
        return Judge()
    # Older bundles say neither: there the name of the weights tells.
    title = str(bundle.manifest.get("weights"))
    trained = bundle.manifest.get("trained", not title.endswith("-random"))
    default = bundle.manifest.get("default_dataset", GENERATED_DATA if title == SCENES_WEIGHTS or not trained else None)
    spec = options.dataset or default
    if not isinstance(spec, str):
        return Judge(None, ("no accuracy: these weights have no default data set; set `dataset`",))
    if not trained and options.dataset is None:
        return Judge(opened(spec), ("no mAP: the weights are random; drift only",))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        matched = match_labels(opened(spec), bundle.model.labels, owner="the bundle")
    return Judge(matched, tuple(str(one.message) for one in caught))


def _opened(spec: str, *, images: int) -> Dataset:
    dataset = open_dataset(spec, REPORT)
    return dataset.subset(sample(len(dataset), images))


def _compare(paths: Sequence[Path], batch: int, plan: latency.Plan, events: Events) -> tuple[Compared, ...]:
    """The bundles interleaved, as paired ratios to the first; one named twice is compared with
    itself."""
    with ExitStack() as opened, events.progress("compare", "turn") as progress:
        turns = {}
        for number, path in enumerate(paths):
            engine = opened.enter_context(Engine.load(path, effort=1))
            images = noise(engine.bundle.image, batch)
            turns[str(number)] = latency.timed(partial(engine.infer, images))
        rounds = latency.interleave(turns, rounds=plan.rounds, turn_s=plan.turn_s, plan=plan, progress=progress)
    compared = []
    for number, path in enumerate(paths):
        found, p50 = rounds.compare(str(number), "0"), rounds.latency(str(number)).percentile_ms(50)
        verdict = found.verdict if number else "the first"
        compared.append(Compared(str(path), p50, found.ratio, found.interval, len(found.ratios), verdict))
    return tuple(compared)


def _fitting(wanted: Sequence[int], bundles: Sequence[Bundle]) -> list[int]:
    """The batches to measure, rising; the same for all bundles, so that they can be compared."""
    least = min(bundles, key=lambda bundle: bundle.target.max_batch)
    most = least.target.max_batch
    batches = sorted(set(wanted or [min(DEFAULT_BATCH, most)]))
    if max(batches) > most:
        problem = f"`batch` is {max(batches)}, and {least.path} takes at most {most}"
        raise EdgeError("bench", problem, f"Lower `batch`, or build with one of {max(batches)}")
    return batches


def _newest() -> Path:
    found = newest(ENGINES)
    if found is None:
        raise EdgeError("bench", f"There is no bundle under {ENGINES}/", "Build one: python -m edge.build")
    return found


def _read_baseline(path: Path) -> Result:
    fix = "Set `baseline` to a file written by python -m edge.bench --json"
    try:
        content = json.loads(read_whole(path, MAX_BASELINE))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)[:120]
        raise EdgeError("bench", f"Cannot read the baseline {path}: {why}", fix) from error
    if not isinstance(content, dict) or "latency_ms" not in content:
        raise EdgeError("bench", f"The baseline {path} was not written by python -m edge.bench --json", fix)
    return Result.from_plain(content)
