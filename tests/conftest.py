"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs, data and photographs that are not part of the project; skips where they are absent."""
    path = Path(os.environ.get("EDGE_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference material not found at {path}; set EDGE_SHARED to its folder")
    return path


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A function (backend, precision) → bundle of the random MobileNetV2 at 64 pixels, largest batch 3, built once a session."""
    from edge import build, command

    built: dict[tuple[str, str], Path] = {}

    def make(backend: str, precision: str = "fp32") -> Path:
        if backend in ("openvino", "onnxruntime"):
            pytest.importorskip(backend)
        if (backend, precision) not in built:
            folder = tmp_path_factory.mktemp("engines") / f"{backend}-{precision}"
            words = ["--weights", "random", "--size", "64", "--batch", "3", "--backend", backend, "--precision", precision]
            words += ["--calib-images", "8", "--output", str(folder), "--json", str(folder.with_suffix(".json"))]
            assert command.run(build.main, build.arguments().parse_args(words)) == 0
            built[backend, precision] = folder
        return built[backend, precision]

    return make
