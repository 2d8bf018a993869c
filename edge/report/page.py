"""A bench result as one HTML page that needs nothing else: no network, no script, light, dark and
paper."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge import charts
from edge.bundle import Bundle
from edge.charts.marks import figure
from edge.data import Dataset
from edge.graph import Outputs
from edge.measure import machine
from edge.measure.quality import Quality
from edge.measure.regions import region_iou
from edge.measure.stages import STAGES
from edge.plain import Json, to_plain
from edge.report import style, text
from edge.report.result import Result
from edge.shown import in_html

STRIP = 6  # photographs with regions drawn over them
SIDE = 240  # pixels of their longer side
SENSITIVE = 15
# Outside the engine grey; inside, one colour per stage.
COLOURS = {"decode": 5, "preprocess": 11, "global": 0, "boxes": 3, "crop": 1, "local": 2, "fuse": 4, "other": 11}


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


def photos(dataset: Dataset, engine: Outputs, reference: Outputs, bundle: Bundle) -> list[Photo]:
    """From the image whose regions moved most to one where they did not, at even steps."""
    # A region of a class the reference did not choose overlaps with nothing it looked at.
    iou = np.nan_to_num(region_iou(engine, reference)).mean(axis=1)
    order = np.argsort(iou, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, STRIP).round().astype(int))]
    return [_photo(dataset, int(index), engine, reference, bundle, float(iou[index])) for index in picked]


def html(result: Result, baseline: Result | None = None, strip: Sequence[Photo] = ()) -> str:
    """The page."""
    engines = result.each
    sections = [
        _cards(result),
        _engines(result),
        _latency(engines),
        _pareto(engines, baseline),
        _effort(result),
        _stages(engines),
        _sweep(engines),
        _causes(engines),
        _classes(result),
        _strip(strip),
        _sensitivity(result),
        _soak(result),
        section(
            "Notes", "<dl>" + "".join(f"<dt>{in_html(name)}</dt><dd>{in_html(said)}</dd>" for name, said in text.facts(result)) + "</dl>"
        ),
        section("Machine", table(("", ""), _described(to_plain(result.machine)))),
    ]
    title = Path(result.bundle).name
    verdict = "valid" if result.valid else "invalid"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{in_html(title)} – bench</title><style>{style.SHEET}</style></head><body><main>"
        f'<header><p class="kicker">mcar-edge bench</p><h1>{in_html(title)}</h1>'
        f'<p><span class="badge {verdict}">{verdict}</span> {in_html(machine.sentence(result.machine))}</p></header>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def _engines(result: Result) -> str:
    """The terminal's table in two: what an engine costs, and what it is worth."""
    rows = text.engine_rows(result)
    cost = table(text.COLUMNS[: text.COSTS], [row[: text.COSTS] for row in rows])
    worths: dict[str, list[str]] = {}
    for name, row in zip(_filled(row[0] for row in rows), rows, strict=True):
        worths[name] = [name, *row[text.COSTS :]]  # of a sweep, the last row tells
    worth = table((text.COLUMNS[0], *text.COLUMNS[text.COSTS :]), list(worths.values()))
    known = any(cell not in ("", "–") for row in worths.values() for cell in row[1:])
    return section("Engines", cost + (worth if known else ""), text.LEGEND)


def _filled(names: Iterable[str]) -> Iterator[str]:
    """Empty names stand for the one before."""
    last = ""
    for name in names:
        last = name or last
        yield last


def _cards(result: Result) -> str:
    accuracy, regions, memory, ms = result.accuracy, result.regions, result.memory_mb, result.latency_ms
    cards = [
        (f"{figure(ms.p50)} ms", f"p50 of a batch of {result.batch}; p99 {figure(ms.p99)} ms"),
        (f"{figure(result.throughput_images_per_s)}", "images per second"),
        (text.number(accuracy.map if accuracy else None, 2), f"mAP on {accuracy.images if accuracy else 'no'} images"),
        (text.change(accuracy.map_drop if accuracy else None), f"Δ mAP against FP32, in points{_between(accuracy)}"),
        (text.percent(regions.class_agreement if regions else None), "of the region classes agree with FP32"),
        (text.number(regions.mean_iou if regions else None, 3), "mean IoU of the regions"),
        (f"{text.number(memory.bundle)} MB", f"engine on disk; {text.number(memory.peak_rss, 0)} MB at the peak"),
    ]
    shown = [card for card in cards if not card[0].startswith("–")]
    return (
        '<div class="cards">' + "".join(f"<div><b>{in_html(big)}</b><span>{in_html(small)}</span></div>" for big, small in shown) + "</div>"
    )


def _between(accuracy: Quality | None) -> str:
    interval = accuracy.map_drop_interval if accuracy else None
    return f", 95 % within {0 - interval[1]:+.2f} to {0 - interval[0]:+.2f}" if interval else ""


def _latency(engines: Sequence[Result]) -> str:
    drawn = charts.distribution({name: one.samples_ms for name, one in zip(text.names(engines), engines, strict=True)})
    first = engines[0]
    note = f"Batch of {first.batch}; all calls after {first.warm_up} warm-up calls. Column heights are square roots."
    return section("Latency", drawn + charts.timeline(first.samples_ms), note)


def _pareto(engines: Sequence[Result], baseline: Result | None) -> str:
    named = list(zip(text.names(engines), engines, strict=True))
    if baseline is not None:
        named.append(("baseline", baseline))
    found = [(name, one.latency_ms.p50 / one.batch, one.accuracy.map) for name, one in named if one.accuracy and one.batch]
    points = [point for point in found if math.isfinite(point[1] + point[2])]  # a baseline may lack a figure
    if not points:
        return ""
    references = {one.accuracy.map_reference for one in engines if one.accuracy}
    reference = references.pop() if len(references) == 1 else None  # engines of several models have no line in common
    return section(
        "Accuracy against latency",
        charts.pareto(points, reference=reference),
        "Filled and joined: no other engine is both faster and more accurate.",
    )


def _effort(result: Result) -> str:
    found = result.effort
    if found is None:
        return ""
    rows = table(text.EFFORT_COLUMNS, text.effort_rows(result))
    points = [
        (f"effort {point.effort:g}" + (", as built" if point.effort == found.chosen else ""), point.mean_ms / found.batch, point.map)
        for point in found.curve
        if point.map is not None
    ]
    drawn = charts.pareto(points) if points else ""
    return section("Effort", drawn + rows, text.EFFORT_LEGEND)


def _stages(engines: Sequence[Result]) -> str:
    rows = {}
    for title, one in zip(text.names(engines), engines, strict=True):
        if one.stages_ms:
            rows[title] = {name.replace("_", " "): one.stages_ms[name] for name in STAGES if name in one.stages_ms}
    note = "Milliseconds per batch. Decoding and preprocessing run on one thread; the engine's stages are timed where they are called."
    return section("Where the time goes", charts.stacks(rows, colours=COLOURS), note) if rows else ""


def _sweep(engines: Sequence[Result]) -> str:
    series = {}
    for name, one in zip(text.names(engines), engines, strict=True):
        if one.sweep:
            series[name] = [(run.batch, run.throughput_images_per_s) for run in one.sweep]
    return section("Batch sweep", charts.lines(series, x_unit="batch", y_unit="images/s")) if series else ""


def _classes(result: Result) -> str:
    per_class = result.accuracy.per_class if result.accuracy else {}
    rows = [(name, one.ap_reference, one.ap) for name, one in per_class.items() if one.ap_reference is not None]
    if not rows:
        return ""
    rows.sort(key=lambda row: row[2] - row[1])
    after = text.precision_name(result)
    return section(
        "Average precision by class", charts.dumbbells(rows, before="FP32", after=after), "The class that lost most comes first."
    )


def _causes(engines: Sequence[Result]) -> str:
    drawn = ""
    for title, one in zip(text.names(engines), engines, strict=True):
        parts = text.causes(one.accuracy)
        if parts:
            heading = f"{title}: {text.change(one.accuracy.map_drop if one.accuracy else None)} points" if len(engines) > 1 else ""
            drawn += (f"<h3>{in_html(heading)}</h3>" if heading else "") + charts.bars(parts, unit="points of mAP")
    note = "The engine's decisions replace those of FP32 one after the other; the parts add up to Δ mAP."
    return section("Where Δ mAP comes from", drawn, note) if drawn else ""


def _sensitivity(result: Result) -> str:
    gated = result.sensitivity
    if gated is None or not gated.ranking:
        return ""
    returned = gated.returned_to_float
    note = "Points of mAP gained when this part of the network alone is returned to float, on the validation images of the build. "
    note += f"In float here: {', '.join(returned)}." if returned else "No part is in float here."
    ranking = [charts.Bar(one.unit, one.map_points) for one in gated.ranking[:SENSITIVE]]
    return section("Sensitivity", charts.bars(ranking, unit="points of mAP"), note)


def _soak(result: Result) -> str:
    windows = result.soak.windows if result.soak else ()
    if not windows:
        return ""
    series = {"p50": [(one.at_s, one.p50) for one in windows], "p99": [(one.at_s, one.p99) for one in windows]}
    drawn = charts.lines(series, x_unit="s", y_unit="ms")
    held = [(one.at_s, one.rss_mb) for one in windows if one.rss_mb is not None]
    return section("Soak", drawn + (charts.lines({"memory": held}, x_unit="s", y_unit="MB") if held else ""))


def _strip(strip: Sequence[Photo]) -> str:
    if not strip:
        return ""
    pictures = "".join(_picture(photo) for photo in strip)
    key = '<p class="key"><span class="k1">FP32, dashed</span> <span class="k0">this engine</span></p>'
    note = "From the image whose regions moved most to one where they did not."
    return section("Regions", f'{key}<div class="strip">{pictures}</div>', note)


def _picture(photo: Photo) -> str:
    w, h = photo.width, photo.height
    drawn = [
        f'<rect x="{box[0] * w:.1f}" y="{box[1] * h:.1f}" width="{(box[2] - box[0]) * w:.1f}" height="{(box[3] - box[1]) * h:.1f}" '
        f'class="{kind}"><title>{in_html(label)}</title></rect>'
        for kind, boxes in (("halo", photo.reference), ("box1", photo.reference), ("halo", photo.engine), ("box0", photo.engine))
        for label, box in boxes
    ]
    names = ", ".join(label for label, _ in photo.engine)
    lost = [label for label, _ in photo.reference if label not in {mine for mine, _ in photo.engine}]
    caption = f"{names}{' – FP32 also: ' + ', '.join(lost) if lost else ''}; IoU {photo.iou:.2f}"
    picture = f'<image href="{photo.uri}" width="{w}" height="{h}"/>'
    svg = f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{in_html(photo.name)}">{picture}{"".join(drawn)}</svg>'
    return f"<figure>{svg}<figcaption>{in_html(caption)}</figcaption></figure>"


def _photo(dataset: Dataset, index: int, engine: Outputs, reference: Outputs, bundle: Bundle, iou: float) -> Photo:
    from PIL import Image

    sample = dataset[index]
    picture = Image.fromarray(sample.image)
    picture.thumbnail((SIDE, SIDE))
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=82)
    uri = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    chosen = [_regions(outputs, index, bundle) for outputs in (engine, reference)]
    return Photo(sample.name, uri, *picture.size, chosen[0], chosen[1], iou)


def _regions(values: Outputs, index: int, bundle: Bundle) -> tuple[tuple[str, tuple[float, ...]], ...]:
    boxes, classes = values["regions"][index] / bundle.image.size, values["region_classes"][index]
    return tuple((bundle.model.labels[c], tuple(box)) for box, c in zip(boxes.tolist(), classes.tolist(), strict=True))


def section(title: str, body: str, note: str = "") -> str:
    """A part of the page: its heading, what it shows, and a note below."""
    below = f'<p class="note">{in_html(note)}</p>' if note else ""
    return f"<section><h2>{in_html(title)}</h2>{body}{below}</section>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells; columns empty in every row are left out."""
    kept = [index for index, _ in enumerate(columns) if index == 0 or any(row[index] not in ("", "–") for row in rows)]
    head = "".join(f"<th>{in_html(columns[index])}</th>" for index in kept)
    body = "".join("<tr>" + "".join(f"<td>{in_html(row[index])}</td>" for index in kept) + "</tr>" for row in rows)
    if not any(columns):
        return f'<table class="plain"><tbody>{body}</tbody></table>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _described(facts: Mapping[str, Json]) -> list[list[str]]:
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
