"""The process that a plan is built in, seen from outside: what it is asked, what it answers, and
what its end means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.backends.base import Facts

MARK = "EDGE-RESULT "
SIGNALS = {each.value: each.name for each in signal.Signals}


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        backend: the row of the table of vendors.
        folder, payload: where the plan goes, and the name of its file.
        profiles: smallest, best and largest number of images of each; of regions where the graph
            takes any.
        images: smallest, best and largest number of images that regions are of.
        route: of our operations, a value of ``plugin.Route``; ``plugin`` is the library's file in
            the folder, on its route.
        share: of the free memory, as workspace; 0 leaves it to the library.
        size: bytes of the graph that follows.
    """

    backend: str
    folder: str
    payload: str
    precision: str
    profiles: list[list[int]]
    images: list[int]
    route: str
    plugin: str
    compute_capabilities: list[str]
    share: float
    size: int


@dataclass(frozen=True)
class Answer:
    """Facts for the manifest; or the error (stage, problem, fix), and whether less workspace may
    help."""

    facts: Facts | None = None
    error: tuple[str, str, str] = ("", "", "")
    again: bool = False


def build_in_child(request: Request, lowered: bytes) -> Answer:
    """Build in a process of its own: what kills or aborts the library there is an answer here."""
    command = [sys.executable, "-m", "edge.backends.trt.build"]
    paths = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n" + lowered)
            process.stdin.flush()  # and stays open: the child ends when it closes, with us
        except BrokenPipeError:
            pass  # its last words say why
        said = process.stdout.read().decode(errors="replace")
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    for line in reversed(said.splitlines()):
        if line.startswith(MARK):
            return Answer(**json.loads(line.removeprefix(MARK)))
    words = [line.strip() for line in said.splitlines() if line.strip()]
    last = f": {words[-1][:200]}" if words else ""
    killed = code == -9  # SIGKILL, a name that Windows does not have
    ended = SIGNALS.get(-code, f"signal {-code}") if code < 0 else f"exit code {code}"
    return Answer(
        error=(
            "backend",
            f"The process that built the engine ended with {ended}{', as for want of memory' if killed else ''}{last}",
            "Close other programs, or build with a smaller `batch` or `size`" if killed else "Report the graph with these words",
        ),
        again=killed,
    )
