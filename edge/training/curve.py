"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge import charts
from edge.charts.sheet import png, sheet


def draw_curve(rows: Sequence[Mapping[str, float | str]]) -> bytes:
    """A PNG of the loss and of the validation mAP of each stream, in points, over the epochs of a
    log; empty cells are left out."""
    curves = {
        name: [(float(row["epoch"]), float(row[name])) for row in rows if row[name] != ""]
        for name in rows[0]
        if name == "loss" or name.startswith("map_")
    }
    streams = {name.removeprefix("map_"): values for name, values in curves.items() if name != "loss" and values}
    drawn = {"Loss": charts.lines({"loss": curves["loss"]}, x_unit="epoch", y_unit="loss")} if curves["loss"] else {}
    if streams:
        drawn["Validation mAP"] = charts.lines(streams, x_unit="epoch", y_unit="mAP")
    return png(sheet(drawn, title="Loss and validation mAP by epoch"))
