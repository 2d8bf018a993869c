"""A real stream over RTSP: the newest frame in time, and back after the server died."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import edge

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
RATE = 25
RESTARTS = int(os.environ.get("EDGE_RESTARTS", "2"))


class Server:
    def __init__(self, clip: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.clip, self.address = clip, f"rtsp://127.0.0.1:{self.port}/clip"
        self.start()

    def start(self) -> None:
        words = [SYSTEM_PYTHON, str(SERVER), str(self.clip), str(self.port)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            reason = self.process.communicate()[1].strip().splitlines()[-1:]
            pytest.skip(f"no RTSP server of GStreamer here: {reason}; see .ci/run for its Debian packages")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_clip):
    pytest.importorskip("av")
    if shutil.which(SYSTEM_PYTHON) is None:
        pytest.skip(f"no {SYSTEM_PYTHON}, whose python3-gi knows GStreamer's RTSP server")
    made = Server(write_clip(tmp_path_factory.mktemp("rtsp") / "clip.mp4", 250))
    yield made
    made.kill()


def test_an_engine_three_times_too_slow_is_given_the_newest_frame(server, reader):
    inference = 3 / RATE
    engine = reader(inference)
    frames = list(edge.stream(engine, server.address, duration_s=5))
    taken = frames[5:]  # what the server sends ahead when a client comes is over
    assert len(taken) >= 15
    assert engine.seen == sorted(engine.seen)
    # Of frames 3 times as frequent as results, two in three are dropped; the numbers in the
    # pictures say so too.
    shown = np.diff(engine.seen[5:])
    assert 2 <= np.median(shown) <= 4
    assert 1 <= np.median([frame.dropped for frame in taken]) <= 3
    assert np.median([frame.latency_ms for frame in taken]) < 1.5e3 * inference


def test_after_the_server_died_the_stream_is_back_within_two_seconds(server, reader):
    frames = edge.stream(reader(), server.address)
    for _ in range(RESTARTS):
        for _ in range(5):
            next(frames)
        server.kill()
        time.sleep(0.5)
        server.start()
        begin, lost = time.perf_counter(), None
        for _ in frames:  # some were sent before it died
            lost = time.perf_counter() - begin
            if lost > 0.02:
                break
        assert lost is not None
        assert lost < 2
    frames.close()
