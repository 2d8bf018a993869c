"""What commands say of architectures comes from the table of names, and the picture of a run from its log."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edge import train
from edge.charts.marks import SERIES
from edge.charts.sheet import COLOURS
from edge.models import DEFAULT_MODEL, FAMILIES, MODELS
from edge.models.checkpoint import describe
from edge.models.curve import draw_curve
from edge.models.source import ASSETS, shipped, weights_file


def test_every_architecture_has_its_line_in_the_help():
    assert {name.partition("-")[0] for name in MODELS} == set(FAMILIES)
    said = train.arguments().format_help()
    assert all(line in said for line in FAMILIES.values())
    assert train.arguments().parse_args([]).model == DEFAULT_MODEL
    assert DEFAULT_MODEL in MODELS


def test_a_shipped_name_is_its_file_and_any_other_a_path(tmp_path):
    for name in shipped():
        assert weights_file(name) == ASSETS / f"{name}.pth"
    assert weights_file(str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"


def test_an_unknown_checkpoint_is_not_taken_for_one_architecture():
    import torch

    with pytest.raises(Exception, match=r"or what edge\.train writes"):
        describe({"fc.weight": torch.zeros(5, 2)})


@pytest.mark.parametrize("streams", [("scores",), ("whole", "parts", "both"), tuple("abcde")])
def test_the_curve_shows_every_stream_of_any_network(streams):
    rows = [
        {"epoch": epoch, "loss": 1 / epoch, **{f"map_{name}": 9.0 * epoch * place for place, name in enumerate(streams, 1)}}
        for epoch in (1, 2)
    ]
    colours = set(map(tuple, np.asarray(Image.open(io.BytesIO(draw_curve(rows))).convert("RGB")).reshape(-1, 3).tolist()))
    series = [tuple(bytes.fromhex(COLOURS[f"c{index}"][1:])) for index in range(SERIES)]
    assert [colour in colours for colour in series] == [index < len(streams) for index in range(SERIES)]
