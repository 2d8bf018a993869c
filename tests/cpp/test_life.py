"""Threads, processes, and engines that come and go: what docs/embedding.md allows works, what it
does not gives an error."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.backends import Form, Runner
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.graph import WHOLE
from edge.spec import ImageSpec, ModelSpec, TargetSpec
from edge.stages import Stages

IMAGE = np.zeros((1, 3, 64, 64), np.float32)
STRESS = int(os.environ.get("EDGE_STRESS", "60"))  # images of each thread; a tenth as many loads


# Programs of their own, because they end in a fork. Their arguments: the bundle, the runtime's
# library.
FORKED = """
import os, signal, sys, numpy as np
from edge import Engine
from edge.errors import EdgeError
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

FORKED_RUNTIME = """
import ctypes, os, signal, sys
signal.alarm(200)
api = ctypes.CDLL(sys.argv[2])
api.edge_engine_error.restype = ctypes.c_char_p
handle = ctypes.c_void_p()
assert api.edge_engine_load(sys.argv[1].encode(), ctypes.byref(handle)) == 0
child = os.fork()
if not child:
    signal.alarm(200)
    again = ctypes.c_void_p()
    assert api.edge_engine_load(sys.argv[1].encode(), ctypes.byref(again)) == 1
    assert b"forked" in api.edge_engine_error()
    api.edge_engine_free(handle)
    os._exit(7)
assert os.waitpid(child, 0)[1] == 7 << 8
api.edge_engine_free(handle)
"""


@pytest.mark.parametrize("code", [FORKED, FORKED_FIRST], ids=["a child is refused and ends", "a child loads for itself"])
def test_a_fork(run, bundle: Path, code: str) -> None:
    run(sys.executable, "-W", "ignore", "-c", code, bundle)


def test_a_fork_of_the_runtime(run, bundle: Path, runtime) -> None:
    run(sys.executable, "-c", FORKED_RUNTIME, bundle, runtime.library)


class Held(Runner):
    """A runner that stays in its call until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go, self.closed = threading.Event(), threading.Event(), threading.Event()

    def forms(self) -> dict[str, Form]:
        return {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.let_go.wait(60)
        assert not self.closed.is_set(), "closed under a call"
        return {"scores": np.zeros((len(inputs["image"]), 1), np.float32)}

    def close(self) -> None:
        self.closed.set()


def test_closing_waits_for_calls_under_way_and_refuses_later_ones() -> None:
    runner = Held()
    target = TargetSpec("openvino", "fp32", (1,))
    bundle = Bundle(Path(), {}, ModelSpec("held", ("a",)), ImageSpec(64), target)
    engine = Engine(bundle, Stages({WHOLE: runner}, target, None))
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(engine.infer, IMAGE)
        assert runner.entered.wait(60)
        closing = pool.submit(engine.close)
        time.sleep(0.2)
        assert not closing.done()
        assert not runner.closed.is_set()
        with pytest.raises(EdgeError, match="closed"):
            engine.infer(IMAGE)
        runner.let_go.set()
        closing.result(60)
        assert runner.closed.is_set()
        assert call.result(60)["scores"].shape == (1, 1)


def test_threads_that_go_on_are_refused_once_the_engine_is_closed(bundle: Path) -> None:
    engine = Engine.load(bundle)

    def work() -> None:
        while True:
            engine.infer(IMAGE)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(work) for _ in range(4)]
        time.sleep(0.3)
        engine.close()
        for call in calls:
            with pytest.raises(EdgeError, match="closed"):
                call.result(60)


def test_two_engines_live_side_by_side(bundle: Path, small_bundle) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with Engine.load(bundle) as one, Engine.load(bundle) as other, Engine.load(small_bundle("onnxruntime")) as third:
        found = [engine.infer(images)["scores"] for engine in (one, other, third)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(params=["Python", "C++"])
def load(request: pytest.FixtureRequest, bundle: Path):
    """A function that loads the bundle; what it gives is let go with its last name."""
    return partial(Engine.load if request.param == "Python" else request.getfixturevalue("open_native"), bundle)


def test_engines_come_and_go_without_a_leak(load) -> None:
    def turns(count: int) -> int:
        for _ in range(count):
            engine = load()
            engine.infer(IMAGE)
            if isinstance(engine, Engine):
                engine.close()
        return resident()

    turns(4)
    first = turns(4)
    second = turns(STRESS // 10)
    # The payload is 10 MB: one engine left behind in six would show.
    assert second - first < 12e6


def test_threads_agree_with_serial_and_memory_stays(load) -> None:
    images = np.random.default_rng(0).standard_normal((16, 1, 3, 64, 64)).astype(np.float32)
    engine = load()
    serial = [engine.infer(image) for image in images]

    def work(index: int) -> None:
        for name, value in engine.infer(images[index % 16]).items():
            np.testing.assert_array_equal(value, serial[index % 16][name], err_msg=name)

    held = []
    with ThreadPoolExecutor(8) as pool:
        for _ in ("the first half", "the second half"):
            list(pool.map(work, range(4 * STRESS)))
            held.append(resident())
    assert held[1] / held[0] < 1.02, held


@pytest.mark.parametrize("language", ["C++", "Python"])
def test_the_overhead_is_measured(run, runtime, bundle: Path, language: str) -> None:
    python = (sys.executable, Path(__file__).with_name("overhead.py"), bundle, 1)
    cpp = (runtime.build / "bench" / "mcar_edge_overhead", bundle, 3, 5)
    found = json.loads(run(*(cpp if language == "C++" else python)))
    assert set(found) == {"bare_ms", "ours_ms", "overhead_percent"}
