"""What the distribution holds, and what importing it costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sdist(checkout: Path, build_backend: Callable[[str, Path, Path], Path]) -> Path:
    return build_backend("sdist", checkout, checkout.parent / "sdist")


@pytest.fixture(scope="module")
def packed(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_three_packages_and_nothing_else_at_its_top(packed: set[str], repository: Path) -> None:
    top = {name.split("/")[0] for name in packed}
    version = re.search(r'__version__ = "(.+)"', (repository / "edge" / "__init__.py").read_text())[1]  # type: ignore[index]
    assert top == {"edge", "export", "calib", f"mcar_edge-{version}.dist-info"}


def test_every_python_module_is_in_the_wheel(packed: set[str], checkout: Path) -> None:
    for package in ("edge", "export", "calib"):
        modules = {path.relative_to(checkout).as_posix() for path in (checkout / package).rglob("*.py")}
        assert modules <= packed
    assert not [name for name in packed if "test" in Path(name).name or "__pycache__" in name]


def test_kernel_and_runtime_sources_ride_in_native(packed: set[str], checkout: Path) -> None:
    kernels, runtime = (
        {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        for root in (checkout / "kernels", checkout / "edge" / "cpp")
    )
    assert "roi_resize/roi_resize.cuh" in kernels
    expected = {f"edge/_native/kernels/{name}" for name in kernels} | {f"edge/_native/cpp/{name}" for name in runtime}
    assert expected <= packed
    assert not [name for name in packed if name.startswith(("edge/_native/", "edge/cpp/")) and name.endswith((".py", ".so", ".o"))]


def test_shipped_weights_are_in_the_wheel(packed: set[str], checkout: Path) -> None:
    assets = {str(path.relative_to(checkout)) for path in (checkout / "edge" / "assets").rglob("*") if path.is_file()}
    assert assets <= packed


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
    assert metadata["Name"] == "mcar-edge"
    assert metadata["Requires-Python"] == ">=3.10"
    needed = metadata.get_all("Requires-Dist")
    always = {re.split(r"[<>=!~ ;]", line)[0].lower() for line in needed if "extra ==" not in line}
    assert always == {"numpy", "pillow"}
    assert {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx", "build", "train", "dev"} <= set(metadata.get_all("Provides-Extra"))


def test_every_extra_that_a_message_or_page_names_exists(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        extras = set(message_from_string(archive.read(name).decode()).get_all("Provides-Extra"))
    named: dict[str, str] = {}
    for folder, suffix in (("edge", "py"), ("export", "py"), ("calib", "py"), ("docs", "md"), ("examples", "*"), (".", "md")):
        for path in (repository / folder).glob(f"*.{suffix}" if folder == "." else f"**/*.{suffix}"):
            for several in re.findall(r"mcar-edge\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
                named |= dict.fromkeys(several.split(","), path.name)
    assert "build" in named, "the walk lost the messages"
    assert not {extra: path for extra, path in named.items() if extra not in extras}


def test_a_wheel_built_from_the_sdist_is_the_same(
    sdist: Path, packed: set[str], tmp_path: Path, build_backend: Callable[[str, Path, Path], Path]
) -> None:
    with tarfile.open(sdist) as archive:
        (root,) = {name.split("/")[0] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    with zipfile.ZipFile(build_backend("wheel", tmp_path / root, tmp_path / "wheel")) as archive:
        assert set(archive.namelist()) == packed


def test_the_installed_wheel_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import edge, edge.errors; print(edge.__file__); print(edge.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.splitlines()[0]).is_relative_to(tmp_path)


HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "tqdm", "psutil")


def loaded_by(repository: Path, statement: str) -> set[str]:
    """Top-level packages that a statement loads, in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_edge_costs_no_array_or_vendor_library(repository: Path) -> None:
    assert not loaded_by(repository, "import edge") & {*HEAVY, "numpy", "PIL"}


@pytest.mark.parametrize(
    "statement", ["from edge import Engine", "import edge.backends", "import edge.image", "import edge.predict", "import edge.doctor"]
)
def test_the_device_side_costs_numpy_and_pillow_only(repository: Path, statement: str) -> None:
    assert not loaded_by(repository, statement) & set(HEAVY)


@pytest.mark.parametrize("command", ["build", "bench", "predict", "train", "doctor"])
def test_help_and_version_of_every_command_need_neither_torch_nor_onnx(repository: Path, command: str) -> None:
    loaded = loaded_by(repository, f"import edge.{command}; edge.{command}.arguments().format_help()")
    assert not loaded & set(HEAVY)


BLOCKED = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    "module", ["edge.engine", "edge.predict", "edge.bench", "edge.doctor", "edge.pipeline", "edge.build", "edge.measure", "edge.data"]
)
def test_a_device_without_host_packages_imports_what_it_runs(repository: Path, module: str) -> None:
    absent = BLOCKED.format(names=set(HEAVY))
    loaded_by(repository, f"{absent}\nimport {module}")


def test_a_device_without_host_packages_gets_one_line_from_build(repository: Path, tmp_path: Path) -> None:
    absent = BLOCKED.format(names={"torch", "torchvision", "onnxscript"})
    flags = ["build", "--weights", "random", "--precision", "fp32", "--backend", "onnxruntime"]
    code = f"{absent}\nimport runpy\nsys.argv = {flags}\nrunpy.run_module('edge.build', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("[build]")
    assert "mcar-edge[build]" in line
    assert not list(tmp_path.iterdir())
