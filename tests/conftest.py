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
