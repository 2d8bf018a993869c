"""The distribution `mcar-edge`: packages edge, export and calib; CUDA and C++ sources travel as
data in edge/_native."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "edge" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]  # type: ignore[index]

# What a device needs to build the plugin and the C++ runtime: sources, never what a build left
# beside them.
NATIVE = {"kernels": "kernels", "cpp": "edge/cpp"}
BUILT_FOLDERS = {"build", "__pycache__"}
BUILT_SUFFIXES = {".o", ".so", ".a", ".pyc"}

# Lower bounds are versions the test suite passed with; nothing is pinned to the newest
# (docs/decisions/0002).
TORCH = ["torch>=2.7", "torchvision>=0.22"]
BUILD = [*TORCH, "onnx>=1.19.1", "onnxscript>=0.7.2", "onnxruntime>=1.23", "openvino>=2026.0", "tqdm>=4.60", "psutil>=5.9"]
VIDEO = ["av>=14.0"]
# What lets the tests compile every kernel and build RTX engines on a machine without a GPU.
ON_X86 = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
COMPILERS = [
    f"{name}>=13.0{ON_X86}"
    for name in ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc")
]
EXTRAS = {
    # On the device: one vendor library. JetPack brings its own TensorRT (apt, python3-libnvinfer),
    # which needs no extra.
    "openvino": ["openvino>=2026.0"],
    "onnxruntime": ["onnxruntime>=1.23"],
    "tensorrt": ["tensorrt>=10.0", "cuda-bindings>=12.6"],
    "tensorrt-rtx": ["tensorrt-rtx-cu13>=1.1", "cuda-bindings>=13.0"],
    # Video files, cameras and streams, on either.
    "video": VIDEO,
    # On the host.
    "build": BUILD,
    "train": [*TORCH, "tqdm>=4.60"],
    # The formatters are pinned to a minor release: each one formats a little differently.
    "dev": [
        *BUILD,
        *VIDEO,
        "pytest>=8",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "scikit-learn>=1.4",
        "pdoc>=15.0",
        "ruff==0.17.*",
        "mypy==2.4.*",
        "clang-format==23.*",
        "setuptools>=77",
        "wheel>=0.43",
        *COMPILERS,
        f"tensorrt-rtx-cu13>=1.1{ON_X86}",
        f"cuda-bindings>=13.0{ON_X86}",
    ],
}


class BuildWithNativeSources(build_py):  # type: ignore[misc]  # setuptools comes without types
    """Adds ``edge/_native``; an editable install reads the same sources where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, destination in self._native():
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, destination)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        own = [] if self.editable_mode else [str(destination) for _, destination in self._native()]
        return [*super().get_outputs(include_bytecode), *own]

    def _native(self) -> list[tuple[Path, Path]]:
        target = Path(self.build_lib) / "edge" / "_native"
        pairs = []
        for name, folder in NATIVE.items():
            for source in sorted((ROOT / folder).rglob("*")):
                inside = source.relative_to(ROOT / folder)
                if source.is_file() and source.suffix not in BUILT_SUFFIXES and not BUILT_FOLDERS & set(inside.parts):
                    pairs.append((source, target / name / inside))
        return pairs


setup(
    name="mcar-edge",
    version=VERSION,
    description="Region-attention multi-label recognisers on edge devices: build, measure and run INT8 engine bundles",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        name
        for name in find_namespace_packages(include=["edge", "edge.*", "export", "export.*", "calib", "calib.*"])
        if not name.startswith(("edge.cpp", "edge.assets", "edge._native"))
    ],
    package_data={"edge": ["assets/*", "assets/aerial/*", "assets/aerial/images/*", "py.typed"]},
    include_package_data=False,
    cmdclass={"build_py": BuildWithNativeSources},
    install_requires=["numpy>=1.26", "Pillow>=10.1"],
    extras_require=EXTRAS,
    zip_safe=False,
)
