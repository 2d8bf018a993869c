"""On the emulated device: what the C++ runtime gives for a bundle, through its C API; ``OUT`` is
written as infer.py writes it.

    python tests/arm/native.py LIBRARY BUNDLE IMAGES OUT.npz [COUNT]

One call per image: ``mcar_edge_bench --outputs`` runs each three times, an hour for ResNet-50.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np

from edge.bundle import Bundle

CPP = Path(__file__).resolve().parents[1] / "cpp"


def main(library: Path, bundle: Path, pixels: Path, out: Path, count: int | None = None) -> None:
    location = importlib.util.spec_from_file_location("native", CPP / "conftest.py")
    assert location is not None
    assert location.loader is not None
    native = importlib.util.module_from_spec(location)
    sys.modules[location.name] = native
    location.loader.exec_module(native)
    api = native.declared(ctypes.CDLL(str(library)))
    engine = native.Native(api, bundle)
    size = Bundle.read(bundle).image.size
    images = np.fromfile(pixels, np.float32).reshape(-1, 3, size, size)[:count]
    found = [engine.infer(images[index : index + 1]) for index in range(len(images))]
    np.savez(out, **{name: np.concatenate([one[name] for one in found]) for name in found[0]})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), int(sys.argv[5]) if len(sys.argv) > 5 else None)
