"""The page of ``edge.watch``: what it shows, to whom, and that nothing can be written."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from edge import EdgeError, command, watch
from edge.prediction import Region
from edge.video.frames import Frame
from edge.video.http import Watched, served

LABEL = "<i>boat</i>"  # a name is text, whatever it holds
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def frame(number: int, *, dropped: int = 0, shape: tuple[int, int] = (1440, 2560)) -> Frame:
    pixels = np.full((*shape, 3), (200, 30, 30), np.uint8)
    regions = [Region((100.0, 100.0, 900.0, 800.0), LABEL, 0.9)]
    return Frame(number, number / 25, [(LABEL, 0.9)], regions, 1, 12.5, dropped, pixels, np.array([0.9], np.float32))


@pytest.fixture
def watched() -> Watched:
    made = Watched()
    for number in range(3):
        made.add(frame(number, dropped=number))
    return made


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_newest_frame_is_told_and_drawn(watched):
    with served(watched, 0, bundle="first", source="clip.mp4") as address:
        state = json.loads(ask(address, "/state.json")[1])
        answer, picture = ask(address, "/picture.jpg")
        assert ask(address, "/other")[0].status == 404
    assert (state["frame"], state["labels"], state["looks"], state["dropped"]) == (2, [{"name": LABEL, "score": 0.9}], 1, 3)
    assert answer.headers["Content-Type"] == "image/jpeg"
    drawn = np.asarray(Image.open(io.BytesIO(picture)))
    assert drawn.shape == (720, 1280, 3)  # no larger than a page needs
    outside, edge = drawn[600, 1000].astype(int), drawn[200, 50].astype(int)  # a box is drawn where its region is
    assert np.abs(outside - (200, 30, 30)).max() < 12
    assert np.abs(edge - (200, 30, 30)).max() > 60


def test_seconds_become_plots(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("edge.video.http.time.monotonic", lambda: now[0])
    made = Watched()
    assert made.state() == {"frame": None}
    assert made.picture() is None
    for at in (100.1, 100.5, 102.2):
        now[0] = at
        made.add(frame(0, shape=(48, 64)))
    now[0] = 103.0
    assert made.state()["plots"] == {"frames_per_s": [2, 0, 1], "latency_ms": [12.5, None, 12.5], "looks": [1.0, None, 1.0]}
    now[0] = 1000.0
    assert made.state()["plots"]["frames_per_s"] == [0] * 60


def test_the_page_loads_nothing_from_elsewhere(watched):
    with served(watched, 0, bundle="</title><script>", source="rtsp://camera/a&b") as address:
        answer, body = ask(address, "/")
    text = body.decode()
    assert not re.findall(r"(?:src|href|url|import)\s*[=(]\s*['\"]?(?:https?:)?//", text)
    assert text.count("<script>") == 1
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(watched, method):
    with served(watched, 0, bundle="first", source="clip.mp4") as address:
        assert ask(address, "/state.json", method)[0].status == 501
        assert ask(address, "/", "HEAD")[1] == b""


def reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def test_without_a_token_only_this_machine_is_answered(watched):
    with served(watched, 0, bundle="first", source="clip.mp4") as address:
        port = urlsplit(address).port
        assert not reachable("127.0.0.2", port)
        assert ask(address, "/", Host=f"localhost:{port}")[0].status == 200
        # A foreign name that was made to point here.
        assert ask(address, "/state.json", Host=f"elsewhere.example:{port}")[0].status == 403


def test_with_a_token_whoever_has_it_is_answered(watched):
    with served(watched, 0, bundle="first", source="clip.mp4", token="a word&more") as address:
        here = f"http://127.0.0.1:{urlsplit(address).port}"
        assert "word" not in address
        assert reachable("127.0.0.2", urlsplit(address).port)
        for path in ("/", "/state.json", "/picture.jpg"):
            assert ask(here, path + "?token=a%20word%26more")[0].status == 200
            for wrong in ("", "?token=", "?token=a%20word", "?token=a%20word%26more&token=%ff"):
                assert ask(here, path + wrong)[0].status == 403


def test_a_client_that_says_nothing_holds_nobody_up(watched):
    with served(watched, 0, bundle="first", source="clip.mp4") as address:
        silent = [socket.create_connection(("127.0.0.1", urlsplit(address).port)) for _ in range(8)]
        assert ask(address, "/state.json")[0].status == 200
    for each in silent:
        each.close()


def test_a_port_that_is_taken_is_told(watched):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EdgeError, match=rf"^\[watch\] Cannot listen on port {port}: .*`http`"),
            served(watched, port, bundle="first", source="clip.mp4"),
        ):
            pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--http", "65536"], "[watch] --http is 65536. Use a value from 0 to 65535."),
        (["--token", "secret"], "[watch] --token is given but no page is served."),
        (["--http", "0", "--token", ""], "[watch] --token is empty."),
    ],
)
def test_a_flag_that_cannot_be_is_one_line(tmp_path, capsys, words, said):
    assert command.run(watch.main, watch.arguments().parse_args(["bundle", str(tmp_path), *words])) == 1
    assert capsys.readouterr().err.startswith(said)


def test_the_command_shows_its_page_in_a_browser(small_bundle, tmp_path, repository):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    words = [sys.executable, "-m", "edge.watch", str(small_bundle("onnxruntime")), str(tmp_path), "--http", "0", "--score-threshold", "0"]
    process = subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stdout is not None
        said = process.stderr.readline()
        assert said.startswith("page       http://127.0.0.1:"), said
        process.stdout.readline()  # its first labels: a frame was seen
        until = time.monotonic() + 20
        while not (state := json.loads(ask(said.split()[1], "/state.json")[1]))["plots"]["looks"] and time.monotonic() < until:
            time.sleep(0.1)  # plots show whole seconds
        assert state["frame"] == 0
        if CHROMIUM is None:
            pytest.skip("no Chromium to look at the page with: apt install chromium")
        browser = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        browser += ["--virtual-time-budget=4000", "--dump-dom", said.split()[1]]
        seen = subprocess.run(browser, capture_output=True, text=True, timeout=120).stdout
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(re.findall("<li>", seen)) == 20
    assert re.search(r'<img id="picture"[^>]* src="blob:', seen)
    assert re.search(r'<p id="status"[^>]*>frame 0, ', seen)
    assert seen.count("<polyline") >= 1
