"""A build killed at any moment leaves no bundle under its name and no builder behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WRITE = """
import sys
from pathlib import Path
from edge import backends
from edge.bundle import write_bundle
from edge.graph import Graph
from edge.spec import ImageSpec, ModelSpec, TargetSpec
proto = Path(sys.argv[1]).read_bytes()
graph = Graph(proto, ModelSpec("mcar-mobilenetv2", tuple("abcdefghijklmnop")), ImageSpec(32))
write_bundle(Path(sys.argv[2]), graph=graph, reference=proto, lowered=proto, target=TargetSpec("tensorrt", "fp32", (1,)),
             build_engine=backends.backend("tensorrt").build, facts={}, replace=True)
"""


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def wait_for(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_killed_build_leaves_nothing(fake_tensorrt, small_graph, tmp_path, repository, delay):
    fake_tensorrt("10.3", EDGE_FAKE_BUILD="sleep")
    (tmp_path / "graph.onnx").write_bytes(small_graph())
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{repository}"}
    bundle = tmp_path / "engines" / "bundle"
    command = [sys.executable, "-c", WRITE, str(tmp_path / "graph.onnx"), str(bundle)]
    process = subprocess.Popen(command, env=environment)
    assert wait_for(lambda: process.poll() is not None or children(process.pid)), "no builder was started"
    (builder,) = children(process.pid)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not bundle.exists()
    assert wait_for(lambda: not alive(builder)), "the builder outlived the build"

    environment["EDGE_FAKE_BUILD"] = ""
    subprocess.run(command, env=environment, check=True)
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"], "what the killed build left was not removed"
