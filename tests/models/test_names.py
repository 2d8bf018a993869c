"""Names and options of architectures: the help, what is refused; and the picture of a run from its
log."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edge import train
from edge.charts.marks import SERIES
from edge.charts.sheet import COLOURS
from edge.errors import EdgeError
from edge.models import DEFAULT_MODEL, FAMILIES, MODELS, create
from edge.training.curve import draw_curve


def test_every_architecture_has_its_line_in_the_help():
    assert {name.partition("-")[0] for name in MODELS} == set(FAMILIES)
    said = train.arguments().format_help()
    assert all(line in said for line in FAMILIES.values())
    assert train.arguments().parse_args([]).model == DEFAULT_MODEL
    assert DEFAULT_MODEL in MODELS


# Per architecture: the options, and what the refusal names where that is not the option itself.
REFUSED = {
    "mcar-mobilenetv2": [
        ({"threshold": 0.0}, ""), ({"threshold": 1.0}, ""), ({"threshold": "0.5"}, ""), ({"threshold": float("nan")}, ""),
        ({"regions": 0}, ""), ({"regions": 6}, "1 to 5"), ({"regions": "4"}, ""), ({"regions": 2.5}, ""), ({"regions": True}, ""),
        ({"pooling": "mean"}, "avg, gwp or max"), ({"pooling": ["avg"]}, ""), ({"topn": 4}, "pooling, regions or threshold"),
        *(({"num_classes": count}, "one or more classes") for count in (0, -1, "5")),
    ],
    "mcar-vgg16": [({}, "mcar-resnet101")],
    "rma-mobilenetv2": [
        ({"regions": 0}, ""), ({"regions": 2.0}, ""), ({"score": "share"}, ""), ({"anchors": "none"}, ""), ({"pooling": "gwp"}, ""),
        ({"grid": 1}, ""), ({"hidden": "many"}, ""),
    ],
    "aamn-mobilenetv2": [({"width": 0}, ""), ({"memory": 1}, ""), ({"momentum": 1.0}, ""), ({"pooling": "sum"}, ""), ({"regions": 4}, "")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "says"), [(name, options, says) for name, cases in REFUSED.items() for options, says in cases], ids=str
)
def test_options_that_cannot_be_are_refused(name, options, says):
    with pytest.raises(EdgeError, match=says or next(iter(options))):
        create(name, **{"num_classes": 5, **options})


@pytest.mark.parametrize("streams", [("scores",), ("whole", "parts", "both"), tuple("abcde")])
def test_the_curve_shows_every_stream_of_any_network(streams):
    rows = [
        {"epoch": epoch, "loss": 1 / epoch, **{f"map_{name}": 9.0 * epoch * place for place, name in enumerate(streams, 1)}}
        for epoch in (1, 2)
    ]
    colours = set(map(tuple, np.asarray(Image.open(io.BytesIO(draw_curve(rows))).convert("RGB")).reshape(-1, 3).tolist()))
    series = [tuple(bytes.fromhex(COLOURS[f"c{index}"][1:])) for index in range(SERIES)]
    assert [colour in colours for colour in series] == [index < len(streams) for index in range(SERIES)]
