"""Threads, processes, and engines that come and go: what docs/embedding.md allows works, what it does not gives an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.spec import ImageSpec, ModelSpec, TargetSpec

IMAGE = np.zeros((1, 3, 64, 64), np.float32)


@pytest.fixture(scope="module")
def bundle(small_bundle) -> Path:
    return small_bundle("openvino")


def python(code: str, bundle: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    """A program of its own, for what ends in a fork; `bundle` is its first argument."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = [sys.executable, "-W", "ignore", "-c", code, str(bundle)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)


FORKED = """
import os, signal, sys, numpy as np
from edge import Engine
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.spec import ImageSpec, ModelSpec, TargetSpec
signal.alarm(200)
engine = Engine.load(sys.argv[1])
image = np.zeros((1, 3, 64, 64), np.float32)
engine.infer(image)
child = os.fork()
if not child:
    signal.alarm(200)
    for use in (lambda: engine.infer(image), lambda: Engine.load(sys.argv[1])):
        try:
            use()
        except EdgeError as error:
            assert "forked" in str(error), error
        else:
            sys.exit("a child used an engine")
    engine.close()
    sys.exit(7)  # through the interpreter's end, where the engine would be destroyed
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
engine.infer(image)
engine.close()
"""

FORKED_FIRST = """
import os, signal, sys, numpy as np
from edge import Engine
signal.alarm(200)
child = os.fork()
with Engine.load(sys.argv[1]) as engine:
    engine.infer(np.zeros((1, 3, 64, 64), np.float32))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_forked_after_loading_is_refused_and_ends(bundle: Path, repository: Path) -> None:
    done = python(FORKED, bundle, repository)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_child_may_load_what_its_parent_loads_after_the_fork(bundle: Path, repository: Path) -> None:
    done = python(FORKED_FIRST, bundle, repository)
    assert done.returncode == 0, done.stderr[-2000:]


class Held:
    """A runner that stays in its call until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go, self.closed = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.let_go.wait(60)
        assert not self.closed.is_set(), "closed under a call"
        return {"scores": np.zeros((len(images), 1), np.float32)}

    def close(self) -> None:
        self.closed.set()


def test_closing_waits_for_calls_under_way_and_refuses_later_ones() -> None:
    runner, found = Held(), []
    engine = Engine(Bundle(Path(), {}, ModelSpec("held", ("a",)), ImageSpec(64), TargetSpec("openvino", "fp32", (1,))), runner)
    call = threading.Thread(target=lambda: found.append(engine.infer(IMAGE)))
    call.start()
    assert runner.entered.wait(60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    assert not runner.closed.is_set()
    with pytest.raises(EdgeError, match="closed"):
        engine.infer(IMAGE)
    runner.let_go.set()
    for each in (call, closing):
        each.join(60)
        assert not each.is_alive()
    assert runner.closed.is_set()
    assert len(found) == 1


def test_threads_that_go_on_are_refused_once_the_engine_is_closed(bundle: Path) -> None:
    engine = Engine.load(bundle)
    refused = []

    def work() -> None:
        try:
            while True:
                engine.infer(IMAGE)
        except EdgeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    engine.close()
    for each in threads:
        each.join(60)
    assert len(refused) == 4
    assert all("closed" in each for each in refused)


def test_two_engines_live_side_by_side(bundle: Path, small_bundle) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with Engine.load(bundle) as one, Engine.load(bundle) as other, Engine.load(small_bundle("onnxruntime")) as third:
        found = [engine.infer(images)["scores"] for engine in (one, other, third)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)


def test_engines_come_and_go_without_a_leak(bundle: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def turns(count: int) -> int:
        for _ in range(count):
            with Engine.load(bundle) as engine:
                engine.infer(IMAGE)
        return resident()

    turns(4)
    first = turns(4)
    second = turns(6)
    # The payload is 10 MB: one engine left behind in six would show.
    assert second - first < 12e6


def test_threads_of_the_runtime_agree_with_serial(runtime, bundle: Path) -> None:
    words = [str(runtime.build / "bench" / "mcar_edge_threads"), str(bundle), "8", "60", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["wrong"] == 0
    assert found["images"] == 480
    assert found["growth"] < 1.1  # the long run of docs/embedding.md holds 1.02


def test_the_overhead_is_measured(runtime, bundle: Path) -> None:
    words = [str(runtime.build / "bench" / "mcar_edge_overhead"), str(bundle), "3", "5"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"bare_ms", "ours_ms", "overhead_percent"}


def test_a_child_of_the_runtime_is_refused_and_ends(api, bundle: Path, runtime, repository: Path) -> None:
    code = """
import ctypes, os, signal, sys
signal.alarm(200)
api = ctypes.CDLL(sys.argv[1])
api.edge_engine_error.restype = ctypes.c_char_p
handle = ctypes.c_void_p()
assert api.edge_engine_load(sys.argv[2].encode(), ctypes.byref(handle)) == 0
child = os.fork()
if not child:
    signal.alarm(200)
    again = ctypes.c_void_p()
    assert api.edge_engine_load(sys.argv[2].encode(), ctypes.byref(again)) == 1
    assert b"forked" in api.edge_engine_error()
    api.edge_engine_free(handle)
    os._exit(7)
assert os.waitpid(child, 0)[1] == 7 << 8
api.edge_engine_free(handle)
"""
    done = subprocess.run([sys.executable, "-c", code, str(runtime.library), str(bundle)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
