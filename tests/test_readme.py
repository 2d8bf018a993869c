"""The README keeps its word: marked blocks run, tables name what exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

TIMEOUT = 900  # seconds for one command; the slowest measures
HOME = "import edge, sys; sys.exit(0 if edge.__file__.startswith(sys.prefix) else edge.__file__)"  # the wheel's own
BLOCK = re.compile(r"(?P<mark><!-- tested -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    body: str
    tested: bool


def blocks(text: str) -> list[Block]:
    """Fenced blocks in order; those after a line ``<!-- tested -->`` are run."""
    return [Block(match["language"], match["body"], match["mark"] is not None) for match in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_blocks_are_read_with_their_mark() -> None:
    text = "<!-- tested -->\n```sh\na\nb\n```\ntext\n```python\nc\n```\n```\nplain\n```\n"
    assert blocks(text) == [Block("sh", "a\nb\n", True), Block("python", "c\n", False), Block("", "plain\n", False)]


def test_every_command_is_in_the_table(readme: str, repository: Path) -> None:
    commands = {path.stem for path in (repository / "edge").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert commands == set(re.findall(r"^\| `python -m edge\.(\w+)`", readme, re.MULTILINE))


def test_every_backend_is_in_the_table(readme: str) -> None:
    from edge.backends import BACKENDS

    assert set(BACKENDS) <= set(re.findall(r"^\| `([\w-]+)` \|", readme, re.MULTILINE))


def test_every_folder_is_in_the_map(readme: str, repository: Path) -> None:
    (folders,) = [block.body for block in blocks(readme) if block.body.startswith("edge/ ")]
    named = set(re.findall(r"^ *(\w+)/", folders, re.MULTILINE))
    packages = {path.name for path in (repository / "edge").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert packages | {"edge", "export", "calib", "kernels", "benchmarks"} <= named


def test_the_marked_blocks_run_one_after_the_other(readme: str, repository: Path, installed: Path, tmp_path: Path) -> None:
    """In an empty folder that sees the repository's examples, by the wheel in an environment of its
    own."""
    marked = [block for block in blocks(readme) if block.tested]
    assert {block.language for block in marked} == {"sh", "python"}
    (tmp_path / "examples").symlink_to(repository / "examples")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for block in marked:
        lines = (
            [shlex.split(line, comments=True) for line in block.body.splitlines()]
            if block.language == "sh"
            else [["python", "-c", block.body]]
        )
        for words in [["python", "-c", HOME], *filter(None, lines)]:
            assert words[0] == "python", f"a tested block runs python only, got {words}"
            done = subprocess.run(
                [installed, *words[1:]],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
