"""The applications in the README, run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MOST_LINES = 30
MARK = "<!-- application -->"


def application(repository: Path, language: str) -> str:
    """The block of that language after the mark; skips where the README has none."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(MARK)}\n```{re.escape(language)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not found:
        pytest.skip(f"the README has no {language} block after {MARK}")
    assert len(found[1].splitlines()) <= MOST_LINES
    return found[1]


@pytest.fixture
def place(tmp_path: Path, bundle: Path) -> Path:
    """A folder as the README leaves it: engines/first, and a photograph."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "first").symlink_to(bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def labels(bundle: Path) -> list[str]:
    return (bundle / "labels.txt").read_text().splitlines()


def test_the_python_application_runs(run, repository: Path, place: Path) -> None:
    code = application(repository, "python")
    printed = run(sys.executable, "-c", code, "engines/first", "photo.png", cwd=place)
    assert any(name in printed for name in labels(place / "engines" / "first"))


def test_the_cpp_application_builds_and_runs(run, repository: Path, place: Path, request: pytest.FixtureRequest) -> None:
    code = application(repository, "cpp")
    runtime, cmake = request.getfixturevalue("runtime"), request.getfixturevalue("cmake")
    source = place / "application"
    source.mkdir()
    (source / "main.cpp").write_text(code)
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(application LANGUAGES CXX)\nfind_package(mcar_edge REQUIRED)\n"
        "add_executable(application main.cpp)\ntarget_link_libraries(application PRIVATE mcar_edge::mcar_edge)\n"
    )
    build = cmake(source, place / "build", f"CMAKE_PREFIX_PATH={runtime.prefix}", "CMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    printed = run(build / "application", "engines/first", "photo.png", cwd=place)
    assert any(name in printed for name in labels(place / "engines" / "first"))
