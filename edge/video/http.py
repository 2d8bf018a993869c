"""What a stream shows, on a page for devices without a screen: to be looked at, with nothing to
write."""

from __future__ import annotations

import hmac
import io
import json
import math
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from edge.draw import draw
from edge.errors import EdgeError
from edge.prediction import Prediction, Region
from edge.video.frames import Frame
from edge.video.page import POLICY, page

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost")
SECONDS = 60  # that the plots go back
LARGEST_SIDE = 1280  # of the picture
MOST_CONNECTIONS = 16
PATIENCE_S = 20.0  # for a client that says nothing


@dataclass
class _Second:
    """What a second held: its frames' latencies in ms and their looks."""

    at: int
    latencies: list[float]
    looks: list[int]


class Watched:
    """The newest frame and the last minute; written by the stream, read by the page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._begin = time.monotonic()
        self._seconds: deque[_Second] = deque(maxlen=SECONDS + 1)
        self._dropped = 0
        # One thread draws for all clients: of every thread that did, the allocator would keep some
        # memory.
        self._artist = ThreadPoolExecutor(1, "edge-http-picture")
        self._drawn: tuple[Frame, bytes] | None = None

    def add(self, frame: Frame) -> None:
        with self._lock:
            self._frame = frame
            self._dropped += frame.dropped
            at = int(time.monotonic() - self._begin)
            if not self._seconds or self._seconds[-1].at != at:
                self._seconds.append(_Second(at, [], []))
            self._seconds[-1].latencies.append(frame.latency_ms)
            self._seconds[-1].looks.append(frame.looks)

    def state(self) -> dict[str, Any]:
        """For the page: the newest frame in figures, and whole seconds, oldest first; null where
        there was no frame."""
        with self._lock:
            frame, now = self._frame, int(time.monotonic() - self._begin)
            if frame is None:
                return {"frame": None}
            found = {second.at: second for second in self._seconds}
            span = [found.get(at) for at in range(max(0, now - SECONDS), now)]
            return {
                "frame": frame.frame,
                "time_s": frame.time_s,
                "labels": [{"name": name, "score": score} for name, score in frame.labels],
                "looks": frame.looks,
                "latency_ms": round(frame.latency_ms, 3),
                "frames_per_s": len(span[-1].latencies) if span and span[-1] else 0 if span else None,
                "dropped": self._dropped,
                "plots": {
                    "frames_per_s": [len(second.latencies) if second else 0 for second in span],
                    "latency_ms": [round(median(second.latencies), 3) if second else None for second in span],
                    "looks": [round(sum(second.looks) / len(second.looks), 2) if second else None for second in span],
                },
            }

    def picture(self) -> bytes | None:
        """The newest frame with its regions, a JPEG."""
        return self._artist.submit(self._draw).result()

    def _draw(self) -> bytes | None:
        with self._lock:
            frame = self._frame
        if frame is None:
            return None
        if self._drawn is None or self._drawn[0] is not frame:
            self._drawn = (frame, _jpeg(frame))
        return self._drawn[1]

    def close(self) -> None:
        self._artist.shutdown()


def _jpeg(frame: Frame) -> bytes:
    by = math.ceil(max(frame.pixels.shape[:2]) / LARGEST_SIDE)  # drawn small, it takes little of the processor
    image = Image.fromarray(frame.pixels)
    small = Prediction(frame.scores, frame.labels, [_smaller(region, by) for region in frame.regions])
    file = io.BytesIO()
    draw(np.asarray(image.reduce(by)), small, labels=False).save(file, "JPEG", quality=85)
    return file.getvalue()


def _smaller(region: Region, by: int) -> Region:
    x1, y1, x2, y2 = (value / by for value in region.box)
    return replace(region, box=(x1, y1, x2, y2))


@contextmanager
def served(watched: Watched, port: int, *, bundle: str, source: str, token: str | None = None) -> Iterator[str]:
    """Serve the page until the ``with`` ends; its address.

    Args:
        port: 0 takes a free one.
        token: whoever has it may look, from any machine; without one only this machine is listened
            to.

    Raises:
        EdgeError: the port is taken, or not ours to have.
    """
    try:
        server = _Server((LOOPBACK if token is None else "0.0.0.0", port), _Handler)
    except OSError as error:
        raise EdgeError("watch", f"Cannot listen on port {port}: {error.strerror}", "Set `http` to another port") from error
    server.watched, server.token, server.page = watched, token, page(bundle, source).encode()
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="edge-http", daemon=True)
    thread.start()
    try:
        host = LOOPBACK if token is None else socket.gethostname()
        yield f"http://{host}:{server.server_address[1]}/" + ("" if token is None else "?token=…")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        watched.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection holds nobody up
    watched: Watched
    token: str | None
    page: bytes

    @property
    def refusal(self) -> bytes:
        if self.token is None:
            return f"Only http://{LOOPBACK} and http://localhost are answered.\n".encode()
        return b"The address must end in ?token= and the right token.\n"

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mcar-edge", ""
    timeout = PATIENCE_S
    server: _Server

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._allowed(parse_qs(address.query)):
            return self._answer(self.server.refusal, "text/plain", HTTPStatus.FORBIDDEN)
        if address.path == "/":
            return self._answer(self.server.page, "text/html; charset=utf-8")
        if address.path == "/state.json":
            return self._answer(json.dumps(self.server.watched.state(), allow_nan=False).encode(), "application/json")
        picture = self.server.watched.picture() if address.path == "/picture.jpg" else None
        if picture is not None:
            return self._answer(picture, "image/jpeg")
        return self._answer(b"There is /, /state.json and, once a frame came, /picture.jpg.\n", "text/plain", HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def _allowed(self, query: dict[str, list[str]]) -> bool:
        if self.server.token is None:
            # Another site whose name was made to point here must not read the camera through a
            # browser of this machine.
            return re.sub(r":\d+$", "", self.headers.get("Host", LOOPBACK)) in LOOPBACK_NAMES
        given = query.get("token", [""])[-1]
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode("utf-8", "replace"))

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", POLICY),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
