"""The TensorRT plugin: its methods called by plugin_host.cpp, its library's symbols read, a real
TensorRT 8 given it (no GPU)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest


def flags(repository: Path, headers: Path, cuda: Path) -> list[str]:
    includes = [f"-I{repository / 'kernels'}", f"-isystem{headers}", f"-isystem{cuda / 'include'}"]
    return ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *includes]


def version(headers: Path) -> tuple[int, int]:
    text = (headers / "NvInferVersion.h").read_text()
    major, minor = re.findall(r"#define (?:NV_TENSORRT|TRT)_(?:MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text)[:2]
    return int(major), int(minor)


@pytest.fixture(scope="module")
def libraries(
    repository: Path, compiler: str, cuda: Path, tensorrt_headers: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, Path]:
    """The plugin library for each folder of headers, linked as the CMake target is."""
    folder = next((cuda / name for name in ("lib", "lib64") if (cuda / name / "libcudart_static.a").is_file()), None)
    if folder is None:
        pytest.skip("libcudart_static.a is absent: install nvidia-cuda-runtime")
    kernels, out = repository / "kernels", tmp_path_factory.mktemp("plugin")
    nvcc = [str(cuda / "bin" / "nvcc"), "-std=c++17", "-arch=sm_87", f"-I{kernels}", "-Xcompiler", "-fPIC"]
    subprocess.run([*nvcc, "-c", str(kernels / "launch.cu"), "-o", str(out / "launch.o")], check=True)
    made = {}
    for index, headers in enumerate(tensorrt_headers):
        made[headers] = out / f"libedge_plugin_{index}.so"
        link = ["-fPIC", "-shared", f"-Wl,--version-script={kernels / 'plugin' / 'exports.map'}", f"-L{folder}"]
        inputs = [str(kernels / "plugin" / "exports.cpp"), str(out / "launch.o"), "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
        subprocess.run([compiler, *flags(repository, headers, cuda), *link, *inputs, "-o", str(made[headers])], check=True)
    return made


def test_shapes_types_formats_and_serialisation(
    repository: Path, compiler: str, cuda: Path, tensorrt_headers: list[Path], tmp_path: Path
) -> None:
    for index, headers in enumerate(tensorrt_headers):
        program = tmp_path / f"plugin_host_{index}"
        sources = [str(Path(__file__).with_name("plugin_host.cpp")), str(repository / "kernels" / "plugin" / "exports.cpp")]
        subprocess.run([compiler, *flags(repository, headers, cuda), *sources, "-ldl", "-o", str(program)], check=True)
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"TensorRT {version(headers)}:\n{done.stdout}"


def test_library_exports_what_tensorrt_looks_for_and_needs_no_tensorrt(libraries: dict[Path, Path]) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is absent: install binutils")
    for headers, library in libraries.items():
        symbols = subprocess.run([nm, "-D", str(library)], check=True, capture_output=True, text=True).stdout
        defined = {line.split()[-1] for line in symbols.splitlines() if " T " in line or " D " in line or " B " in line}
        creators = {"getCreators"} if version(headers) >= (10, 0) else {"getPluginCreators", "edge_register_plugins"}
        assert defined == creators | {"setLoggerFinder"}, version(headers)
        undefined = [line.split()[-1] for line in symbols.splitlines() if " U " in line]
        assert not [name for name in undefined if "nvinfer" in name.lower() or name.startswith("cuda")]


def test_a_real_tensorrt_8_takes_the_library(
    repository: Path, compiler: str, cuda: Path, libraries: dict[Path, Path], tmp_path: Path
) -> None:
    named = [Path(folder) / "libnvinfer.so.8" for folder in os.environ.get("TENSORRT_LIBRARY_DIR", "").split(os.pathsep) if folder]
    tensorrt = [file for file in named if file.is_file()]
    headers = [folder for folder in libraries if version(folder) < (10, 0)]
    if not tensorrt or not headers:
        pytest.skip(
            "no TensorRT 8: set TENSORRT_LIBRARY_DIR to the folder of libnvinfer.so.8 and TENSORRT_INCLUDE_DIR to 8.5's or 8.6's headers"
        )
    for index, folder in enumerate(headers):
        program = tmp_path / f"plugin_registry_{index}"
        source = str(Path(__file__).with_name("plugin_registry.cpp"))
        subprocess.run([compiler, *flags(repository, folder, cuda), source, "-ldl", "-o", str(program)], check=True)
        for library in tensorrt:
            # 8.5 has no loadLibrary, and a program made for 8.5 knows none; the two interfaces are
            # otherwise one.
            answer = subprocess.run(
                [str(program), "register", str(library), str(libraries[folder])], capture_output=True, text=True, check=False
            )
            assert answer.returncode == 0, f"{version(folder)}: {answer.stdout}"
            if "TensorRT 86" in answer.stdout and version(folder) >= (8, 6):
                loaded = subprocess.run(
                    [str(program), "load", str(library), str(libraries[folder])], capture_output=True, text=True, check=False
                )
                assert loaded.returncode == 0, f"{version(folder)}: {loaded.stdout}"
