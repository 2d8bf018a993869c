"""A bench result as text and as a page."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edge.report import page
from edge.report import text as report
from edge.report.result import Result


def content(**changes):
    per_class = {f"class {index}": {"ap": 80.0 - index, "ap_reference": 80.0, "drop": float(index)} for index in range(5)}
    made = {
        "bundle": "engines/mcar-mobilenetv2-scenes-256-int8-openvino",
        "model": "mcar-mobilenetv2",
        "size": 256,
        "backend": "openvino",
        "precision": "int8",
        "float16": None,
        "batch": 8,
        "latency_ms": {"p50": 61.234, "p90": 63.0, "p95": 64.0, "p99": 70.0, "mean": 62.0, "min": 60.0, "max": 99.5},
        "throughput_images_per_s": 130.64,
        "median_interval_ms": [61.1, 61.4],
        "variation": 0.02,
        "samples_ms": [61.0, 61.2, 61.3, 70.0, 99.5] * 20,
        "warm_up": 10,
        "valid": True,
        "reasons": [],
        "warnings": ["a note <with> brackets"],
        "load_ms": 400.0,
        "first_ms": 90.0,
        "sweep": [],
        "stages_ms": {"decode": 3.0, "preprocess": 5.0, "global": 12.0, "local": 40.0},
        "memory_mb": {"peak_rss": 512.0, "engine": 100.0, "bundle": 3.2},
        "energy": {"source": None, "reason": "not available here: no sensors"},
        "accuracy": {
            "dataset": "scenes test",
            "images": 500,
            "map": 78.0,
            "map_reference": 80.0,
            "map_drop": 2.0,
            "map_drop_interval": [1.5, 2.5],
            "cf1": 70.0,
            "of1": 72.0,
            "convention": "AP not interpolated",
            "per_class": per_class,
            "worst": [["class 4", 4.0]],
            "causes": {"scores": 0.5, "classes": 1.25, "boxes": 0.5, "local": -0.25},
        },
        "regions": {"class_agreement": 0.987, "mean_iou": 0.95},
        "machine": {"cpu": "Fast CPU 9 " * 8, "cores": 2, "cores_online": 4, "instructions": ["avx2", "avx512_vnni"], "memory_mb": 8192},
        "effort": {
            "chosen": 0.3,
            "mean_looks": 1.16,
            "map": 78.1,
            "map_drop": -0.1,
            "map_drop_interval": [-0.4, 0.2],
            "mean_ratio": 0.512,
            "p99_ratio": 1.01,
            "regions": 4,
            "images": 496,
            "batch": 8,
            "curve": [
                {"effort": e, "mean_looks": looks, "map": points, "mean_ms": ms, "p50_ms": ms, "p99_ms": ms + 9, "max_ms": ms + 20}
                for e, looks, points, ms in ((0.0, 0.0, 76.5, 15.1), (0.3, 1.16, 78.1, 31.3), (1.0, 4.0, 78.0, 61.2))
            ],
        },
        "sensitivity": {
            "map_drop": 0.18,
            "map_drop_all_int8": 0.61,
            "returned_to_float": ["global/block3"],
            "ranking": [{"unit": "global/block3", "map_points": 0.4}, {"unit": "local/block1", "map_points": 0.1}],
        },
        "gates": [{"condition": "p99>+5%", "measured": 70.0, "limit": 65.0, "failed": True}],
    }
    return made | changes


def result(**changes):
    return Result.from_plain(content(**changes))


def sweep():
    run = {key: content()[key] for key in ("latency_ms", "throughput_images_per_s", "valid")}
    return [{**run, "batch": 1}, {**run, "batch": 4, "valid": False}, {**run, "batch": 8}]


@pytest.mark.parametrize("changes", [{}, {"sweep": sweep()}, {"engines": [content(), content(precision="fp16", float16="bf16")]}])
def test_terminal_report_fits_its_width_and_tells_everything(changes):
    text = report.terminal(result(**changes))
    assert max(map(len, text.splitlines())) <= 120
    for part in ("61.23", "130.6", "VALID", "-2.00 [-2.50, -1.50]", "98.7%", "0.950", "class 4 -4.0", "FAIL p99>+5%", "not available here"):
        assert part in text, part
    for part in (
        "Δ mAP -2.00: scores -0.50, swapped classes -1.25, moved boxes -0.50, local stream +0.25",
        "global/block3 +0.40, local/block1",
    ):
        assert part in " ".join(text.split()), part
    assert "-0.61 points in int8, -0.18 as built; in float: global/block3" in " ".join(text.split())


def test_a_table_too_wide_cuts_only_the_first_column():
    rows = [["a very long name of an engine " * 5, *["1234567.89"] * 8]]
    lines = report.text_table(["engine", *[f"column {index}" for index in range(8)]], rows)
    assert max(map(len, lines)) <= 120
    assert "…" in lines[2]
    assert lines[2].count("1234567.89") == 8


def test_a_full_row_keeps_its_name_and_what_matters():
    engine = result(latency_ms={name: value * 100 for name, value in content()["latency_ms"].items()})
    head, _, row = report.text_table(report.COLUMNS, report.engine_rows(engine))
    assert row.startswith("mcar-mobilenetv2 256 int8 openvino ")
    for column in ("p50", "p99", "mAP", "Δ mAP [95%]", "top-K", "IoU"):
        assert column in head


def test_no_two_engines_of_a_report_have_one_name():
    other = result(bundle="engines/other")
    assert report.names([result(), result(precision="fp32")]) == [
        "mcar-mobilenetv2 256 int8 openvino",
        "mcar-mobilenetv2 256 fp32 openvino",
    ]
    assert report.names([result(), other]) == ["mcar-mobilenetv2-scenes-256-int8-openvino", "other"]
    assert report.names([other, other]) == ["other", "other (2)"]
    text = page.html(replace(other, engines=(other, other)))
    assert text.count("other (2)") >= 3


def zoo():
    """Twelve engines: with regions and both streams, regions without streams, scores alone."""
    plain = {**content()["accuracy"], "causes": None, "map_reference": 70.0}
    kinds = {
        "mcar-mobilenetv2": {},
        "rma-mobilenetv2": {"accuracy": plain},
        "aamn-mobilenetv2": {"accuracy": plain, "regions": None},
        "plain-mobilenetv2": {"accuracy": None, "regions": None, "sensitivity": None},
    }
    return [
        content(model=model, precision=precision, backend="onnxruntime", bundle=f"engines/{model}-{precision}", **changes)
        for model, changes in kinds.items()
        for precision in ("fp32", "fp16", "int8")
    ]


def test_a_report_of_many_engines_names_each_and_tells_of_all():
    engines = zoo()
    engines[4] |= {"valid": False, "reasons": ["unstable: it shook"], "warnings": ["unstable: it shook", "no drop: no reference"]}
    comparison = [{"bundle": "", "ratio": 1.5, "interval": [1.4, 1.6], "rounds": 7, "verdict": "slower"} for _ in engines]
    gates = [{"engine": "rma-mobilenetv2 256 fp32 onnxruntime", "condition": "map>1", "measured": None, "limit": 1.0, "failed": False}]
    many = {**engines[0], "engines": engines, "comparison": comparison, "gates": gates}
    text = report.terminal(Result.from_plain(many))
    assert max(map(len, text.splitlines())) <= 120
    for one in engines:
        name = f"{one['model']} 256 {one['precision']} onnxruntime"
        assert f"\n{name} " in text
        if one is not engines[0]:
            assert f"\ncompare    {name}: 1.500 × [1.400, 1.600], slower" in text
    assert "\ncompare    interleaved over 7 rounds, × mcar-mobilenetv2 256 fp32 onnxruntime" in text
    assert "\ndetails    of mcar-mobilenetv2 256 fp32 onnxruntime" in text
    assert "\nverdict    rma-mobilenetv2 256 fp16 onnxruntime: INVALID: unstable: it shook" in text
    assert "VALID\n" not in text
    assert "\nnote       rma-mobilenetv2 256 fp16 onnxruntime: no drop: no reference" in text
    assert "\ngate       not judged rma-mobilenetv2 256 fp32 onnxruntime: map>1: not measured, limit 1" in text
    for form in (report.markdown(Result.from_plain(many)), page.html(Result.from_plain(many))):
        assert "plain-mobilenetv2 256 int8 onnxruntime" in form


def test_a_reference_is_drawn_only_where_all_engines_share_it():
    drawn = {len(engines): page.html(result(engines=engines)) for engines in (zoo()[:3], zoo())}
    assert "FP32 80.00" in drawn[3]
    assert "FP32 80.00" not in drawn[12]
    assert "FP32 70.00" not in drawn[12]


def test_columns_that_nobody_fills_are_left_out():
    text = report.terminal(result(accuracy=None, regions=None))
    assert "mAP" not in text.splitlines()[3]
    assert "p99" in text


def test_an_invalid_run_says_so_in_every_form():
    bad = result(valid=False, reasons=["unstable: it shook"], warnings=["unstable: it shook"])
    assert "INVALID: unstable: it shook" in report.terminal(bad)
    assert "INVALID: unstable: it shook" in report.markdown(bad)
    assert ">invalid<" in page.html(bad)


def test_markdown_has_a_row_per_engine_and_class():
    text = report.markdown(result())
    assert text.startswith("# mcar-mobilenetv2-scenes-256-int8-openvino\n")
    assert "| mcar-mobilenetv2 256 int8 openvino | 8 | 61.23 |" in text
    assert "| class 3 | 77.0 | 80.0 | -3.00 |" in text


def test_changes_against_a_baseline_are_relative_but_for_map():
    base = result(latency_ms={**content()["latency_ms"], "p99": 50.0}, accuracy={"map": 79.0, "map_drop": 1.0}, batch=4)
    moved = report.changes(result(), base, "base.json")
    assert moved.changes["p99"] == "+40.0%"
    assert moved.changes["map"] == "-1.00"
    assert moved.differs == ("batch",)


def photo():
    box = (0.1, 0.2, 0.5, 0.75)
    return page.Photo("a<b>.jpg", "data:image/jpeg;base64,AAAA", 200, 100, (("cat", box),), (("cat", box), ("dog", box)), 0.5)


def full_page():
    engines = [content(sweep=sweep()), content(precision="fp32", backend="onnxruntime")]
    soak = {"seconds": 60.0, "latency_drift": 0.01, "memory_growth_mb": 0.5, "reasons": [], "windows": []}
    soak["windows"] = [{"at_s": 3.0 * index, "p50": 60.0, "p99": 70.0, "rss_mb": 500.0} for index in range(20)]
    return page.html(result(engines=engines, soak=soak), result(), [photo()])


def test_page_is_well_formed_and_self_contained():
    text = full_page()
    root = ElementTree.fromstring(text.removeprefix("<!doctype html>"))
    links = [value for element in root.iter() for name, value in element.attrib.items() if name in ("href", "src")]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "<script" not in text
    assert not re.search(r"https?://|url\(|@import", text)


def test_page_escapes_what_it_was_given():
    text = full_page()
    assert "a<b>" not in text
    assert "<with>" not in text
    assert "a note &lt;with&gt; brackets" in text


def test_page_has_its_charts_and_no_empty_sections():
    of_accuracy = {"Accuracy against latency", "Average precision by class", "Where Δ mAP comes from", "Sensitivity"}
    every = {"Latency", "Where the time goes", "Batch sweep", "Regions", "Soak", *of_accuracy}
    sections = set(re.findall("<h2>(.*?)</h2>", full_page()))
    assert every <= sections
    bare = page.html(result(accuracy=None, regions=None, sensitivity=None))
    assert not (of_accuracy | {"Regions", "Soak"}) & set(re.findall("<h2>(.*?)</h2>", bare))


def test_where_nothing_was_ranked_there_is_no_ranking():
    """The gate held at once: what it measured is told, and no empty drawing."""
    held = {"map_drop": 0.1, "map_drop_all_int8": 0.1, "returned_to_float": [], "ranking": []}
    assert "<h2>Sensitivity</h2>" not in page.html(result(sensitivity=held))
    text = report.markdown(result(sensitivity=held))
    assert "- **built**: Δ mAP on the validation images of the build: -0.10 points in int8, -0.10 as built" in text
    assert "sensitive" not in text
    assert "in float:" not in text


def test_every_report_tells_what_looking_less_costs_and_gains():
    made = result()
    told = report.terminal(made)
    assert "0.3: 1.16 of 4 regions per image; mean 31.30 ms, 0.512 × effort 1" in told
    assert "Δ mAP +0.10 [-0.20, +0.40]" in " ".join(told.split())
    assert re.search(r"0\.3 \* +1\.16 +78\.10 +31\.30 +31\.30 +40\.30 +51\.30", told)
    assert "| 0.3 * | 1.16 | 78.10 | 31.30 | 31.30 | 40.30 | 51.30 |" in report.markdown(made)
    drawn = page.html(made)
    assert "<h2>Effort</h2>" in drawn
    assert "effort 0.3, as built: 3.91 ms per image, 78.10 mAP" in drawn
    for text in (report.terminal(result(effort=None)), report.markdown(result(effort=None)), page.html(result(effort=None))):
        assert "looks" not in text
        assert "where it pays" not in text


def test_names_of_classes_and_folders_are_text_in_every_report():
    evil = "a\x1b[2J\nb|c`<script>\u202e\ud800"
    made = result(
        bundle=f"engines/{evil}", model=evil, warnings=[evil], accuracy={**content()["accuracy"], "worst": [[evil, 4.0]], "per_class": {
            evil: {"ap": 70.0, "ap_reference": 80.0, "drop": 10.0}}},
    )  # fmt: skip
    for text in (report.terminal(made), report.markdown(made), page.html(made)):
        text.encode()
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
        assert r"\x1b[2J" in text.replace("\\\\", "\\")
        assert not re.search(r"^\s*b\\?\|c", text, re.MULTILINE)
    assert "<script>" not in page.html(made)
    assert not re.search(r"(?<!\\)<script>|b\|c", report.markdown(made))
