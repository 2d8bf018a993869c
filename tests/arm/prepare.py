"""On the host: bundles for the emulated device, images, and what the host's own engines give for
them.

    python tests/arm/prepare.py FOLDER CASE...

CASE is a recorded network of tests/golden (built in fp32), or ``scenes-PRECISION-BACKEND-N``: the
shipped MobileNetV2 and N test scenes.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

from edge import Engine
from edge.data import open_dataset
from edge.image import preprocess
from edge.pipeline import BuildOptions, build

REPOSITORY = Path(__file__).resolve().parents[2]
BACKENDS = ("openvino", "onnxruntime")


def golden_case(folder: Path, name: str) -> None:
    """Both backends, fp32, and what the official code made of the images."""
    import torch

    location = importlib.util.spec_from_file_location("golden_official", REPOSITORY / "tests" / "golden" / "official.py")
    assert location is not None
    assert location.loader is not None
    official = importlib.util.module_from_spec(location)
    sys.modules[location.name] = official
    location.loader.exec_module(official)

    case = official.case(name)
    weights, options = folder / "weights.pth", case.network.spec_options()
    torch.save(case.network.state_dict(), weights)
    np.savez(folder / "expected.npz", **case.expected)
    for backend in BACKENDS:
        size = case.images.shape[-1]
        asked = {name: options[name] for name in ("pooling", "regions", "threshold")}
        build(
            BuildOptions(
                model=case.model, weights=weights, size=size, precision="fp32", backend=backend, batch=1, output=folder / backend, **asked
            )
        )
    weights.unlink()
    write_host(folder, case.images)


def scenes_case(folder: Path, precision: str, backend: str, count: int) -> None:
    """Test scenes with labels; beside the engine's own answers those of fp32, that a drop and a
    drift are against."""
    scenes = open_dataset("scenes", "test")
    for each in {precision, "fp32"}:
        output = folder / (backend if each == precision else f"{backend}-{each}")
        build(BuildOptions(weights="mcar-mobilenetv2-scenes", precision=each, backend=backend, batch=1, output=output))
    with Engine.load(folder / backend) as engine:
        spec = engine.bundle.image
    images = np.stack([preprocess(scenes[index].image, spec) for index in range(count)])
    np.savez(folder / "labels.npz", labels=scenes.labels[:count])
    write_host(folder, images)


def write_host(folder: Path, images: np.ndarray) -> None:
    """``images.bin``, raw float32 (N, 3, S, S), and ``host-<bundle>.npz``: outputs of every bundle
    of the folder, one image a call."""
    images.astype(np.float32).tofile(folder / "images.bin")
    for bundle in sorted(path for path in folder.iterdir() if path.is_dir()):
        with Engine.load(bundle) as engine:
            found = [engine.infer(images[index : index + 1]) for index in range(len(images))]
        np.savez(folder / f"host-{bundle.name}.npz", **{name: np.concatenate([one[name] for one in found]) for name in found[0]})


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name / "done").exists():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        if name.startswith("scenes-"):
            _, precision, backend, count = name.split("-")
            scenes_case(folder / name, precision, backend, int(count))
        else:
            golden_case(folder / name, name)
        (folder / name / "done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
