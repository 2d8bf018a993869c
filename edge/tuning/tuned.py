"""From a budget to the bundle that meets it: checks, the search, the bundle with the yardstick, the
report on test images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge import adaptive
from edge.atomic import check_folder_writable, clear_folder, folder_written_atomically
from edge.backends.base import Facts
from edge.bundle import REFERENCE, Bundle
from edge.errors import EdgeError
from edge.events import SILENT, Events
from edge.folder import copy_folder
from edge.manifest import NAME, check_replaceable, read_manifest, write_manifest
from edge.options import BuildOptions, refuse_unread
from edge.packages import check_host_packages
from edge.plain import Json, to_plain
from edge.report.bench import bench
from edge.report.options import BenchOptions
from edge.report.result import Result
from edge.tuning import budget as budgets
from edge.tuning.given import Given, fitted_on, prepare
from edge.tuning.laboratory import RealLaboratory
from edge.tuning.options import TuneOptions
from edge.tuning.search import Row, search
from edge.tuning.trial import Candidate, Choice, Miss, choices, misses

if TYPE_CHECKING:
    pass

# Fields of a build that the search decides on, and a table that is of one graph only.
UNREAD = frozenset(
    {"backend", "precision", "size", "regions", "batch", "effort", "max_effort_drop", "max_map_drop"}
    | {"tensorrt", "compute_capability", "calibration"}
)


@dataclass(frozen=True)
class Tuned:
    """What came of a budget.

    Attributes:
        bundle: that meets it; None where nothing does.
        minimise: the metric that decided among what fits.
        rows: the table, in the order of the trials.
        best: the trial that became the bundle, as measured on validation images.
        points: everything that was measured.
        misses: where nothing fits, a condition each; the first is the one to relax first.
        result: of the bundle on the images that are only reported, as ``edge.bench`` gives it.
        trials: the folder of all of them.
    """

    bundle: Bundle | None
    budget: budgets.Budget
    minimise: str
    batch: int
    rows: tuple[Row, ...]
    best: Choice | None
    points: tuple[Choice, ...]
    misses: tuple[Miss, ...]
    result: Result | None
    trials: Path

    def plain(self) -> dict[str, Json]:
        """The content of the JSON file."""
        return {
            "bundle": None if self.bundle is None else str(self.bundle.path),
            "budget": [condition.text for condition in self.budget],
            "minimise": self.minimise,
            "batch": self.batch,
            "chosen": None if self.best is None else {"trial": self.best.trial.candidate.name, **to_plain(self.best.point)},
            "table": [
                {
                    "trial": row.candidate.name,
                    "candidate": to_plain(row.candidate),
                    "effort": row.choice.point.effort if row.choice else None,
                    "figures": {name: row.choice.figure(name) for name in budgets.UNITS} if row.choice else None,
                    "verdict": row.why,
                }
                for row in self.rows
            ],
            "points": [{"trial": one.trial.candidate.name, "size_mb": one.trial.size_mb, **to_plain(one.point)} for one in self.points],
            "misses": [
                {
                    "condition": one.condition.text,
                    "nearest": None if one.choice is None else one.choice.name,
                    "measured": None if one.choice is None else one.choice.figure(one.condition.metric),
                    "needed": None if one.choice is None else one.choice.needed(one.condition),
                    "misses_by": one.by if math.isfinite(one.by) else None,
                }
                for one in self.misses
            ],
            "trials": str(self.trials),
            "result": None if self.result is None else self.result.plain(),
        }


def tune(
    options: BuildOptions,
    budget: budgets.Budget | str,
    asked: TuneOptions | None = None,
    *,
    events: Events = SILENT,
) -> Tuned:
    """Search the engine that meets a budget, and write it as the bundle ``options.output``.

    Args:
        options: the weights, the data set that decides, how int8 is calibrated, and the output;
            what the search decides on is refused.
        budget: conditions, or their text.
        asked: what is searched.

    Raises:
        EdgeError: what can be refused, before any work. Where nothing fits there is no error, and
            no bundle.
    """
    asked = TuneOptions() if asked is None else asked
    conditions = budgets.parse(budget, asked.batch) if isinstance(budget, str) else budget
    unread = options.given & UNREAD
    refuse_unread(unread, "in a search that decides on it or calibrates many graphs", "build with it by python -m edge.build")
    if options.output is None:
        raise EdgeError("tune", "`output` is missing, and trials are kept beside it", "Set `output` to a folder")
    output = Path(options.output)
    check_replaceable(output, replace=options.force)
    folder = output.with_name(f"{output.name}.trials")
    check_folder_writable(folder)
    for place in (folder, *folder.glob("*")):
        clear_folder(place)
    check_host_packages()
    given, space, minimise = prepare(options, asked, conditions, folder, events)
    laboratory = RealLaboratory(given, space.first, events)
    ends = time.monotonic() + 60 * asked.minutes
    found = search(
        laboratory,
        space,
        conditions,
        minimise,
        may_start=lambda seconds: time.monotonic() + seconds < ends,
        tell=lambda row: events.say("trial", f"{row.choice.name if row.choice else row.candidate.name}: {row.why}"),
    )
    everything = choices(found.trials)
    if found.best is None:
        return Tuned(
            None, conditions, minimise, asked.batch, found.rows, None, tuple(everything), misses(everything, conditions), None, folder
        )
    chosen = _write(folder / "chosen", laboratory, found.best, given, space.first, conditions, minimise)
    decided = len(laboratory.judged_on(found.best.trial.candidate)[1]) if given.judged else 0
    images = asked.images or max(BenchOptions.images, decided)
    report = BenchOptions((chosen,), (asked.batch,), dataset=options.dataset, images=images, no_accuracy=not given.judged, plan=asked.plan)
    result = bench(report, events).result
    with folder_written_atomically(output, partial(check_replaceable, replace=options.force)) as fresh:
        copy_folder(chosen, fresh)
    bundle = Bundle.read(output)
    bundle.verify()
    return Tuned(bundle, conditions, minimise, asked.batch, found.rows, found.best, tuple(everything), (), result, folder)


# The bundle.


def _write(
    path: Path, laboratory: RealLaboratory, best: Choice, given: Given, first: Candidate, conditions: budgets.Budget, minimise: str
) -> Path:
    """The chosen trial at its effort, with the given weights in FP32 as its reference."""
    source, own = laboratory.bundle_of(best.trial.candidate), Bundle.read(laboratory.bundle_of(first))
    content: Mapping[str, Json] = {
        **{name: value for name, value in read_manifest(source).items() if name not in ("schema", "files")},
        **_second_pass(laboratory, best, given),
        "reference": {"image": own.manifest["image"], "regions": first.regions},
        "tuned": {"budget": [one.text for one in conditions], "minimise": minimise, "validation": to_plain(best.point)},
    }
    with folder_written_atomically(path, partial(check_replaceable, replace=True)) as fresh:
        copy_folder(source, fresh)
        (fresh / NAME).unlink()
        (fresh / REFERENCE).write_bytes(own.read_file(REFERENCE))
        write_manifest(fresh, content)
    return path


def _second_pass(laboratory: RealLaboratory, best: Choice, given: Given) -> Facts:
    """Manifest keys: the rule, the chosen effort, and the thresholds of labels there and at effort
    1, all by the images that the choice was judged on."""
    bundle = Bundle.read(laboratory.bundle_of(best.trial.candidate))
    if bundle.stages is None:
        return {}
    if not given.judged:
        return {"stages": to_plain(replace(bundle.stages, effort=best.point.effort))}
    from calib.effort import fit_effort

    outputs, images = laboratory.judged_on(best.trial.candidate)
    assert images.labels is not None
    fitted = fit_effort(outputs, images.labels, bundle.image.size, effort=best.point.effort, fitted_on=fitted_on(bundle, images))
    if images is given.images:  # the rule that was measured, which may come from another backend's outputs
        fitted = replace(fitted, rule=bundle.stages.rule)
    return adaptive.keys_of(bundle, bundle.stages, fitted)
