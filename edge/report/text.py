"""A bench result as text: a terminal table of at most 120 columns, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edge.charts import Bar
from edge.measure import machine
from edge.measure.energy import Energy
from edge.measure.quality import Quality
from edge.measure.stages import STAGES
from edge.report.gate import METRICS, OF_EFFORT
from edge.report.result import Changes, Outcome, Result
from edge.shown import in_markdown, plain

WIDTH = 120
Rows = Sequence[Sequence[str]]

COLUMNS = ("engine", "batch", "p50", "p90", "p99", "max", "img/s", "MB", "peak MB", "mAP", "Δ mAP [95%]", "CF1", "top-K", "IoU")
COSTS = COLUMNS.index("mAP")  # columns before tell what an engine costs, from here on what it is worth
LEGEND = "p50 … max in ms per batch, ! not valid; MB of the engine's files; Δ mAP: engine minus the graph in FP32, in points"
SPARE = ("max", "p90", "CF1", "peak MB")  # what a narrow terminal does without, first to last
EFFORT_COLUMNS = ("effort", "looks", "mAP", "mean", "p50", "p99", "max")
EFFORT_LEGEND = "* the engine's effort; looks: mean regions per image; ms per batch over the data set's images, interleaved"
SENSITIVE = 5  # parts of the network that a line names
_RIGHT = frozenset(COLUMNS[1:])


def terminal(result: Result) -> str:
    """The whole report for a terminal; no line is longer than ``WIDTH``."""
    lines = [*_wrapped("machine    " + machine.sentence(result.machine), indent=11), ""]
    lines += text_table(COLUMNS, engine_rows(result))
    lines += ["", LEGEND, ""]
    if result.effort:
        lines += [*text_table(EFFORT_COLUMNS, effort_rows(result), frozenset(EFFORT_COLUMNS)), "", EFFORT_LEGEND, ""]
    for name, value in facts(result):
        lines += _wrapped(f"{name:10} {value}", indent=11)
    return "\n".join(lines)


def markdown(result: Result) -> str:
    """The same as Markdown."""
    title = f"# {in_markdown(Path(result.bundle).name)}"
    parts = [title, "", f"Machine: {in_markdown(machine.sentence(result.machine))}.", "", *markdown_table(COLUMNS, engine_rows(result)), ""]
    parts += [f"{LEGEND}.", ""]
    if result.effort:
        parts += [*markdown_table(EFFORT_COLUMNS, effort_rows(result), frozenset(EFFORT_COLUMNS)), "", f"{EFFORT_LEGEND}.", ""]
    parts += [f"- **{name}**: {in_markdown(value)}" for name, value in facts(result)]
    if result.accuracy and result.accuracy.per_class:
        rows = [[name, number(one.ap), number(one.ap_reference), change(one.drop)] for name, one in result.accuracy.per_class.items()]
        parts += ["", "## Classes", "", *markdown_table(("class", "AP", "AP FP32", "Δ AP"), rows)]
    return "\n".join(parts) + "\n"


def engine_rows(result: Result) -> list[list[str]]:
    """One row per engine and batch, in the order of ``COLUMNS``."""
    rows = []
    for title, engine in zip(names(result.each), result.each, strict=True):
        accuracy, regions = engine.accuracy, engine.regions
        quality = [
            number(accuracy.map if accuracy else None),
            change_in_map(accuracy),
            number(accuracy.cf1 if accuracy else None),
            percent(regions.class_agreement if regions else None),
            number(regions.mean_iou if regions else None, 3),
        ]
        runs = engine.sweep or (engine,)
        for run in runs:
            last, ms = run.batch == engine.batch, run.latency_ms
            rows.append(
                [
                    title if run is runs[0] else "",
                    str(run.batch) + ("" if run.valid else " !"),
                    *(number(value, 2) for value in (ms.p50, ms.p90, ms.p99, ms.max)),
                    number(run.throughput_images_per_s),
                    number(engine.memory_mb.bundle) if last else "",
                    number(engine.memory_mb.peak_rss, 0) if last else "",
                    *(quality if last else [""] * len(quality)),
                ]
            )
    return rows


def facts(result: Result) -> list[tuple[str, str]]:
    """What stands below the table, as (name, sentence). Of several engines: verdicts, notes and
    gates of all, details of the first."""
    engines, titles = result.each, names(result.each)
    of = [f"{title}: " if len(engines) > 1 else "" for title in titles]
    bad = [f"{whose}INVALID: " + "; ".join(one.reasons) for whose, one in zip(of, engines, strict=True) if not one.valid]
    found = [("verdict", text) for text in bad or ["VALID"]]
    found += _comparison(result, titles)
    if len(engines) > 1:
        found.append(("details", f"of {titles[0]}"))
    found += [*_latency(result), *_accuracy(result), *_effort(result), *_sensitivity(result), *_cost(result)]
    if result.baseline:
        moved = "; ".join(f"{name} {text}" for name, text in result.baseline.changes.items())
        differs = result.baseline.differs
        found.append(("baseline", f"{result.baseline.file}: {moved}" + (f" (of another {', '.join(differs)})" if differs else "")))
    for whose, one in zip(of, engines, strict=True):
        found += [("note", whose + warning) for warning in one.warnings if warning not in one.reasons]
    found += [("gate", _gate(one)) for one in result.gates or ()]
    return found


def _gate(one: Outcome) -> str:
    said = "not judged" if one.measured is None else "FAIL" if one.failed else "pass"
    measured = "not measured" if one.measured is None else f"{one.measured:.4g}"
    whose = f"{one.engine}: " if one.engine is not None else ""
    return f"{said} {whose}{one.condition}: {measured}, limit {one.limit:.4g}"


def changes(result: Result, baseline: Result, file: str) -> Changes:
    """How every gated metric moved against a baseline, read from ``file``; what is missing on
    either side is left out."""
    moved = {}
    for name, metric in METRICS.items():
        now, then = metric.figure(result), metric.figure(baseline)
        if now is None or then is None:
            continue
        absolute = "map" in name or name in OF_EFFORT or not then
        moved[name] = f"{now - then:+.2f}" if absolute else f"{now / then - 1:+.1%}"
    compared = {
        "model": baseline.model == result.model,
        "size": baseline.size == result.size,
        "backend": baseline.backend == result.backend,
        "precision": baseline.precision == result.precision,
        "batch": baseline.batch == result.batch,
        "machine": baseline.machine.cpu == result.machine.cpu,
    }
    return Changes(file, moved, tuple(name for name, same in compared.items() if not same))


def text_table(columns: Sequence[str], rows: Rows, right: frozenset[str] = _RIGHT) -> list[str]:
    """Lines of an aligned table. Columns empty in every row are left out; where the width does not
    do, so are those of ``SPARE``, and at last the first column is cut."""
    rows = [[plain(cell) for cell in row] for row in rows]
    kept = [index for index, _ in enumerate(columns) if index == 0 or any(row[index] not in ("", "–") for row in rows)]
    wide = [max(len(column), *(len(row[index]) for row in rows)) for index, column in enumerate(columns)]
    for spare in SPARE:
        if sum(wide[index] for index in kept) + 2 * (len(kept) - 1) > WIDTH:
            kept = [index for index in kept if columns[index] != spare]
    widths = [wide[index] for index in kept]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))

    def line(cells: Sequence[str]) -> str:
        placed = []
        for width, index in zip(widths, kept, strict=True):
            cell = cells[index] if len(cells[index]) <= width else cells[index][: width - 1] + "…"
            placed.append(cell.rjust(width) if columns[index] in right else cell.ljust(width))
        return "  ".join(placed).rstrip()

    return [line(columns), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def markdown_table(columns: Sequence[str], rows: Rows, right: frozenset[str] = _RIGHT) -> list[str]:
    """Lines of a Markdown table."""
    rule = ["---:" if column in right else "---" for column in columns]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, rule, *([in_markdown(cell) for cell in row] for row in rows))]


def short(engine: Result) -> str:
    """``mcar-mobilenetv2 256 int8 openvino``: what tells engines of one report apart."""
    return f"{engine.model} {engine.size} {precision_name(engine)} {engine.backend}"


def names(engines: Sequence[Result]) -> list[str]:
    """A name for each engine of a report, no two alike: the short one, else with its folder's, else
    numbered."""
    found: list[str] = []
    for index, engine in enumerate(engines, 1):
        twins = [other for other in engines if short(other) == short(engine)]
        name = short(engine) if len(twins) == 1 else Path(engine.bundle).name
        found.append(name if name not in found else f"{name} ({index})")
    return found


def precision_name(engine: Result) -> str:
    """The precision, and for ``fp16`` which 16-bit float it is here; both where int8 has such a
    rest."""
    return engine.float16 if engine.precision == "fp16" and engine.float16 else engine.precision


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:+.{digits}f}"


def change(drop: float | None, interval: tuple[float, float] | None = None) -> str:
    """New minus reference, in points: what is stored as a drop, reference minus new, is printed so
    that a loss is negative."""
    if drop is None or math.isnan(drop):
        return "–"
    return f"{0 - drop:+.2f}" + (f" [{0 - interval[1]:+.2f}, {0 - interval[0]:+.2f}]" if interval else "")


def percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1%}"


def causes(accuracy: Quality | None) -> list[Bar]:
    """The parts of Δ mAP by name, in the order in which the engine decides."""
    split = accuracy.causes if accuracy else None
    if split is None:
        return []
    named = {"scores": split.scores, "swapped classes": split.classes, "moved boxes": split.boxes, "local stream": split.local}
    return [Bar(name, 0 - points) for name, points in named.items()]


def change_in_map(accuracy: Quality | None) -> str:
    return change(accuracy.map_drop, accuracy.map_drop_interval) if accuracy else change(None)


def _latency(result: Result) -> list[tuple[str, str]]:
    low, high = result.median_interval_ms
    calls = f"{len(result.samples_ms)} calls after {result.warm_up} warm-up calls, CoV {result.variation:.1%}"
    start = f"loaded in {result.load_ms:.0f} ms, first call {result.first_ms:.0f} ms"
    found = [("latency", f"p50 {result.latency_ms.p50:.2f} ms [{low:.2f}, {high:.2f}] of {calls}; {start}")]
    stages = result.stages_ms
    if stages:
        named = ", ".join(f"{name.replace('_', ' ')} {stages[name]:.2f}" for name in STAGES if name in stages)
        found.append(("stages", f"{named} (ms per batch)"))
    return found


def _comparison(result: Result, titles: Sequence[str]) -> list[tuple[str, str]]:
    compared = result.comparison or ()
    found = []
    for title, one in zip(titles[1:], compared[1:], strict=False):
        low, high = one.interval
        found.append(("compare", f"{title}: {one.ratio:.3f} × [{low:.3f}, {high:.3f}], {one.verdict}"))
    return [("compare", f"interleaved over {compared[0].rounds} rounds, × {titles[0]}"), *found] if found else []


def _cost(result: Result) -> list[tuple[str, str]]:
    found = []
    energy, streams, soak = result.energy, result.streams, result.soak
    if isinstance(energy, Energy):
        idle = f"{energy.source}: {energy.covers}; idle {energy.idle_watts:.1f} W subtracted"
        found.append(("energy", f"{energy.mj_per_image:.1f} mJ per image ({idle})"))
    elif energy:
        found.append(("energy", energy.reason))
    if streams:
        ms, rate = streams.latency_ms, f"{streams.throughput_images_per_s:.1f} images/s"
        found.append(("streams", f"{streams.streams} at once: {rate}, p50 {ms.p50:.2f} ms, p99 {ms.p99:.2f} ms"))
    if soak:
        growth = "memory unknown" if soak.memory_growth_mb is None else f"memory {soak.memory_growth_mb:+.1f} MB"
        found.append(("soak", f"{soak.seconds:.0f} s: latency {soak.latency_drift:+.1%}, {growth}, from the first to the last quarter"))
    return found


def _accuracy(result: Result) -> list[tuple[str, str]]:
    accuracy = result.accuracy
    if not accuracy:
        return []
    found = [("accuracy", f"{accuracy.images} images of {accuracy.dataset}; {accuracy.convention}")]
    if accuracy.worst:
        found.append(("worst", ", ".join(f"{name} {-lost:+.1f}" for name, lost in accuracy.worst) + " (AP against FP32)"))
    parts = causes(accuracy)
    if parts:
        split = ", ".join(f"{name} {signed(points)}" for name, points, *_ in parts)
        found.append(("causes", f"of Δ mAP {change(accuracy.map_drop)}: {split}"))
    return found


def _effort(result: Result) -> list[tuple[str, str]]:
    found = result.effort
    if found is None or not found.curve:
        return []
    mine, full = found.point, found.curve[-1]
    looks = f"{found.chosen:g}: {found.mean_looks:.2f} of {found.regions} regions per image"
    cost = f"mean {mine.mean_ms:.2f} ms, {found.mean_ratio:.3f} × effort 1, p99 {mine.p99_ms:.2f} of {full.p99_ms:.2f} ms"
    worth = f"; mAP {number(found.map, 2)}, Δ mAP {change(found.map_drop, found.map_drop_interval)}" if found.map is not None else ""
    return [("effort", f"{looks}; {cost}{worth} ({found.images} images, {found.batch} at a time)")]


def effort_rows(result: Result) -> list[list[str]]:
    """The curve, in the order of ``EFFORT_COLUMNS``."""
    return [
        [
            f"{point.effort:g}" + (" *" if result.effort and point.effort == result.effort.chosen else ""),
            number(point.mean_looks, 2),
            number(point.map, 2),
            *(number(value, 2) for value in (point.mean_ms, point.p50_ms, point.p99_ms, point.max_ms)),
        ]
        for point in (result.effort.curve if result.effort else ())
    ]


def _sensitivity(result: Result) -> list[tuple[str, str]]:
    gated = result.sensitivity
    if gated is None:
        return []
    found = []
    if gated.ranking:
        most = ", ".join(f"{one.unit} {signed(one.map_points)}" for one in gated.ranking[:SENSITIVE])
        found.append(("sensitive", f"{most} (points of mAP gained in float, on the validation images of the build)"))
    held = f"{change(gated.map_drop_all_int8)} points in int8, {change(gated.map_drop)} as built"
    returned = f"; in float: {', '.join(gated.returned_to_float)}" if gated.returned_to_float else ""
    return [*found, ("built", f"Δ mAP on the validation images of the build: {held}{returned}")]


def _wrapped(text: str, indent: int) -> list[str]:
    lines, line = [], ""
    for word in plain(text).split(" "):
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
