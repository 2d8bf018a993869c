"""The applications in the README and the service example, run as they stand."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
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
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path


def labels(bundle: Path) -> list[str]:
    return (bundle / "labels.txt").read_text().splitlines()


def test_the_python_application_runs(run, repository: Path, place: Path) -> None:
    code = application(repository, "python")
    printed = run(sys.executable, "-c", code, "engines/first", "scene.png", cwd=place)
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
    printed = run(build / "application", "engines/first", "scene.png", cwd=place)
    assert any(name in printed for name in labels(place / "engines" / "first"))


def test_the_service_answers(repository: Path, place: Path) -> None:
    words = [sys.executable, str(repository / "examples" / "service.py"), "engines/first", "0"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    with subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(address, (place / "scene.png").read_bytes(), timeout=60) as answer:
                found = json.load(answer)
            assert found.keys() == {"labels", "regions"}
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                urllib.request.urlopen(address, b"no photograph", timeout=60)
            assert "[image]" in json.load(refused.value)["error"]
            host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
            for length in (b"\xb2", b"9" * 5000, b"-1", b""):  # the first is a digit to str.isdigit, and no number
                with socket.create_connection((host, int(port)), timeout=60) as line:
                    line.sendall(b"POST / HTTP/1.0\r\nContent-Length: " + length + b"\r\n\r\n")
                    assert b" 413 " in line.makefile("rb").readline()
        finally:
            server.terminate()
