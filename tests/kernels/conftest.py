"""Compilers and headers for the kernel tests; each fixture skips with the reason where something is
absent."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

WARNINGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]


def toolkit_of(nvcc: str) -> Path:
    """Root of the toolkit that an ``nvcc`` on the PATH belongs to, which may be a link or a script
    elsewhere."""
    report = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True, check=False)
    found = re.search(r"^#\$ TOP=(.+)$", report.stdout + report.stderr, re.MULTILINE)
    return Path(found[1]).resolve() if found else Path(nvcc).resolve().parents[1]


@pytest.fixture(scope="session")
def cuda() -> Path:
    """The CUDA toolkit: of the ``nvidia-cuda-*`` wheels if installed, else the one of the ``nvcc``
    on the PATH."""
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*"))
    found = shutil.which("nvcc")
    for root in [*wheels, *([toolkit_of(found)] if found else [])]:
        if (root / "bin" / "nvcc").is_file() and (root / "include" / "cuda_fp16.h").is_file():
            return root
    pytest.skip("no CUDA compiler: pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl, or put nvcc on the PATH")


@pytest.fixture(scope="session")
def tensorrt_headers() -> list[Path]:
    """Folders that hold ``NvInfer.h``: TENSORRT_INCLUDE_DIR may name several, separated as in
    PATH."""
    named = [Path(folder) for folder in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if folder]
    folders = [folder for folder in named if (folder / "NvInfer.h").is_file()]
    if not folders:
        pytest.skip("no TensorRT headers: set TENSORRT_INCLUDE_DIR to the folder of NvInfer.h (github.com/NVIDIA/TensorRT, include/)")
    return folders


@pytest.fixture(scope="session")
def compiler() -> str:
    """The host C++ compiler."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if not found:
        pytest.skip("no C++ compiler: install g++ or set CXX")
    return found


@pytest.fixture(scope="session")
def host(repository: Path, compiler: str, cuda: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels' code built for the CPU, see host.cpp."""
    library = tmp_path_factory.mktemp("host") / "host.so"
    # -ffp-contract=off: on the device the products that must stay rounded are marked, a host
    # compiler may fuse any.
    flags = [*WARNINGS, "-ffp-contract=off", "-fPIC", "-shared", f"-I{repository / 'kernels'}", f"-isystem{cuda / 'include'}"]
    subprocess.run([compiler, *flags, str(Path(__file__).with_name("host.cpp")), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
