"""Writes the reference of the Python API, as HTML made from the docstrings:
``python docs/reference.py FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

import edge

# What an application or somebody's own tool calls.
MODULES = (
    "edge",
    *("edge.engine", "edge.prediction", "edge.video", "edge.image", "edge.draw", "edge.errors"),
    *("edge.pipeline", "edge.options", "edge.events", "edge.tuning", "edge.bundle", "edge.spec"),
    *("edge.models", "edge.data", "edge.backends.base", "edge.report.result", "export", "calib"),
)


def main(folder: Path) -> None:
    for name in edge.__all__:  # pdoc looks only at what a module holds already, and these are imported when asked for
        setattr(edge, name, getattr(edge, name))
    pdoc.render.configure(docformat="google", footer_text=f"mcar-edge {edge.__version__}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error parsing type annotation")  # the recursive type of JSON values
        pdoc.pdoc(*MODULES, output_directory=folder)
    print(f"reference      {folder / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
