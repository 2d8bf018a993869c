"""The packages that a build from weights needs beside ``edge``."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from edge import backends
from edge.errors import EdgeError


def check_host_packages() -> None:
    """Refuse, in one line, what a build from weights needs and does not find, or finds under our
    name made by a stranger."""
    home = Path(__file__).resolve().parent.parent
    for name in ("export", "calib"):
        found = find_spec(name)
        place = found and (found.origin or next(iter(found.submodule_search_locations or ()), None))
        if place and home / name not in (Path(place).resolve(), Path(place).resolve().parent):
            raise EdgeError(
                "build",
                f"Python finds another package named {name!r}, {place}, before the one installed with edge, {home / name}",
                "Rename it, or remove its folder from PYTHONPATH and start elsewhere",
            )
    try:
        for name in ("edge.models.source", "export", "calib.placement", "calib.trials"):
            import_module(name)
    except ImportError as error:
        raise _missing(str(error)) from error
    if find_spec("onnxscript") is None:  # which torch imports when it exports
        raise _missing("no module named 'onnxscript'")
    reference = backends.probe("onnxruntime")
    if reference.reason:
        raise _missing(reference.reason)


def _missing(why: str) -> EdgeError:
    return EdgeError(
        "build",
        f"To build from weights, torch, torchvision, onnx, onnxscript and onnxruntime are needed: {why}",
        'pip install "mcar-edge[build]", or on a device: python -m edge.build --from BUNDLE',
    )
