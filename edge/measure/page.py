"""A bench result as one HTML page that needs nothing else: no network, no script, light, dark and paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle
from edge.data import Dataset
from edge.measure import charts, machine, report, style
from edge.measure.outputs import Outputs
from edge.measure.regions import Drift
from edge.measure.stages import STAGES

STRIP = 6  # photographs with regions drawn over them
SIDE = 240  # pixels of their longer side
SENSITIVE = 15
# Outside the engine grey; inside, one colour per stage.
COLOURS = {"decode": 5, "preprocess": 11, "global": 0, "boxes": 3, "crop": 1, "local": 2, "fuse": 4, "other": 11}

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photograph of the strip.

    Attributes:
        name: within the data set.
        uri: the picture as a data URI.
        width, height: of that picture in pixels.
        engine, reference: (label, box) per region; boxes x1 y1 x2 y2 in [0, 1].
        iou: mean IoU of its regions; a class the reference did not choose counts 0.
    """

    name: str
    uri: str
    width: int
    height: int
    engine: tuple[tuple[str, tuple[float, ...]], ...]
    reference: tuple[tuple[str, tuple[float, ...]], ...]
    iou: float


def photos(dataset: Dataset, engine: Outputs, reference: Outputs, drift: Drift, bundle: Bundle) -> list[Photo]:
    """From the image whose regions moved most to one where they did not, at even steps."""
    known = np.isfinite(drift.iou)
    # A region of a class the reference did not choose overlaps with nothing it looked at.
    iou = np.where(known, drift.iou, 0.0).mean(axis=1)
    order = np.argsort(iou, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, STRIP).round().astype(int))]
    return [_photo(dataset, int(index), engine, reference, bundle, float(iou[index])) for index in picked]


def html(result: Result, baseline: Result | None = None, strip: Sequence[Photo] = ()) -> str:
    """The page."""
    engines = result.get("engines") or [result]
    sections = [
        _cards(result),
        _engines(result),
        _latency(engines),
        _pareto(engines, baseline),
        _stages(engines),
        _sweep(engines),
        _causes(engines),
        _classes(result),
        _strip(strip),
        _sensitivity(result),
        _soak(result),
        _section(
            "Notes", "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report.facts(result)) + "</dl>"
        ),
        _section("Machine", _table(("", ""), _described(result["machine"]))),
    ]
    title = Path(result["bundle"]).name
    verdict = "valid" if result["valid"] else "invalid"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} – bench</title><style>{style.SHEET}</style></head><body><main>"
        f'<header><p class="kicker">mcar-edge bench</p><h1>{escape(title)}</h1>'
        f'<p><span class="badge {verdict}">{verdict}</span> {escape(machine.sentence(result["machine"]))}</p></header>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def _engines(result: Result) -> str:
    """The terminal's table in two: what an engine costs, and what it is worth."""
    rows = report.engine_rows(result)
    cost = _table(report.COLUMNS[: report.COSTS], [row[: report.COSTS] for row in rows])
    worths: dict[str, list[str]] = {}
    for name, row in zip(_filled(row[0] for row in rows), rows, strict=True):
        worths[name] = [name, *row[report.COSTS :]]  # of a sweep, the last row tells
    worth = _table((report.COLUMNS[0], *report.COLUMNS[report.COSTS :]), list(worths.values()))
    known = any(cell not in ("", "–") for row in worths.values() for cell in row[1:])
    return _section("Engines", cost + (worth if known else ""), report.LEGEND)


def _filled(names: Iterable[str]) -> Iterator[str]:
    """Empty names stand for the one before."""
    last = ""
    for name in names:
        last = name or last
        yield last


def _cards(result: Result) -> str:
    accuracy, regions, memory = result.get("accuracy") or {}, result.get("regions") or {}, result.get("memory_mb") or {}
    ms = result["latency_ms"]
    cards = [
        (f"{charts.figure(ms['p50'])} ms", f"p50 of a batch of {result['batch']}; p99 {charts.figure(ms['p99'])} ms"),
        (f"{charts.figure(result['throughput_images_per_s'])}", "images per second"),
        (report.number(accuracy.get("map"), 2), f"mAP on {accuracy.get('images')} images"),
        (report.drop_short(accuracy), f"points of mAP lost against FP32{_between(accuracy)}"),
        (report.percent(regions.get("class_agreement")), "of the region classes agree with FP32"),
        (report.number(regions.get("mean_iou"), 3), "mean IoU of the regions"),
        (f"{report.number(memory.get('bundle'))} MB", f"engine on disk; {report.number(memory.get('peak_rss'), 0)} MB at the peak"),
    ]
    shown = [card for card in cards if not card[0].startswith("–")]
    return (
        '<div class="cards">' + "".join(f"<div><b>{escape(big)}</b><span>{escape(small)}</span></div>" for big, small in shown) + "</div>"
    )


def _between(accuracy: Mapping[str, Any]) -> str:
    interval = accuracy.get("map_drop_interval")
    return f", 95 % within {interval[0]:+.2f} to {interval[1]:+.2f}" if interval else ""


def _latency(engines: Sequence[Result]) -> str:
    drawn = charts.distribution({name: one["samples_ms"] for name, one in zip(report.names(engines), engines, strict=True)})
    first = engines[0]
    note = f"Batch of {first['batch']}; every call counted, after {first['warm_up']} to warm up. Column heights are square roots."
    return _section("Latency", drawn + charts.timeline(first["samples_ms"]), note)


def _pareto(engines: Sequence[Result], baseline: Result | None) -> str:
    named = list(zip(report.names(engines), engines, strict=True))
    if baseline is not None:
        named.append(("baseline", baseline))
    points = [(name, one["latency_ms"]["p50"] / one["batch"], one["accuracy"]["map"]) for name, one in named if one.get("accuracy")]
    if not points:
        return ""
    references = {one["accuracy"].get("map_reference") for one in engines if one.get("accuracy")}
    reference = references.pop() if len(references) == 1 else None  # engines of several models have no line in common
    return _section(
        "Accuracy against latency", charts.pareto(points, reference=reference), "Filled and joined: no other is both faster and better."
    )


def _stages(engines: Sequence[Result]) -> str:
    rows = {}
    for title, one in zip(report.names(engines), engines, strict=True):
        stages = one.get("stages_ms") or {}
        if stages:
            rows[title] = {name.replace("_", " "): stages[name] for name in STAGES if name in stages}
    note = "Milliseconds per batch. Decoding and preprocessing are timed on one thread; the rest as the runtime's counters tell."
    return _section("Where the time goes", charts.stacks(rows, colours=COLOURS), note) if rows else ""


def _sweep(engines: Sequence[Result]) -> str:
    series = {}
    for name, one in zip(report.names(engines), engines, strict=True):
        if one.get("sweep"):
            series[name] = [(run["batch"], run["throughput_images_per_s"]) for run in one["sweep"]]
    return _section("Batch sweep", charts.lines(series, x_unit="batch", y_unit="images/s")) if series else ""


def _classes(result: Result) -> str:
    per_class = (result.get("accuracy") or {}).get("per_class") or {}
    rows = [(name, one["ap_reference"], one["ap"]) for name, one in per_class.items() if one["ap_reference"] is not None]
    if not rows:
        return ""
    rows.sort(key=lambda row: row[2] - row[1])
    after = report.precision_name(result)
    return _section(
        "Average precision by class", charts.dumbbells(rows, before="FP32", after=after), "The class that lost most stands first."
    )


def _causes(engines: Sequence[Result]) -> str:
    drawn = ""
    for title, one in zip(report.names(engines), engines, strict=True):
        parts = report.causes(one.get("accuracy") or {})
        if parts:
            heading = f"{title}: {report.drop_short(one['accuracy'])} points" if len(engines) > 1 else ""
            drawn += (f"<h3>{escape(heading)}</h3>" if heading else "") + charts.bars(parts, unit="points of mAP")
    note = "The engine's decisions put in one after the other, everything else from FP32; the parts sum to the drop."
    return _section("What the drop comes from", drawn, note) if drawn else ""


def _sensitivity(result: Result) -> str:
    gated = result.get("sensitivity") or {}
    ranking = [(one["unit"], one["map_points"]) for one in gated.get("ranking") or []]
    if not ranking:
        return ""
    returned = gated["returned_to_float"]
    note = "Points of mAP that one part of the network gives back when it alone returns to float, on the validation images of the build. "
    note += f"In float here: {', '.join(returned)}." if returned else "None is in float here."
    return _section("Sensitivity", charts.bars(ranking[:SENSITIVE], unit="points of mAP"), note)


def _soak(result: Result) -> str:
    windows = (result.get("soak") or {}).get("windows")
    if not windows:
        return ""
    drawn = charts.lines(
        {"p50": [(one["at_s"], one["p50"]) for one in windows], "p99": [(one["at_s"], one["p99"]) for one in windows]},
        x_unit="s",
        y_unit="ms",
    )
    held = [(one["at_s"], one["rss_mb"]) for one in windows if one["rss_mb"] is not None]
    return _section("Soak", drawn + (charts.lines({"memory": held}, x_unit="s", y_unit="MB") if held else ""))


def _strip(strip: Sequence[Photo]) -> str:
    if not strip:
        return ""
    pictures = "".join(_picture(photo) for photo in strip)
    key = '<p class="key"><span class="k1">FP32, dashed</span> <span class="k0">this engine</span></p>'
    note = "From the image whose regions moved most to one where they did not."
    return _section("Regions", f'{key}<div class="strip">{pictures}</div>', note)


def _picture(photo: Photo) -> str:
    w, h = photo.width, photo.height
    drawn = [
        f'<rect x="{box[0] * w:.1f}" y="{box[1] * h:.1f}" width="{(box[2] - box[0]) * w:.1f}" height="{(box[3] - box[1]) * h:.1f}" '
        f'class="{kind}"><title>{escape(label)}</title></rect>'
        for kind, boxes in (("halo", photo.reference), ("box1", photo.reference), ("halo", photo.engine), ("box0", photo.engine))
        for label, box in boxes
    ]
    names = ", ".join(label for label, _ in photo.engine)
    lost = [label for label, _ in photo.reference if label not in {mine for mine, _ in photo.engine}]
    caption = f"{names}{' – FP32 also: ' + ', '.join(lost) if lost else ''}; IoU {photo.iou:.2f}"
    picture = f'<image href="{photo.uri}" width="{w}" height="{h}"/>'
    svg = f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{escape(photo.name, quote=True)}">{picture}{"".join(drawn)}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _photo(dataset: Dataset, index: int, engine: Outputs, reference: Outputs, bundle: Bundle, iou: float) -> Photo:
    from PIL import Image

    sample = dataset[index]
    picture = Image.fromarray(sample.image)
    picture.thumbnail((SIDE, SIDE))
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=82)
    uri = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    chosen = [_regions(outputs.values, index, bundle) for outputs in (engine, reference)]
    return Photo(sample.name, uri, *picture.size, chosen[0], chosen[1], iou)


def _regions(values: Mapping[str, np.ndarray], index: int, bundle: Bundle) -> tuple[tuple[str, tuple[float, ...]], ...]:
    boxes, classes = values["regions"][index] / bundle.image.size, values["region_classes"][index]
    return tuple((bundle.model.labels[c], tuple(box)) for box, c in zip(boxes.tolist(), classes.tolist(), strict=True))


def _section(title: str, body: str, note: str = "") -> str:
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{below}</section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [index for index, _ in enumerate(columns) if index == 0 or any(row[index] not in ("", "–") for row in rows)]
    head = "".join(f"<th>{escape(columns[index])}</th>" for index in kept)
    body = "".join("<tr>" + "".join(f"<td>{escape(row[index])}</td>" for index in kept) + "</tr>" for row in rows)
    if not any(columns):
        return f'<table class="plain"><tbody>{body}</tbody></table>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _described(facts: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key.replace('_', ' ')} {one}" for key, one in value.items() if one is not None)
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:.0f}"
        if value not in (None, ""):
            rows.append([name.replace("_", " "), str(value)])
    return rows
