"""A recogniser as an HTTP service: one engine, a pool of threads, nothing beside the standard library and mcar-edge. A sketch.

python examples/service.py BUNDLE [PORT]
curl --data-binary @photo.jpg http://127.0.0.1:8008/

POST a photograph, get what `edge.predict --json` writes for it. Requests wait in a bounded queue; beyond it they are told 503.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge import EdgeError, Engine, Prediction

WORKERS = 2  # threads that infer at once; an engine on a CPU uses all cores for one image already
WAITING = 16
MAX_BYTES = 32 << 20


def plain(prediction: Prediction) -> dict[str, Any]:
    return {
        "labels": [{"name": name, "score": score} for name, score in prediction.labels],
        "regions": [{"box": list(one.box), "label": one.label, "score": one.score, "looked": one.looked} for one in prediction.regions],
    }


class Service:
    """The engine with its pool. ``answer`` is called from the server's threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(WORKERS)
        self._room = threading.BoundedSemaphore(WORKERS + WAITING)

    def answer(self, photo: bytes) -> tuple[int, dict[str, Any]]:
        """HTTP status and body."""
        if not self._room.acquire(blocking=False):
            return 503, {"error": "[service] The queue is full. Try again later."}
        try:
            (prediction,) = self._pool.submit(self._engine.predict, [photo]).result()
            return 200, plain(prediction)
        except EdgeError as error:
            return 400, {"error": str(error)}
        finally:
            self._room.release()


def handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds for a slow sender

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BYTES:
                self._send(
                    413,
                    {"error": f"[service] Content-Length is {length!r}. Send at most {MAX_BYTES} bytes, and their number."},
                )
                return
            self._send(*service.answer(self.rfile.read(int(length))))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def main(bundle: str, port: int) -> None:
    with Engine.load(bundle) as engine, ThreadingHTTPServer(("127.0.0.1", port), handler(Service(engine))) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/service.py BUNDLE [PORT]")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8008)
