"""Fixtures every test may use."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs, data and photographs that are not part of the project; skips where they
    are absent."""
    path = Path(os.environ.get("EDGE_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference material not found at {path}; set EDGE_SHARED to its folder")
    return path


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """Outputs of the official implementation: ``read(name)``, ``case(name)``
    (tests/golden/README.md)."""
    location = importlib.util.spec_from_file_location("golden_official", REPOSITORY / "tests" / "golden" / "official.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def saturated():
    """Class maps (8, 4, 8, 8) float32 with two to four cells of exactly 1.0, and the same a few
    last bits lower here and there, as another runtime's sigmoid has them: a list of five."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.05, 0.9, (32, 8, 8)).astype(np.float32)
    for each, count in zip(maps, rng.integers(2, 5, len(maps)), strict=True):
        each.flat[rng.choice(each.size, count, replace=False)] = 1.0
    maps[-1] = 1.0  # a map that is saturated all over has no box, whatever the noise
    noise = [np.zeros(maps.shape, np.float32), *(rng.integers(0, 4, (4, *maps.shape)) * np.float32(2**-24))]
    return [np.where(maps == 1, maps - each, maps).astype(np.float32).reshape(8, 4, 8, 8) for each in noise]


@pytest.fixture(scope="session")
def manifest_folder():
    """A function (folder, contents by name) → the folder, written whole with its manifest."""
    from edge.atomic import folder_written_atomically
    from edge.manifest import check_replaceable, write_manifest

    def write(folder: Path, replace: bool = False, **files: bytes) -> Path:
        with folder_written_atomically(folder, partial(check_replaceable, replace=replace)) as fresh:
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            write_manifest(fresh, {"kind": "test"})
        return folder

    return write


OFFICIAL_CASES = (
    "mobilenetv2_avg_256_top4_thr0.5_c20",
    "mobilenetv2_gwp_448_top4_thr0.5_c80",
    "resnet50_avg_256_top4_thr0.5_c20",
    "resnet50_gwp_448_top2_thr0.5_c80",
    "resnet101_gwp_448_top4_thr0.5_c80",
    "resnet101_gwp_576_top6_thr0.3_c20",
)


@pytest.fixture(scope="session")
def noise_photos(tmp_path_factory):
    """A function (splits of the images, their size) → a csv folder of noise, with the class names
    of the random model."""
    from PIL import Image

    def made(splits, size):
        folder = tmp_path_factory.mktemp("photos")
        (folder / "images").mkdir()
        random = np.random.default_rng(0)
        rows = ["image,split,labels"]
        for index, split in enumerate(splits):
            Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(folder / "images" / f"{index}.png")
            rows.append(f"{index}.png,{split},class_{index % 3:02d};class_{index % 2 + 3:02d}")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")
        (folder / "classes.txt").write_text("".join(f"class_{index:02d}\n" for index in range(20)))
        return folder

    return made


@pytest.fixture(scope="module", params=OFFICIAL_CASES)
def official_case(request, golden):
    """A recorded network: its model with weights loaded, images, and what the official code made of
    them."""
    return golden.case(request.param)


INSTRUCTION_SETS = ("AVX2", "AVX512_CORE_VNNI", "DEFAULT")  # oneDNN's names; DEFAULT is all this processor has


@pytest.fixture(scope="session", params=INSTRUCTION_SETS)
def nodes_here(request):
    """A function (folder of an engine, target) → the nodes OpenVINO runs, on a processor that has
    no more than these instructions."""
    pytest.importorskip("openvino")

    def nodes(folder: Path, target, size: int = 1) -> list[dict[str, str]]:
        if target.float16 and request.param == "AVX2":
            pytest.skip("AVX2 has no 16-bit float")
        code = (
            "import json, sys; from pathlib import Path; from edge.backends.openvino import OpenVINO, runtime_nodes; "
            "from edge.spec import TargetSpec; target = TargetSpec(*json.loads(sys.argv[2])); "
            "payload = {each.name: each.read_bytes() for each in Path(sys.argv[1]).glob('engine.*')}; "
            "stages = OpenVINO().open(payload, target, {}).values(); "
            "print(json.dumps([node for stage in stages for node in runtime_nodes(stage.compiled(int(sys.argv[3])))]))"
        )
        words = [str(folder), json.dumps([target.backend, target.precision, target.batches, target.float16]), str(size)]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": request.param}  # read once a process
        run = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, check=True, timeout=120
        )
        return json.loads(run.stdout)

    return nodes


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A function (backend, precision) → bundle of the random MobileNetV2 at 64 pixels, largest
    batch 3, built once a session."""
    from edge.pipeline import BuildOptions, build

    built: dict[tuple[str, str], Path] = {}

    def make(backend: str, precision: str = "fp32") -> Path:
        if backend in ("openvino", "onnxruntime"):
            pytest.importorskip(backend)
        if (backend, precision) not in built:
            folder = tmp_path_factory.mktemp("engines") / f"{backend}-{precision}"
            options = BuildOptions(weights="random", size=64, batch=3, backend=backend, precision=precision, calib_images=8, output=folder)
            build(options)
            built[backend, precision] = folder
        return built[backend, precision]

    return make


# The distribution, built once a session.

BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
NOT_PACKED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "engines", "out", "runs")


@pytest.fixture(scope="session")
def build_backend():
    """A function (sdist or wheel, sources, folder) → the file, built by the backend as pip does."""
    pytest.importorskip("setuptools.build_meta")

    def build(kind: str, source: Path, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, "-c", BUILD, kind, str(target)], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return target / done.stdout.splitlines()[-1]  # the output ends with the file's name

    return build


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """What a clean checkout would hold: files git tracks or would, where there is git."""
    target = tmp_path_factory.mktemp("packaging") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if listed.returncode:
        return Path(shutil.copytree(REPOSITORY, target, ignore=NOT_PACKED))
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


@pytest.fixture(scope="session")
def wheel(checkout: Path, build_backend) -> Path:
    return build_backend("wheel", checkout, checkout.parent / "wheel")


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The Python of a fresh environment where pip has installed the wheel; what it needs is found
    where this session finds it."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    done = subprocess.run([*pip, "--no-deps", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Plain paths: what an editable install of this repository put beside them is not read.
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "session.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return python
