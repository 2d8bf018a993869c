"""The C++ runtime and its examples, built once a session; each fixture skips with the reason where
something is absent."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

PACKAGES = "apt install g++ cmake ninja-build nlohmann-json3-dev libjpeg62-turbo-dev libpng-dev libssl-dev"
HEADERS = ("nlohmann/json.hpp", "jpeglib.h", "png.h", "openssl/evp.h")


REPOSITORY = Path(__file__).parents[2]


def command(*words: object, ends: int = 0, **options: object) -> str:
    """What a program prints, with the package of this repository on its path; its words where it
    does not end so."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, env=environment, **options)  # type: ignore[call-overload]
    assert done.returncode == ends, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return str(done.stdout)


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    return command


@pytest.fixture(scope="session")
def bundle(small_bundle: Callable[[str], Path]) -> Path:
    """Of OpenVINO, 64 pixels, batches up to 3."""
    return small_bundle("openvino")


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def cmake() -> Callable[..., Path]:
    """A function (source, build folder, *definitions) that configures and builds; skips where tools
    or headers are absent."""
    compiler = os.environ.get("CXX", "g++")
    for tool in (compiler, "cmake"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}: {PACKAGES}")
    source = "#include <cstdio>\n" + "".join(f"#include <{header}>\n" for header in HEADERS)
    if subprocess.run([compiler, "-E", "-x", "c++", "-"], input=source, capture_output=True, text=True).returncode:
        pytest.skip(f"one of {', '.join(HEADERS)} is missing: {PACKAGES}")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []

    def build(source: Path, folder: Path, *definitions: str, target: str = "all") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as file:  # one worker builds, the others wait and find it built
            fcntl.flock(file, fcntl.LOCK_EX)
            command("cmake", "-S", source, "-B", folder, *generator, *(f"-D{each}" for each in definitions))
            command("cmake", "--build", folder, "--parallel", "2", "--target", target)
        return folder

    return build


@pytest.fixture(scope="session")
def openvino_folder() -> Path:
    """Where OpenVINO's wheel keeps its headers and CMake files."""
    openvino = pytest.importorskip("openvino")
    folder = Path(openvino.__file__).parent
    if not (folder / "cmake").is_dir():
        pytest.skip("this OpenVINO brings no CMake files: pip install openvino")
    return folder


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where builds lie: one folder for all workers of a run; EDGE_CPP_BUILDS names one that is kept
    between runs."""
    base = tmp_path_factory.getbasetemp()
    kept = os.environ.get("EDGE_CPP_BUILDS")
    folder = Path(kept) if kept else (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cpp-builds"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Runtime:
    """The runtime's build folder and installed prefix, its library, and the built examples."""

    build: Path
    prefix: Path
    library: Path
    examples: Path


@pytest.fixture(scope="session")
def runtime(cmake: Callable[..., Path], openvino_folder: Path, builds: Path) -> Runtime:
    """Built from the wheel's OpenVINO and installed; the examples built against what was installed,
    as a user would."""
    prefix, flags = builds / "prefix", [f"CMAKE_{language}_FLAGS_RELEASE=-O2" for language in ("C", "CXX")]
    found = [f"CMAKE_PREFIX_PATH={openvino_folder}", f"CMAKE_INSTALL_PREFIX={prefix}", "CMAKE_INSTALL_LIBDIR=lib", "MCAR_EDGE_BENCH=ON"]
    build = cmake(REPOSITORY / "edge" / "cpp", builds / "runtime", *found, *flags, target="install")
    installed = [f"CMAKE_PREFIX_PATH={prefix}", "CMAKE_BUILD_TYPE=Release"]
    examples = cmake(REPOSITORY / "examples" / "cpp", builds / "examples", *installed, *flags)
    return Runtime(build, prefix, prefix / "lib" / "libmcar_edge.so", examples)


@pytest.fixture(scope="session")
def api(runtime: Runtime) -> ctypes.CDLL:
    """The C API, as another language calls it."""
    return declared(ctypes.CDLL(str(runtime.library)))


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The runtime's library, told the types of its functions."""
    library.edge_engine_error.restype = library.edge_engine_class_name.restype = ctypes.c_char_p
    library.edge_engine_class_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for name in ("classes", "regions", "size", "max_batch"):
        function = getattr(library, f"edge_engine_{name}")
        function.restype, function.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    library.edge_engine_effort.restype, library.edge_engine_effort.argtypes = ctypes.c_double, [ctypes.c_void_p]
    for function in (library.edge_engine_free, library.edge_engine_prediction_free):
        function.restype, function.argtypes = None, [ctypes.c_void_p]
    return library


class Outputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("scores", "global_scores", "local_scores", "regions", "region_classes")]


class Label(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("score", ctypes.c_float)]


class Region(ctypes.Structure):
    _fields_ = [("box", ctypes.c_float * 4), ("label", ctypes.c_char_p), ("score", ctypes.c_float)]


class Found(ctypes.Structure):
    _fields_ = [
        ("score_count", ctypes.c_size_t),
        ("scores", ctypes.POINTER(ctypes.c_float)),
        ("label_count", ctypes.c_size_t),
        ("labels", ctypes.POINTER(Label)),
        ("region_count", ctypes.c_size_t),
        ("regions", ctypes.POINTER(Region)),
    ]


def address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


class Native:
    """A bundle through the C API; freed with this object."""

    def __init__(self, api: ctypes.CDLL, bundle: Path, effort: float | None = None) -> None:
        self.api, self.handle = api, ctypes.c_void_p()
        if effort is None:
            self.require(api.edge_engine_load(os.fsencode(bundle), ctypes.byref(self.handle)))
        else:
            self.require(api.edge_engine_load_with_effort(os.fsencode(bundle), ctypes.c_double(effort), ctypes.byref(self.handle)))

    def require(self, code: int) -> None:
        if code:
            raise RuntimeError(self.api.edge_engine_error().decode())

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.api.edge_engine_class_name(self.handle, i).decode() for i in range(self.api.edge_engine_classes(self.handle)))

    @property
    def regions(self) -> int:
        return int(self.api.edge_engine_regions(self.handle))

    def infer(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        count, classes, regions = len(batch), len(self.labels), self.regions
        made = {name: np.full((count, classes), np.nan, np.float32) for name in ("scores", "global_scores", "local_scores")}
        made |= {"regions": np.full((count, regions, 4), np.nan, np.float32), "region_classes": np.full((count, regions), -1, np.int64)}
        outputs = Outputs(*(made[name].ctypes.data for name, _ in Outputs._fields_))
        self.require(self.api.edge_engine_infer(self.handle, address(batch), ctypes.c_size_t(count), ctypes.byref(outputs)))
        return made

    def infer_within(self, batch: np.ndarray, effort: float = -1.0, budget_ms: float = -1.0) -> dict[str, np.ndarray]:
        count, classes, regions = len(batch), len(self.labels), self.regions
        made = {name: np.full((count, classes), np.nan, np.float32) for name in ("scores", "global_scores", "local_scores")}
        made |= {"regions": np.full((count, regions, 4), np.nan, np.float32), "region_classes": np.full((count, regions), -1, np.int64)}
        outputs, looked = Outputs(*(made[name].ctypes.data for name, _ in Outputs._fields_)), np.full((count, regions), 9, np.uint8)
        spend = ctypes.c_double(effort), ctypes.c_double(budget_ms)
        self.require(
            self.api.edge_engine_infer_within(
                self.handle, address(batch), ctypes.c_size_t(count), *spend, ctypes.byref(outputs), address(looked)
            )
        )
        return made | {"regions_looked": looked}

    def predict_within(self, file: Path, effort: float) -> tuple[list[tuple[str, float]], list[bool]]:
        """Labels, and which regions were looked at."""
        found = ctypes.POINTER(Found)()
        spend = ctypes.c_float(-1), ctypes.c_double(effort), ctypes.c_double(-1)
        self.require(self.api.edge_engine_predict_file_within(self.handle, os.fsencode(file), *spend, ctypes.byref(found)))
        labels = [(each.name.decode(), each.score) for each in found.contents.labels[: found.contents.label_count]]
        looked = [bool(self.api.edge_engine_region_looked(found, ctypes.c_size_t(index))) for index in range(self.regions)]
        self.api.edge_engine_prediction_free(found)
        return labels, looked

    @property
    def effort(self) -> float:
        return float(self.api.edge_engine_effort(self.handle))

    def preprocess(self, pixels: np.ndarray, stride: int | None = None) -> np.ndarray:
        side = self.api.edge_engine_size(self.handle)
        made = np.empty((3, side, side), np.float32)
        height, width = pixels.shape[:2]
        row = ctypes.c_size_t(width * 3 if stride is None else stride)
        self.require(self.api.edge_engine_preprocess(self.handle, address(pixels), width, height, row, address(made)))
        return made

    def predict(self, file: Path, threshold: float = -1.0) -> dict:
        found = ctypes.POINTER(Found)()
        self.require(self.api.edge_engine_predict_file(self.handle, os.fsencode(file), ctypes.c_float(threshold), ctypes.byref(found)))
        one = found.contents
        made = {
            "scores": np.array(one.scores[: one.score_count], np.float32),
            "labels": [(each.name.decode(), each.score) for each in one.labels[: one.label_count]],
            "regions": [(tuple(each.box), each.label.decode(), each.score) for each in one.regions[: one.region_count]],
        }
        self.api.edge_engine_prediction_free(found)
        return made

    def __del__(self) -> None:
        self.api.edge_engine_free(self.handle)


@pytest.fixture(scope="session")
def open_native(api: ctypes.CDLL) -> Callable[[Path], Native]:
    """A function (bundle) → the bundle, loaded by the runtime; RuntimeError with its words where it
    refuses."""
    return partial(Native, api)


@pytest.fixture(scope="session")
def decode(runtime: Runtime, cmake: Callable[..., Path], builds: Path) -> Callable[[Sequence[Path]], list[np.ndarray]]:
    """A function (files) → what the runtime decodes each to, (H, W, 3) uint8."""
    source = Path(__file__).parent
    program = cmake(source, builds / "tests", f"CMAKE_PREFIX_PATH={runtime.prefix}", "CMAKE_BUILD_TYPE=Release") / "decode"

    def decoded(files: Sequence[Path]) -> list[np.ndarray]:
        data = subprocess.run([str(program), *map(str, files)], capture_output=True, check=True).stdout
        images = []
        while data:
            line, data = data.split(b"\n", 1)
            assert line.startswith(b"P6 "), line
            width, height = map(int, line.split()[1:3])
            images.append(np.frombuffer(data[: height * width * 3], np.uint8).reshape(height, width, 3))
            data = data[height * width * 3 :]
        return images

    return decoded


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fuzz targets start from: the folders manifest, image and onnx."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("corpus")
    command(sys.executable, Path(__file__).with_name("fuzz.py"), "corpus", folder)
    return folder


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """A function (bundle, files by name, change of the manifest) that changes a bundle and gives
    its files right digests."""

    def rewritten(bundle: Path, files: dict[str, bytes], change: Callable[[dict], object] = lambda manifest: None) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        change(manifest)
        for name, data in files.items():
            (bundle / name).write_bytes(data)
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return rewritten
