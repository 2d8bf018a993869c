"""Builds stopped: killed at random moments, their builder killed, the disk full at any file. By
TensorRT-RTX for real, and by the fake."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge import backends
from edge.bundle import Bundle
from edge.spec import TargetSpec

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
absent = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is absent")


@pytest.fixture(params=["tensorrt", pytest.param("tensorrt-rtx", marks=absent)])
def source(request, small_graph, bundled, tmp_path, fake_tensorrt) -> Path:
    """A bundle to rebuild: the quickest build of the command line."""
    if request.param == "tensorrt":
        fake_tensorrt("10.3")
    target = TargetSpec(request.param, "int8", (1, 3), "fp16")
    return bundled(tmp_path / "source" / "bundle", small_graph("int8"), target, lowering=backends.lowering(request.param)).path


class Build:
    """``edge.build --from`` in a process of its own; ``limit`` is the largest file it may write, in
    bytes."""

    def __init__(self, source: Path, output: Path, repository: Path, limit: int = resource.RLIM_INFINITY) -> None:
        command = [sys.executable, "-m", "edge.build", "--from", str(source), "--output", str(output), "--batch", "3"]
        self.process = subprocess.Popen(
            command,
            cwd=repository,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def children(self) -> list[int]:
        with contextlib.suppress(OSError):
            pid = self.process.pid
            return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def builder(self) -> int:
        """The process the library works in, as soon as it is there."""
        while self.process.poll() is None:
            for child in self.children():
                with contextlib.suppress(OSError):  # others come and go
                    if b"trt.build" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return child
            time.sleep(0.01)
        raise AssertionError(f"no builder was started: {self.process.communicate()[1]}")

    def kill(self) -> None:
        """What it started ends with it."""
        children = self.children()
        self.process.kill()
        self.process.communicate()
        assert all(gone(child) for child in children), "the builder outlived the build"

    def finish(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


def gone(pid: int) -> bool:
    """Whether that process ends within the next seconds."""
    for _ in range(500):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]:
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_build_killed_at_random_moments_never_leaves_half_a_bundle(source, tmp_path, repository):
    engines = tmp_path / "engines"
    start = time.monotonic()
    assert Build(source, engines / "whole", repository).finish()[0] == 0
    took = time.monotonic() - start
    chance = random.Random(20)
    for _ in range(3):
        build = Build(source, engines / "killed", repository)
        time.sleep(chance.uniform(0, took))
        build.kill()
        if (engines / "killed").exists():  # it was killed after its last step
            Bundle.read(engines / "killed").verify()
            (engines / "killed").rename(tmp_path / f"finished-{chance.random()}")
    assert Build(source, engines / "killed", repository).finish()[0] == 0
    assert sorted(each.name for each in engines.iterdir()) == ["killed", "whole"], "what killed builds left was not removed"


def test_a_build_killed_while_the_library_works_takes_it_along(source, tmp_path, repository, monkeypatch):
    monkeypatch.setenv("EDGE_FAKE_BUILD", "sleep")
    build = Build(source, tmp_path / "engines" / "bundle", repository)
    build.builder()
    build.kill()
    assert not (tmp_path / "engines" / "bundle").exists()


def test_a_builder_killed_at_random_moments_is_one_line(source, tmp_path, repository, monkeypatch):
    monkeypatch.setenv("EDGE_FAKE_BUILD", "sleep")
    chance = random.Random(21)
    for _ in range(2):
        build = Build(source, tmp_path / "engines" / "bundle", repository)
        for _ in range(3):  # TensorRT tries again with less memory
            builder = build.builder()
            time.sleep(chance.uniform(0, 0.3))
            os.kill(builder, signal.SIGKILL)
            gone(builder)
            if "tensorrt-rtx" in (source / "manifest.json").read_text():
                break
        code, said = build.finish()
        assert code == 1
        assert "ended with SIGKILL, as for want of memory" in said
        assert len(said.strip().splitlines()) == 1, said
        assert list((tmp_path / "engines").iterdir()) == []


def test_a_disk_that_is_full_at_any_file_is_one_line(source, tmp_path, repository):
    sizes = sorted({each.stat().st_size for each in source.iterdir() if each.suffix != ".txt"})
    limits = [200, *sizes[1:]]  # a limit at a file's size stops the next larger one
    for limit in limits:
        code, said = Build(source, tmp_path / "engines" / "bundle", repository, limit - 1).finish()
        assert code == 1, f"{limit}: {said}"
        assert "File too large" in said
        assert len(said.strip().splitlines()) == 1, said
        assert list((tmp_path / "engines").iterdir()) == []
