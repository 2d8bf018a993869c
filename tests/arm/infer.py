"""On the emulated device: a bundle from the host, rebuilt there as a device does, and its outputs.

    python tests/arm/infer.py BUNDLE IMAGES OUT [COUNT]

BUNDLE is rebuilt into ``OUT``, IMAGES is raw float32 (N, 3, S, S) of which the first COUNT are
taken, and ``OUT.npz`` holds the outputs, one image a call. It is written anew after every image:
emulation is slow, so a run may be stopped at any time and resumes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from edge import Engine, backends
from edge.backends import openvino
from edge.bundle import Bundle
from edge.pipeline import BuildOptions, rebuild


def main(source: Path, pixels: Path, out: Path, count: int | None = None) -> None:
    openvino.INT8_ON_ARM = ""  # what is refused is judged here, whether it still must be
    backend = Bundle.read(source).target.backend
    print(backends.probe(backend), flush=True)
    start = time.monotonic()
    if not out.is_dir():
        rebuild(source, BuildOptions(output=out))
        print(f"rebuilt in {time.monotonic() - start:.0f} s", flush=True)
    with Engine.load(out) as engine:
        size = engine.bundle.image.size
        images = np.fromfile(pixels, np.float32).reshape(-1, 3, size, size)[:count]
        found: dict[str, np.ndarray] = {}
        if (file := out.with_suffix(".npz")).is_file():
            with np.load(file) as kept:
                found = dict(kept)
        done = len(next(iter(found.values()), ()))
        start = time.monotonic()
        for index in range(done, len(images)):
            one = engine.infer(images[index : index + 1])
            found = {name: np.concatenate([found[name], one[name]]) if found else one[name] for name in one}
            np.savez(file, **found)
            print(f"{index + 1} of {len(images)} images, {index + 1 - done} of them in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
