"""``python -m benchmarks.gpu.infer BUNDLE IMAGES DIR``: an engine's outputs for raw images, as
``mcar_edge_bench`` writes them.

Runs in a Python that holds NumPy, Pillow and the vendor's modules, and nothing else.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from edge import Engine


def main() -> None:
    bundle, file, folder = map(Path, sys.argv[1:])
    with Engine.load(bundle) as engine:
        size = engine.bundle.image.size
        images = np.fromfile(file, np.float32).reshape(-1, 1, 3, size, size)
        answers = [engine.infer(image) for image in images]
        begun = time.perf_counter()
        for image in images:
            engine.infer(image)
        mean_ms = (time.perf_counter() - begun) / len(images) * 1e3
    folder.mkdir(parents=True, exist_ok=True)
    for name in answers[0]:
        np.concatenate([answer[name] for answer in answers]).tofile(folder / f"{name}.bin")
    print(f"mean {mean_ms:.3f} ms, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
