"""``python -m benchmarks.triton ADDRESS MODEL…``: latency and throughput of models on a running
Triton server, by number of clients.

Every client sends one photo after the other over its own connection; models take turns, so that
disturbances affect all alike. docs/serving.md says how to serve a model with and without dynamic
batching.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from edge import __version__, command
from edge.errors import EdgeError
from edge.measure import machine
from edge.plain import to_plain

PHOTO = (640, 480)


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.triton", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("address", help="of the server, such as http://127.0.0.1:8000")
    made.add_argument("models", nargs="+", metavar="MODEL")
    made.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    made.add_argument("--seconds", type=float, default=6.0, help="of a turn (default 6)")
    made.add_argument("--rounds", type=int, default=3, help="turns of each model at each number of clients (default 3)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    rows = []
    for clients in args.clients:
        taken: dict[str, list[float]] = {model: [] for model in args.models}
        for turn in range(args.rounds):
            for model in args.models if turn % 2 == 0 else reversed(args.models):
                taken[model] += load(args.address, model, clients, args.seconds)
        for model, seconds in taken.items():
            p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
            per_s = len(seconds) / (args.rounds * args.seconds)
            rows.append(
                {"model": model, "clients": clients, "requests": len(seconds), "p50_ms": p50, "p99_ms": p99, "requests_per_s": per_s}
            )
            command.say(f"{model:20} {clients:3} clients  p50 {p50:7.1f} ms  p99 {p99:7.1f} ms  {per_s:6.1f} requests/s ({len(seconds)})")
    command.write_json(args.json, {"version": __version__, "machine": to_plain(machine.describe()), "rows": rows})
    return 0


def load(address: str, model: str, clients: int, seconds: float) -> list[float]:
    """Seconds of every request answered after all clients are warm.

    Raises:
        EdgeError: a request was refused.
    """
    taken: list[list[float]] = [[] for _ in range(clients)]
    refused: list[str] = []
    ready = threading.Barrier(clients)

    def ask(number: int) -> None:
        try:
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            body, headers = request(number)
            _answer(connection, model, body, headers)
            ready.wait()
            end = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                _answer(connection, model, body, headers)
                taken[number].append(time.perf_counter() - begin)
            connection.close()
        except (OSError, http.client.HTTPException, threading.BrokenBarrierError) as error:
            refused.append(str(error))
            ready.abort()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refused:
        raise EdgeError("triton", f"A request failed: {refused[0]}", "See what the server says")
    return [one for each in taken for one in each]


def request(seed: int) -> tuple[bytes, dict[str, str]]:
    """A photograph in Triton's binary form."""
    coarse, file = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8), io.BytesIO()
    Image.fromarray(coarse).resize(PHOTO).save(file, "JPEG", quality=90)
    data = len(file.getvalue()).to_bytes(4, "little") + file.getvalue()
    photo = {"name": "photo", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [photo]}).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


def _answer(connection: http.client.HTTPConnection, model: str, body: bytes, headers: dict[str, str]) -> None:
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise http.client.HTTPException(text.decode(errors="replace")[:200])


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
