"""What Engine.infer costs over the runtime's own call in Python, at batch 1: python tests/cpp/overhead.py BUNDLE [ROUNDS] [CALLS]

Interleaved: every round times CALLS of each, the ratio is the median over rounds. The bare call is OpenVINO's own infer on a
request of the same compiled model, its outputs copied, as an application must that keeps them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge import Engine
from edge.backends import openvino
from edge.bundle import Bundle


def milliseconds(call: Callable[[], object], calls: int) -> float:
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def main(path: Path, rounds: int, calls: int) -> None:
    bundle, payload = Bundle.load(path)
    image = np.random.default_rng(0).standard_normal((1, 3, bundle.image.size, bundle.image.size)).astype(np.float32)
    with Engine.load(path) as engine:
        network = openvino.open(payload, bundle.target, {})
        request = network.compiled(1).create_infer_request()

        def bare() -> object:
            return {port: value.copy() for port, value in request.infer({0: image}, share_inputs=True, share_outputs=True).items()}

        pair: list[Callable[[], object]] = [bare, lambda: engine.infer(image)]
        taken: list[list[float]] = [[], []]
        for call in pair:
            milliseconds(call, 20)
        for round_number in range(rounds):
            for which in (0, 1) if round_number % 2 else (1, 0):
                taken[which].append(milliseconds(pair[which], calls))
    ratio = statistics.median(ours / other for other, ours in zip(*taken, strict=True))
    bare_ms, ours_ms = map(statistics.median, taken)
    print(json.dumps({"bare_ms": round(bare_ms, 4), "ours_ms": round(ours_ms, 4), "overhead_percent": round(100 * (ratio - 1), 3)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(word) for word in (*sys.argv[2:], *("15", "40")[len(sys.argv) - 2 :])))
