"""A bench result as text: a terminal table of at most 120 columns, and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.measure import machine
from edge.measure.gate import METRICS
from edge.measure.stages import STAGES

WIDTH = 120
Result = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

COLUMNS = ("engine", "batch", "p50", "p90", "p99", "max", "img/s", "MB", "peak MB", "mAP", "drop [95 %]", "CF1", "top-K", "IoU")
COSTS = COLUMNS.index("mAP")  # columns before tell what an engine costs, from here on what it is worth
LEGEND = "p50 … max in milliseconds per batch, ! not valid; MB of the engine's files; drop in points against the graph in FP32"
SPARE = ("max", "p90", "CF1", "peak MB")  # what a narrow terminal does without, first to last
SENSITIVE = 5  # parts of the network that a line names
# What ``calib.causes`` tells apart.
CAUSES = {"scores": "scores", "classes": "swapped classes", "boxes": "moved boxes", "local": "local stream"}
_RIGHT = frozenset(COLUMNS[1:])


def terminal(result: Result) -> str:
    """The whole report for a terminal; no line is longer than ``WIDTH``."""
    lines = [*_wrapped("machine    " + machine.sentence(result["machine"]), indent=11), ""]
    lines += text_table(COLUMNS, engine_rows(result))
    lines += ["", LEGEND, ""]
    for name, value in facts(result):
        lines += _wrapped(f"{name:10} {value}", indent=11)
    return "\n".join(lines)


def markdown(result: Result) -> str:
    """The same as Markdown."""
    title = f"# {Path(result['bundle']).name}"
    parts = [title, "", f"Machine: {machine.sentence(result['machine'])}.", "", *markdown_table(COLUMNS, engine_rows(result)), ""]
    parts += [f"{LEGEND}.", ""]
    parts += [f"- **{name}**: {value}" for name, value in facts(result)]
    per_class = (result.get("accuracy") or {}).get("per_class") or {}
    if per_class:
        rows = [[name, number(one["ap"]), number(one["ap_reference"]), signed(one["drop"])] for name, one in per_class.items()]
        parts += ["", "## Classes", "", *markdown_table(("class", "AP", "AP FP32", "drop"), rows)]
    return "\n".join(parts) + "\n"


def engine_rows(result: Result) -> list[list[str]]:
    """One row per engine and batch, in the order of ``COLUMNS``."""
    rows = []
    engines = result.get("engines") or [result]
    for title, engine in zip(names(engines), engines, strict=True):
        runs = engine.get("sweep") or [engine]
        for run in runs:
            last = run["batch"] == engine["batch"]
            ms = run["latency_ms"]
            memory = engine.get("memory_mb") or {}
            accuracy, regions = engine.get("accuracy") or {}, engine.get("regions") or {}
            quality = [
                number(accuracy.get("map")),
                drop(accuracy),
                number(accuracy.get("cf1")),
                percent(regions.get("class_agreement")),
                number(regions.get("mean_iou"), 3),
            ]
            rows.append(
                [
                    title if run is runs[0] else "",
                    str(run["batch"]) + ("" if run["valid"] else " !"),
                    *(number(ms[key], 2) for key in ("p50", "p90", "p99", "max")),
                    number(run["throughput_images_per_s"]),
                    number(memory.get("bundle")) if last else "",
                    number(memory.get("peak_rss"), 0) if last else "",
                    *(quality if last else [""] * len(quality)),
                ]
            )
    return rows


def facts(result: Result) -> list[tuple[str, str]]:
    """What stands below the table, as (name, sentence). Of several engines: verdicts, notes and gates of all, details of the first."""
    engines = result.get("engines") or [result]
    titles = names(engines)
    of = [f"{title}: " if len(engines) > 1 else "" for title in titles]
    bad = [f"{whose}INVALID: " + "; ".join(one["reasons"]) for whose, one in zip(of, engines, strict=True) if not one["valid"]]
    found = [("verdict", text) for text in bad or ["VALID"]]
    found += _comparison(result, titles)
    if len(engines) > 1:
        found.append(("details", f"of {titles[0]}"))
    found += [*_latency(result), *_accuracy(result), *_sensitivity(result), *_cost(result)]
    if result.get("baseline"):
        moved = "; ".join(f"{name} {text}" for name, text in result["baseline"]["changes"].items())
        differs = result["baseline"]["differs"]
        found.append(("baseline", f"{result['baseline']['file']}: {moved}" + (f" (of another {', '.join(differs)})" if differs else "")))
    for whose, one in zip(of, engines, strict=True):
        found += [("note", whose + warning) for warning in one["warnings"] if warning not in one["reasons"]]
    found += [("gate", _gate(one)) for one in result.get("gates") or []]
    return found


def _gate(one: Mapping[str, Any]) -> str:
    said = "not judged" if one["measured"] is None else "FAIL" if one["failed"] else "pass"
    measured = "not measured" if one["measured"] is None else f"{one['measured']:.4g}"
    whose = f"{one['engine']}: " if "engine" in one else ""
    return f"{said} {whose}{one['condition']}: {measured}, limit {one['limit']:.4g}"


def changes(result: Result, baseline: Result) -> dict[str, Any]:
    """How every gated metric moved against a baseline; what is missing on either side is left out."""
    moved = {}
    for metric, keys in METRICS.items():
        now, then = _dig(result, keys), _dig(baseline, keys)
        if now is None or then is None:
            continue
        absolute = metric.startswith("map") or not then
        moved[metric] = f"{now - then:+.2f}" if absolute else f"{now / then - 1:+.1%}"
    differs = [key for key in ("model", "size", "backend", "precision", "batch") if baseline.get(key) != result.get(key)]
    other = (baseline.get("machine") or {}).get("cpu") != result["machine"].get("cpu")
    return {"changes": moved, "differs": [*differs, *(["machine"] if other else [])]}


def text_table(columns: Sequence[str], rows: Rows, right: frozenset[str] = _RIGHT) -> list[str]:
    """Lines of an aligned table. Columns empty in every row are left out; where the width does not do, so are those of
    ``SPARE``, and at last the first column is cut."""
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
    return ["| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows)]


def short(engine: Result) -> str:
    """``mcar-mobilenetv2 256 int8 openvino``: what tells engines of one report apart."""
    return f"{engine['model']} {engine['size']} {precision_name(engine)} {engine['backend']}"


def names(engines: Sequence[Result]) -> list[str]:
    """A name for each engine of a report, no two alike: the short one, else with its folder's, else numbered."""
    found: list[str] = []
    for number, engine in enumerate(engines, 1):
        twins = [other for other in engines if short(other) == short(engine)]
        name = short(engine) if len(twins) == 1 else Path(engine["bundle"]).name
        found.append(name if name not in found else f"{name} ({number})")
    return found


def precision_name(engine: Result) -> str:
    """The precision, and for ``fp16`` which 16-bit float it is here; both where int8 has such a rest."""
    both = (engine["precision"], engine.get("float16"))
    return str(both[1]) if both[0] == "fp16" and both[1] else str(both[0])


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def causes(accuracy: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The parts of a drop by name, in the order in which the engine decides."""
    found = accuracy.get("causes") or {}
    return [(title, found[key]) for key, title in CAUSES.items() if key in found]


def drop_short(accuracy: Mapping[str, Any]) -> str:
    return signed(accuracy.get("map_drop"))


def drop(accuracy: Mapping[str, Any]) -> str:
    if accuracy.get("map_drop") is None:
        return "–"
    interval = accuracy.get("map_drop_interval")
    return signed(accuracy["map_drop"]) + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def _latency(result: Result) -> list[tuple[str, str]]:
    low, high = result["median_interval_ms"]
    calls = f"{len(result['samples_ms'])} calls after {result['warm_up']} to warm up, CoV {result['variation']:.1%}"
    start = f"loaded in {result['load_ms']:.0f} ms, first call {result['first_ms']:.0f} ms"
    found = [("latency", f"p50 {result['latency_ms']['p50']:.2f} ms [{low:.2f}, {high:.2f}] of {calls}; {start}")]
    stages = result.get("stages_ms") or {}
    if stages:
        named = ", ".join(f"{name.replace('_', ' ')} {stages[name]:.2f}" for name in STAGES if name in stages)
        found.append(("stages", f"{named} (ms per batch)"))
    return found


def _comparison(result: Result, titles: Sequence[str]) -> list[tuple[str, str]]:
    compared = result.get("comparison") or []
    found = []
    for title, one in zip(titles[1:], compared[1:], strict=False):
        low, high = one["interval"]
        found.append(("compare", f"{title}: {one['ratio']:.3f} × [{low:.3f}, {high:.3f}], {one['verdict']}"))
    return [("compare", f"turn by turn over {compared[0]['rounds']} rounds, × {titles[0]}"), *found] if found else []


def _cost(result: Result) -> list[tuple[str, str]]:
    found = []
    energy, streams, soak = result.get("energy") or {}, result.get("streams"), result.get("soak")
    if energy.get("source"):
        idle = f"{energy['source']}: {energy['covers']}; idle {energy['idle_watts']:.1f} W subtracted"
        found.append(("energy", f"{energy['mj_per_image']:.1f} mJ per image ({idle})"))
    elif energy:
        found.append(("energy", energy["reason"]))
    if streams:
        ms = streams["latency_ms"]
        rate = f"{streams['throughput_images_per_s']:.1f} images/s"
        found.append(("streams", f"{streams['streams']} at once: {rate}, p50 {ms['p50']:.2f} ms, p99 {ms['p99']:.2f} ms"))
    if soak:
        growth = "memory not told" if soak["memory_growth_mb"] is None else f"memory {soak['memory_growth_mb']:+.1f} MB"
        found.append(
            ("soak", f"{soak['seconds']:.0f} s: latency {soak['latency_drift']:+.1%}, {growth}, from the first to the last quarter")
        )
    return found


def _accuracy(result: Result) -> list[tuple[str, str]]:
    accuracy = result.get("accuracy")
    if not accuracy:
        return []
    found = [("accuracy", f"{accuracy['images']} images of {accuracy['dataset']}; {accuracy['convention']}")]
    worst = accuracy.get("worst") or []
    if worst:
        found.append(("worst", ", ".join(f"{name} {-lost:+.1f}" for name, lost in worst) + " (AP against FP32)"))
    parts = causes(accuracy)
    if parts:
        split = ", ".join(f"{name} {signed(points)}" for name, points in parts)
        found.append(("causes", f"of the drop of {drop_short(accuracy)} points: {split}"))
    return found


def _sensitivity(result: Result) -> list[tuple[str, str]]:
    gated = result.get("sensitivity") or {}
    found = []
    if gated.get("ranking"):
        most = ", ".join(f"{one['unit']} {signed(one['map_points'])}" for one in gated["ranking"][:SENSITIVE])
        found.append(("sensitive", f"{most} (points of mAP that float gives back, on the validation images of the build)"))
    if gated:
        held = f"{signed(gated['map_drop_all_int8'])} points in int8, {signed(gated['map_drop'])} as built"
        returned = f"; in float: {', '.join(gated['returned_to_float'])}" if gated["returned_to_float"] else ""
        found.append(("built", f"drop on the validation images of the build: {held}{returned}"))
    return found


def _dig(result: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        result = result.get(key) if isinstance(result, Mapping) else None
    return result


def _wrapped(text: str, indent: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
