"""Every CUDA source compiles for Jetson Orin, Hopper and Jetson Thor, by nvcc and by NVRTC, within
recorded resources."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from benchmarks.gpu.resources import ARCHITECTURES, FIGURES, REPOSITORY, TABLE, measure, sources

HEADERS = sorted(str(path.relative_to(REPOSITORY / "kernels")) for path in (REPOSITORY / "kernels").rglob("*.cuh"))
CLANG_FORMATTED = ("*.h", "*.cuh", "*.cu", "*.cpp")


def test_the_recorded_table_lists_every_source() -> None:
    assert sorted(json.loads(TABLE.read_text())["kernels"]) == sorted(str(source) for source in sources())
    assert {"kernels/launch.cu", "kernels/aot.cu"} <= {str(source) for source in sources()}


@pytest.mark.parametrize("source", sources(), ids=str)
def test_registers_spills_and_shared_memory_are_as_recorded(cuda: Path, source: Path) -> None:
    recorded = json.loads(TABLE.read_text())
    measured = measure(cuda / "bin" / "nvcc", source)
    expected = recorded["kernels"][str(source)]
    assert measured.keys() == expected.keys(), "kernels were added or renamed: run benchmarks/gpu/resources.py"
    tolerance = recorded["register_tolerance"]
    for name, row in measured.items():
        assert set(row) == set(ARCHITECTURES), name
        for arch, values in row.items():
            ours, theirs = dict(zip(FIGURES, values, strict=True)), dict(zip(FIGURES, expected[name][arch], strict=True))
            assert abs(ours.pop("registers") - theirs.pop("registers")) <= tolerance, (name, arch)
            assert ours == theirs, (name, arch)
            assert not any(values[1:4]), f"{name} uses local memory on {arch}"


def test_no_cuda_source_includes_tensorrt() -> None:
    for source in sources():
        assert "NvInfer" not in (REPOSITORY / source).read_text(), source


class Nvrtc:
    """NVRTC through ctypes: source text → PTX."""

    def __init__(self, cuda: Path) -> None:
        wheels = Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib")
        found = [path for folder in (cuda / "lib", cuda / "lib64", *wheels) for path in sorted(folder.glob("libnvrtc.so*"))]
        if not found:
            pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")
        self.library = ctypes.CDLL(str(found[0]))
        self.options = ["--std=c++17", f"-I{REPOSITORY / 'kernels'}", f"-I{cuda / 'include'}"]

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    def ptx(self, source: str, arch: str) -> str:
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        options = [option.encode() for option in (*self.options, f"--gpu-architecture={arch.replace('sm_', 'compute_')}")]
        code = self.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        assert code == 0, self._text(program, "ProgramLog")
        text = self._text(program, "PTX")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return text


@pytest.fixture(scope="module")
def nvrtc(cuda: Path) -> Nvrtc:
    return Nvrtc(cuda)


@pytest.mark.parametrize("header", HEADERS)
def test_every_kernel_header_compiles_alone_by_nvrtc(nvrtc: Nvrtc, header: str) -> None:
    for arch in ARCHITECTURES:
        assert f".target {arch}" in nvrtc.ptx(f'#include "{header}"\n', arch)


def test_ahead_of_time_entry_points_take_inputs_numbers_then_output(nvrtc: Nvrtc) -> None:
    ptx = nvrtc.ptx((REPOSITORY / "kernels" / "aot.cu").read_text(), "sm_87")
    entries = {name: re.findall(r"\.param \.(u64|u32)", body) for name, body in re.findall(r"\.entry (\w+)\((.*?)\)", ptx, re.DOTALL)}
    assert entries.pop("edge_region_boxes") == ["u64", *["u32"] * 3, "u64"]
    forms = ("fp32_fp32_linear", "fp32_fp16_linear", "fp32_fp16_hwc8", "fp16_fp16_linear", "fp16_fp16_hwc8")
    assert entries == {f"edge_roi_resize_{form}": ["u64"] * 3 + ["u32"] * 4 + ["u64"] for form in forms}


@pytest.mark.parametrize("folder", ["kernels", "tests/kernels", "benchmarks/gpu"])
def test_sources_are_formatted(folder: str) -> None:
    clang_format = pytest.importorskip("clang_format", reason="no clang-format: pip install clang-format")
    executable = Path(clang_format.__file__).parent / "data" / "bin" / "clang-format"
    files = [str(path) for pattern in CLANG_FORMATTED for path in (REPOSITORY / folder).rglob(pattern)]
    done = subprocess.run([str(executable), "--dry-run", "-Werror", *files], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[:2000]
