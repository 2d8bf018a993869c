"""Where a run on a GPU finds what it needs and leaves what it makes, and how it calls other
programs.

A pack (``run.sh --pack``) is a folder of archives in parts, ``NAME.tar.xz.00``, ``NAME.tar.xz.01``
…; unpacked it holds

- ``tensorrt/``: the libraries of TensorRT 8.6 and its Python module,
- ``tools/bin``, ``tools/lib``: ``mcar_edge_build``, ``mcar_edge_bench``, the plugin and what they
  load; ``include``: TensorRT's headers,
- ``bundles/NAME``: bundles without plans; ``reference/MODEL-SIZE.npz``: what their fp32 graphs
  answer in ONNX Runtime,
- ``python``: a Python 3.10, for the Python module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from edge.backends.base import Facts

Found: TypeAlias = Facts  # of a stage, as its part of the result
Save: TypeAlias = Callable[[], None]

REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = REPOSITORY / "kernels"
GPU = REPOSITORY / "benchmarks" / "gpu"
ARCHIVES = {"tools": ("tools", "include", "reference", "python"), "bundles": ("bundles",), "tensorrt": ("tensorrt",)}
STUB = "libnvinfer_plugin.so.8"
SLOWER = 3  # times that a stage of a rehearsal may take
TAIL = 60  # lines of a log that are kept


class Missing(Exception):
    """What a stage needs is not here; the text says what."""


@dataclass(frozen=True)
class Answer:
    """What a program said (both streams) and how it ended; -1: it was not found, or cut off at its
    limit."""

    output: str
    code: int
    seconds: float

    @property
    def tail(self) -> list[str]:
        return self.output.splitlines()[-TAIL:]


@dataclass(frozen=True)
class Place:
    """One run's folders.

    Attributes:
        pack: the archives' folder, or None.
        work: what is made, kept between calls; the pack is unpacked here.
        out: results.
        rehearse: stand-ins for what needs a GPU.
        tools: where ``mcar_edge_build`` and ``mcar_edge_bench`` are; None: the pack's, in a
            rehearsal stand-ins of Python.
        level: of the builder; higher ones take minutes.
    """

    pack: Path | None
    work: Path
    out: Path
    rehearse: bool = False
    tools: Path | None = None
    level: int = 2

    @cached_property
    def environment(self) -> dict[str, str]:
        """For programs that use TensorRT; nothing is looked up in, or left in, the user's own
        caches."""
        libraries = [str(self.work / "tensorrt"), str(self.work / "tools" / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        plugin = self.work / "tools" / "lib" / "libedge_plugin.so"
        return {
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            **({"EDGE_TENSORRT_PLUGIN": str(plugin)} if plugin.is_file() and not self.rehearse else {}),
        }

    @property
    def timings(self) -> Path:
        """The builder's timings of kernels, among the results too."""
        return self.work / "timings.cache"

    def tool(self, name: str) -> list[str]:
        """The command that runs ``mcar_edge_build`` or ``mcar_edge_bench``."""
        folders = [self.tools, None if self.rehearse else self.work / "tools" / "bin"]
        for folder in filter(None, folders):
            if (folder / name).is_file():
                return [str(folder / name)]
        if self.rehearse:
            return [sys.executable, "-m", "benchmarks.gpu.stand_in", name]
        raise Missing(f"no {name}: the pack was made without it")

    @property
    def python(self) -> list[str]:
        """The command that runs the Python for TensorRT's module."""
        if self.rehearse:
            return [sys.executable]
        if not (program := self.work / "python" / "bin" / "python3.10").is_file():
            raise Missing("no Python 3.10 in the pack")
        libraries = f"{self.work / 'python' / 'lib'}:{self.environment['LD_LIBRARY_PATH']}"
        return ["env", f"LD_LIBRARY_PATH={libraries}", str(program)]

    def bundle(self, name: str) -> Path:
        """A bundle without a plan."""
        if not (path := self.work / "bundles" / name / "manifest.json").is_file():
            raise Missing(f"no bundle {name} in the pack")
        return path.parent

    def plan(self, stage: str) -> Path:
        """The bundle that a stage builds."""
        return self.work / "plans" / stage

    def built_plan(self, stage: str) -> Path:
        if not (path := self.plan(stage) / "manifest.json").is_file():
            raise Missing(f"no plan of {stage}")
        return path.parent

    def call(self, command: Sequence[str | Path], limit: float, environment: Mapping[str, str] | None = None) -> Answer:
        """A program with this place's environment, ended at the limit with all it started."""
        return call(command, limit, {**self.environment, **(environment or {})})

    def unpack(self, limit: float) -> dict[str, float | str]:
        """Join and unpack the archives, all at once; seconds by name, or that it is not there."""
        if self.pack is None:
            raise Missing("no pack: pass --from DIR")
        self.work.mkdir(parents=True, exist_ok=True)
        begun, running = time.monotonic(), {}
        found: dict[str, float | str] = {}
        for name in ARCHIVES:
            parts = sorted(self.pack.glob(f"{name}.tar.xz.*"))
            if not parts:
                found[name] = "absent"
            elif not self._mark(name).is_file():
                unpacker = "xz -dT0" if shutil.which("xz") else f"{sys.executable} -m benchmarks.gpu.place"
                words = f'cat "$@" | {unpacker} | tar xf - -C "{self.work}"'
                running[name] = subprocess.Popen(["bash", "-o", "pipefail", "-c", words, "bash", *map(str, parts)], cwd=REPOSITORY)
        for name, process in running.items():
            if process.wait(max(1.0, limit - (time.monotonic() - begun))) == 0:
                self._mark(name).touch()
                found[name] = round(time.monotonic() - begun, 1)
        broken = [name for name in running if name not in found]
        stub = self.work / "tools" / "lib" / STUB
        if stub.is_file() and (self.work / "tensorrt").is_dir():  # its Python module looks beside itself
            shutil.copy(stub, self.work / "tensorrt")
        if broken:
            raise RuntimeError(f"the parts of {', '.join(broken)} do not join to an archive")
        return found

    def _mark(self, name: str) -> Path:
        return self.work / f".{name}-unpacked"


def call(command: Sequence[str | Path], limit: float, environment: Mapping[str, str]) -> Answer:
    """A program in a session of its own; past the limit all of that session is killed."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe would stay open as long as any grandchild holds it
        try:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=REPOSITORY,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Answer(str(error), -1, 0.0)
        try:
            code, words = process.wait(limit), ""
        except subprocess.TimeoutExpired:
            code, words = -1, f"\nnot done within {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return Answer(said.read() + words, code, round(time.monotonic() - begun, 1))


def gpu_name() -> str | None:
    """Name of the first GPU, as the driver tells it."""
    answer = call(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], 20, {})
    return answer.output.splitlines()[0].strip() if answer.code == 0 and answer.output.strip() else None


if __name__ == "__main__":  # where there is no xz
    import lzma

    with lzma.open(sys.stdin.buffer) as packed:
        shutil.copyfileobj(packed, sys.stdout.buffer)
