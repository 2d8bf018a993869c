"""Charts: degenerate numbers, round ticks, names that can be read."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import Image

from edge import charts
from edge.charts import Bar
from edge.charts.marks import decades, figure, ticks
from edge.charts.sheet import png, sheet

BARS = charts.bars([Bar("x", 10.0, 0, "ten"), Bar("y", 200.0, 2)], unit="ms", logarithmic=True)


def numbers(drawing, attribute):
    return [float(value) for value in re.findall(rf' {attribute}="(-?[\d.]+)"', drawing)]


@pytest.mark.parametrize(
    "drawing",
    [
        charts.distribution({"a": [1.0, 1.0, 1.0], "b": [5.0, 500.0, 6.0]}),
        charts.timeline([3.0] * 10 + [900.0]),
        charts.pareto([("one", 3.0, 80.0)], reference=80.0),
        charts.dumbbells([("x", 50.0, 50.0)], before="a", after="b"),
        charts.bars([Bar("x", 0.0), Bar("y", -1.0)], unit="points"),
        BARS,
        charts.stacks({"x": {"a": 0.0, "b": 1.0}}, colours={}),
        charts.lines({"x": [(1.0, 2.0)]}, x_unit="batch", y_unit="ms"),
    ],
)
def test_degenerate_numbers_stay_on_the_drawing(drawing):
    ElementTree.fromstring(drawing)
    assert "nan" not in drawing
    assert all(-1 <= x <= 961 for attribute in ("x", "x1", "x2", "cx") for x in numbers(drawing, attribute))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.13, 0.92, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (78.2, 80.1, [78, 78.5, 79, 79.5, 80, 80.5])],
)
def test_ticks_are_round_and_cover(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(5.5, 107, [5, 10, 20, 50, 100, 200]), (10, 20, [10, 20]), (0.03, 0.04, [0.02, 0.05])]
)
def test_decades_cover(low, high, expected):
    assert decades(low, high) == pytest.approx(expected)


def test_charts_below_one_another_are_one_drawing_and_one_picture():
    whole = sheet(
        {"First & last": charts.lines({"a": [(1, 2), (2, 4)], "b": [(1, 3)]}, x_unit="batch", y_unit="ms"), "Second": BARS},
        title="two",
        foot="seen",
    )
    assert [svg.get("y") for svg in ElementTree.fromstring(whole).iter("{http://www.w3.org/2000/svg}svg")] == [None, "24", "288"]
    picture = Image.open(io.BytesIO(png(whole)))
    assert picture.size == (960, 288 + 24 + 22 * 2 + 44 + 24)
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert {(0x25, 0x63, 0xC9), (0xD9, 0x73, 0x0D), (0x1F, 0x8A, 0x5B)} <= colours, "both curves and the second bar"


def test_front_holds_what_nobody_beats():
    points = [("slow good", 10.0, 80.0), ("fast bad", 2.0, 70.0), ("beaten", 5.0, 69.0), ("middle", 5.0, 75.0), ("twin", 10.0, 80.0)]
    assert [points[index][0] for index in charts.front(points)] == ["fast bad", "middle", "slow good"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (61.234, "61.2"), (1234.5, "1234"), (0.05, "0.05"), (5.0, "5"), (0.12345, "0.123"), (100.0, "100")]
)
def test_figures_have_three_digits_that_count(value, text):
    assert figure(value) == text


def test_names_of_engines_that_lie_close_together_can_be_read():
    drawing = charts.pareto([("a", 10.0, 90.00), ("b", 10.5, 90.02), ("c", 11.0, 90.03), ("d", 11.0, 89.99)])
    rows = sorted(float(row) for row, name in re.findall(r'y="([\d.]+)"[^>]*>([abcd])</text>', drawing))
    assert len(rows) == 4
    assert all(below - above >= 14 for above, below in pairwise(rows))


def test_limits_are_lines_and_no_point_is_drawn_over_a_name():
    drawn = charts.pareto([("a", 10.0, 90.0), ("b", 10.5, 90.0)], limits=(12.0, 85.0), colours=(2, 2))
    assert "at most 12 ms" in drawn
    assert "at least 85.00 mAP" in drawn
    assert drawn.rindex("<circle") < drawn.index(">a</text>")
    assert set(re.findall(r'<circle[^>]*class="(\w)\d"', drawn)) == {"f", "o"}
    assert set(re.findall(r'<circle[^>]*class="\w(\d)"', drawn)) == {"2"}
    beyond = charts.pareto([("a", 10.0, 90.0)], limits=(500.0, None))  # which would squeeze the rest into a corner
    assert "500" not in beyond


def test_of_many_engines_only_those_asked_for_are_named_and_all_can_be_pointed_at():
    from edge.charts import pareto

    points = [("fast", 1.0, 80.0), ("beaten", 2.0, 79.0), ("best", 3.0, 90.0)]
    drawn = pareto(points, named={"best"})
    assert drawn.count("</title>") == 3
    assert ">best</text>" in drawn
    assert ">fast</text>" not in drawn
    assert ">beaten</text>" not in drawn
