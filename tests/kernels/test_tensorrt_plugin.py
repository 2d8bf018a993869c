"""The TensorRT plugin without TensorRT: its methods called by plugin_host.cpp, its library's symbols read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def flags(repository: Path, headers: Path, cuda: Path) -> list[str]:
    includes = [f"-I{repository / 'kernels'}", f"-isystem{headers}", f"-isystem{cuda / 'include'}"]
    return ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *includes]


def version(headers: Path) -> str:
    text = (headers / "NvInferVersion.h").read_text()
    return ".".join(re.findall(r"#define (?:NV_TENSORRT|TRT)_(?:MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text)[:2])


def test_shapes_types_formats_and_serialisation(
    repository: Path, compiler: str, cuda: Path, tensorrt_headers: list[Path], tmp_path: Path
) -> None:
    for index, headers in enumerate(tensorrt_headers):
        program = tmp_path / f"plugin_host_{index}"
        sources = [str(Path(__file__).with_name("plugin_host.cpp")), str(repository / "kernels" / "plugin" / "exports.cpp")]
        subprocess.run([compiler, *flags(repository, headers, cuda), *sources, "-o", str(program)], check=True)
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"TensorRT {version(headers)}:\n{done.stdout}"


def test_library_exports_two_functions_and_needs_no_tensorrt(
    repository: Path, compiler: str, cuda: Path, tensorrt_headers: list[Path], tmp_path: Path
) -> None:
    nm = shutil.which("nm")
    folder = next((cuda / name for name in ("lib", "lib64") if (cuda / name / "libcudart_static.a").is_file()), None)
    if nm is None or folder is None:
        pytest.skip("nm or libcudart_static.a is absent: install binutils and nvidia-cuda-runtime")
    kernels, launch = repository / "kernels", tmp_path / "launch.o"
    nvcc = [str(cuda / "bin" / "nvcc"), "-std=c++17", "-arch=sm_87", f"-I{kernels}", "-Xcompiler", "-fPIC"]
    subprocess.run([*nvcc, "-c", str(kernels / "launch.cu"), "-o", str(launch)], check=True)
    for index, headers in enumerate(tensorrt_headers):
        library = tmp_path / f"libedge_plugin_{index}.so"
        link = ["-fPIC", "-shared", f"-Wl,--version-script={kernels / 'plugin' / 'exports.map'}", f"-L{folder}"]
        inputs = [str(kernels / "plugin" / "exports.cpp"), str(launch), "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
        subprocess.run([compiler, *flags(repository, headers, cuda), *link, *inputs, "-o", str(library)], check=True)
        symbols = subprocess.run([nm, "-D", str(library)], check=True, capture_output=True, text=True).stdout
        defined = {line.split()[-1] for line in symbols.splitlines() if " T " in line or " D " in line or " B " in line}
        assert defined == {"getCreators", "setLoggerFinder"}
        undefined = [line.split()[-1] for line in symbols.splitlines() if " U " in line]
        assert not [name for name in undefined if "nvinfer" in name.lower() or name.startswith("cuda")]
