"""What Engine.infer costs over the runtime's own call in Python, at batch 1: python
tests/cpp/overhead.py BUNDLE [ROUNDS]

The two are interleaved, the ratio is the median over rounds. The bare call is OpenVINO's own infer
on a request of each stage's compiled model, all regions at once, the outputs copied, as an
application must that keeps them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edge import Engine
from edge.backends.openvino import OpenVINO
from edge.bundle import Bundle
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OWNER
from edge.measure.latency import interleave, timed


def main(path: Path, rounds: int = 15) -> None:
    bundle, payload = Bundle.load(path)
    image = np.random.default_rng(0).standard_normal((1, 3, bundle.image.size, bundle.image.size)).astype(np.float32)
    runners = OpenVINO().open(payload, bundle.target, bundle.manifest["engine"])
    first, *others = runners.values()
    request = first.compiled(1).create_infer_request()
    closer = [runner.compiled(bundle.stages.sizes[-1]).create_infer_request() for runner in others]

    def copies(request, inputs: dict) -> dict[str, np.ndarray]:
        return {port.any_name: value.copy() for port, value in request.infer(inputs, share_inputs=True, share_outputs=True).items()}

    def bare() -> None:
        found = copies(request, {0: image})
        for second in closer:
            boxes = found[f"{LOOK}/regions"][0]
            given = {INPUT: image, BOXES: boxes, OWNER: np.zeros(len(boxes), np.int32)}
            copies(second, {f"{CLOSER}/{name}": value for name, value in given.items()})

    with Engine.load(path) as engine:
        measured = interleave({"bare": timed(bare), "ours": timed(lambda: engine.infer(image))}, rounds=rounds)
    found = {f"{name}_ms": round(1e3 * float(np.median(np.concatenate(taken))), 4) for name, taken in measured.seconds.items()}
    print(json.dumps({**found, "overhead_percent": round(100 * (measured.compare("ours", "bare").ratio - 1), 3)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
