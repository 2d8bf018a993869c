"""The C++ runtime and its examples, built once a session; each fixture skips with the reason where something is absent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = "apt install g++ cmake ninja-build nlohmann-json3-dev libjpeg62-turbo-dev libpng-dev libssl-dev"
HEADERS = ("nlohmann/json.hpp", "jpeglib.h", "png.h", "openssl/evp.h")


def command(*words: object, **options: object) -> str:
    """Run a tool; its words on failure."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return str(done.stdout)


@pytest.fixture(scope="session")
def cmake() -> Callable[..., Path]:
    """A function (source, build folder, *definitions) that configures and builds; skips where tools or headers are absent."""
    compiler = os.environ.get("CXX", "g++")
    for tool in (compiler, "cmake"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}: {PACKAGES}")
    for header in HEADERS:
        asked = subprocess.run(
            [compiler, "-E", "-x", "c++", "-"], input=f"#include <cstdio>\n#include <{header}>\n", capture_output=True, text=True
        )
        if asked.returncode:
            pytest.skip(f"no header {header}: {PACKAGES}")
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
    """Where builds lie: one folder for all workers of a run; EDGE_CPP_BUILDS names one that is kept between runs."""
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
def runtime(repository: Path, cmake: Callable[..., Path], openvino_folder: Path, builds: Path) -> Runtime:
    """Built from the wheel's OpenVINO and installed; the examples built against what was installed, as a user would."""
    prefix, flags = builds / "prefix", [f"CMAKE_{language}_FLAGS_RELEASE=-O2" for language in ("C", "CXX")]
    found = [f"CMAKE_PREFIX_PATH={openvino_folder}", f"CMAKE_INSTALL_PREFIX={prefix}", "CMAKE_INSTALL_LIBDIR=lib", "MCAR_EDGE_BENCH=ON"]
    build = cmake(repository / "edge" / "cpp", builds / "runtime", *found, *flags, target="install")
    installed = [f"CMAKE_PREFIX_PATH={prefix}", "CMAKE_BUILD_TYPE=Release"]
    examples = cmake(repository / "examples" / "cpp", builds / "examples", *installed, *flags)
    return Runtime(build, prefix, prefix / "lib" / "libmcar_edge.so", examples)


@pytest.fixture(scope="session")
def api(runtime: Runtime) -> ctypes.CDLL:
    """The C API, as another language calls it."""
    library = ctypes.CDLL(str(runtime.library))
    library.edge_engine_error.restype = ctypes.c_char_p
    library.edge_engine_class_name.restype = ctypes.c_char_p
    for name in ("classes", "regions", "size", "max_batch"):
        function = getattr(library, f"edge_engine_{name}")
        function.restype, function.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    library.edge_engine_class_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.edge_engine_free.argtypes = [ctypes.c_void_p]
    library.edge_engine_free.restype = None
    library.edge_engine_prediction_free.argtypes = [ctypes.c_void_p]
    library.edge_engine_prediction_free.restype = None
    return library
