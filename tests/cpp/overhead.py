"""What Engine.infer costs over the runtime's own call in Python, at batch 1: python tests/cpp/overhead.py BUNDLE [ROUNDS]

The two are interleaved, the ratio is the median over rounds. The bare call is OpenVINO's own infer on a request of the same
compiled model, its outputs copied, as an application must that keeps them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edge import Engine
from edge.backends.openvino import OpenVINO
from edge.bundle import Bundle
from edge.measure.latency import interleave, timed


def main(path: Path, rounds: int = 15) -> None:
    bundle, payload = Bundle.load(path)
    image = np.random.default_rng(0).standard_normal((1, 3, bundle.image.size, bundle.image.size)).astype(np.float32)
    request = OpenVINO().open(payload, bundle.target, bundle.manifest["engine"]).compiled(1).create_infer_request()

    def bare() -> dict[str, np.ndarray]:
        return {port: value.copy() for port, value in request.infer({0: image}, share_inputs=True, share_outputs=True).items()}

    with Engine.load(path) as engine:
        measured = interleave({"bare": timed(bare), "ours": timed(lambda: engine.infer(image))}, rounds=rounds)
    found = {f"{name}_ms": round(1e3 * float(np.median(np.concatenate(taken))), 4) for name, taken in measured.seconds.items()}
    print(json.dumps({**found, "overhead_percent": round(100 * (measured.compare("ours", "bare").ratio - 1), 3)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
