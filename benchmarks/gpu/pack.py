"""``run.sh --pack DIR``: everything that a machine with a GPU and no network needs for a run, as
archives in parts (``place.py``).

Needs TensorRT 8.6 with its Python module (``pip download tensorrt==8.6.0``, the last wheel that
holds the library, unpacked) and its headers (``TENSORRT_INCLUDE_DIR``; several folders, separated
by colons: of 8.6, and of 10 or later for the check of the plugin's enqueue), nvcc, CMake, a Python
3.10. What lies in ``DIR/made`` already is not made again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.gpu import images
from benchmarks.gpu.place import ARCHIVES, GPU, KERNELS, REPOSITORY, STUB
from edge.bundle import REFERENCE
from edge.manifest import digest_file, read_manifest, write_manifest
from edge.pipeline import BuildOptions, build

PART = 47_000_000  # bytes
ARCHITECTURE = "90"
LIBRARIES = (
    "__init__.py",
    "tensorrt.so",
    "libnvinfer.so.8",
    "libnvinfer_builder_resource.so.8.6.0",
    "libnvonnxparser.so.8",
    "libnvparsers.so.8",
)
PROGRAMS = ("mcar_edge_build", "mcar_edge_bench")
# What every system has, what is tied to its C library, and what is in the pack; other libraries
# travel with what loads them.
SYSTEM = re.compile(r"ld-linux|lib(c|m|dl|rt|pthread|resolv|nsl|gcc_s|stdc\+\+)\.so|lib(cuda|cu|nv)")
LOADED = ("_ctypes", "zlib", "_bz2", "_lzma")  # modules of Python that an engine imports and that load libraries
WHEELS = ("numpy<2.3", "pillow<13", "cuda-bindings<13", "cuda-pathfinder")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
UNUSED = ("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "site-packages", "config-3.10-*", "__pycache__")

WEIGHTS = {
    # Every region is looked at: what is compared is the arithmetic, not the rule.
    "mobilenetv2-256": BuildOptions(weights="mcar-mobilenetv2-scenes", effort=1.0),
    "resnet50-448": BuildOptions(model="mcar-resnet50", weights="random", size=448, calib_images=32),
}
BUNDLES = {
    f"{name}-{precision}": replace(options, precision=precision, backend="tensorrt", tensorrt="8.6", batch=1)
    for name, options in WEIGHTS.items()
    for precision in ("int8", "fp16")
}
BUNDLES["mobilenetv2-256-adaptive"] = replace(BUNDLES["mobilenetv2-256-int8"], effort=None)  # looks only where it pays


def make(folder: Path, tensorrt: Path | None, threads: int) -> int:
    """Make the archives in ``folder``; prints what each part weighs."""
    made = folder / "made"
    made.mkdir(parents=True, exist_ok=True)
    library = tensorrt or find_tensorrt()
    headers = [Path(part).resolve() for part in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if part]
    if not headers:
        sys.exit("[pack] TENSORRT_INCLUDE_DIR names no folder with TensorRT's headers. Set it.")
    steps: dict[str, Callable[[Path], None]] = {
        "tools": lambda target: make_tools(target, library, headers[0]),
        "include": lambda target: copy_headers(target, headers[-1]),
        "bundles": make_bundles,
        "python": make_python,
    }
    for name, step in steps.items():
        if not (made / name).is_dir():
            print(f"… {name}", file=sys.stderr, flush=True)
            with written_whole(made / name) as target:
                step(target)
    for archive, names in ARCHIVES.items():
        if not list(folder.glob(f"{archive}.tar.xz*")):
            print(f"… {archive}", file=sys.stderr, flush=True)
            sources = (
                [(library.parent, f"tensorrt/{name}") for name in LIBRARIES] if archive == "tensorrt" else [(made, name) for name in names]
            )
            compress(sources, folder / f"{archive}.tar.xz", threads)
        for part in split(folder, archive):
            print(f"{part.stat().st_size / 1e6:6.1f} MB  {part.name}")
    return 0


def find_tensorrt() -> Path:
    """Folder of the installed Python module."""
    spec = find_spec("tensorrt")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not all((folder / name).is_file() for name in LIBRARIES):
        sys.exit("[pack] There is no TensorRT 8.6 with its libraries. Pass --tensorrt DIR.")
    return folder


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A folder that has its name only once it is complete."""
    beside = path.with_name(f".{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    beside.rename(path)


def call(*command: str | Path) -> str:
    """A program's output; its own words are the error's."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


# ---- what the archives hold ----------------------------------------------------------------------


def make_tools(target: Path, library: Path, headers: Path) -> None:
    """The C++ programs and the plugin, and the libraries they load."""
    programs, libraries = target / "bin", target / "lib"
    programs.mkdir()
    libraries.mkdir()
    built = target.with_name("build")  # kept: the next time only what changed is compiled
    call("gcc", "-shared", "-fPIC", f"-Wl,-soname,{STUB}", GPU / "stub_plugin.c", "-o", libraries / STUB)
    runtime = (
        "-DCMAKE_BUILD_TYPE=Release", "-DMCAR_EDGE_BACKENDS=tensorrt", "-DMCAR_EDGE_STATIC=ON", "-DMCAR_EDGE_TOOLS=ON",
        f"-DTENSORRT_INCLUDE_DIR={headers}", f"-DTENSORRT_LIBRARY_DIR={library}",
    )  # fmt: skip
    call("cmake", "-S", REPOSITORY / "edge" / "cpp", "-B", built / "cpp", *runtime)
    call("cmake", "--build", built / "cpp", "-j2")
    plugin = "-DCMAKE_BUILD_TYPE=Release", f"-DTENSORRT_INCLUDE_DIR={headers}", f"-DCMAKE_CUDA_ARCHITECTURES={ARCHITECTURE}"
    call("cmake", "-S", KERNELS / "plugin", "-B", built / "plugin", *plugin)
    call("cmake", "--build", built / "plugin", "-j2")
    shutil.copy(built / "plugin" / "libedge_plugin.so", libraries)
    for name in PROGRAMS:
        program = next(path for path in (built / "cpp").rglob(name) if path.is_file())
        shutil.copy(program, programs)
        carry([program], libraries)


def carry(programs: Iterable[Path], libraries: Path) -> None:
    """Copy the libraries that programs load and not every system has."""
    for program in programs:
        for name, path in re.findall(r"(\S+) => (/\S+)", call("ldd", program)):
            if not SYSTEM.match(name) and not (libraries / name).exists():
                shutil.copy(path, libraries / name)


def copy_headers(target: Path, headers: Path) -> None:
    for header in headers.glob("Nv*.h"):
        shutil.copy(header, target)


def make_bundles(target: Path) -> None:
    """Bundles without plans, less what only a rebuild in Python would read; what their fp32 graphs
    answer goes to ``reference``."""
    for name, options in BUNDLES.items():
        whole = target.with_name("whole") / name
        if not whole.is_dir():
            print(f"  {name}", file=sys.stderr, flush=True)
            build(replace(options, output=whole))
        model, _, precision = name.rpartition("-")
        if precision == "int8":
            make_reference(target.parent, model, whole / REFERENCE)
        slim(whole, target / name)


def make_reference(made: Path, model: str, graph: Path) -> None:
    file, size = made / "reference" / f"mcar-{model}.npz", int(model.rpartition("-")[2])
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        given = images.prepare(made, size, images.COUNTS[size])
        np.savez_compressed(file, digest=digest_file(given.file), **images.reference(graph, given))  # type: ignore[arg-type]
        if graph.stat().st_size < PART // 2:  # a large one would weigh more than it is worth
            shutil.copy(graph, file.with_suffix(".onnx"))


def slim(bundle: Path, target: Path) -> None:
    """The same bundle without the graphs that a plan is not built of."""
    target.mkdir()
    manifest = read_manifest(bundle)
    for name in manifest["files"]:
        if name.startswith("lowered") or name == "labels.txt":
            shutil.copy(bundle / name, target)
    write_manifest(target, {key: value for key, value in manifest.items() if key not in ("schema", "files")})


def make_python(target: Path) -> None:
    """Python 3.10 without what no program here imports, and the packages that an engine needs."""
    program = shutil.which("python3.10")
    if program is None:
        sys.exit("[pack] There is no python3.10, the newest that TensorRT 8.6 has a module for. Install one, and put it on the PATH.")
    prefix = Path(call(program, "-c", "import sys; print(sys.base_prefix)").strip())
    (target / "bin").mkdir()
    shutil.copy((prefix / "bin" / "python3.10").resolve(), target / "bin" / "python3.10")
    ignored = shutil.ignore_patterns(*UNUSED, "*.a", "*_test*", "_tkinter*")
    shutil.copytree(prefix / "lib" / "python3.10", target / "lib" / "python3.10", ignore=ignored)
    shutil.copy(prefix / "lib" / "libpython3.10.so.1.0", target / "lib")
    with TemporaryDirectory() as wheels:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        only = "--no-deps", "--only-binary=:all:", "--python-version", "3.10", "--implementation", "cp"
        call(sys.executable, "-m", "pip", "download", "-q", *only, *platforms, "-d", wheels, *WHEELS)
        packages = target / "lib" / "python3.10" / "site-packages"
        for wheel in Path(wheels).iterdir():
            call(sys.executable, "-m", "zipfile", "-e", wheel, packages)
        for tests in [*packages.rglob("tests")]:
            shutil.rmtree(tests)
    modules = target / "lib" / "python3.10" / "lib-dynload"
    carry([path for name in LOADED for path in modules.glob(f"{name}.*.so")], target / "lib")
    call("strip", "--strip-unneeded", target / "lib" / "libpython3.10.so.1.0", *modules.glob("*.so"))


# ---- archives ------------------------------------------------------------------------------------


def compress(sources: list[tuple[Path, str]], target: Path, threads: int) -> None:
    """Paths under folders → one archive in blocks, so that all cores unpack it."""
    words = [word for folder, name in sources if (folder / name).exists() for word in ("-C", str(folder), name)]
    beside = target.with_suffix(".new")
    with open(beside, "wb") as out:
        tar = subprocess.Popen(["tar", "cf", "-", *words], stdout=subprocess.PIPE)
        # A bundle's two graphs hold the same weights: the dictionary reaches from one to the other.
        pressed = (
            ["xz", "-2", "-c", "--lzma2=preset=2,dict=512MiB"]
            if "bundles" in target.name
            else ["xz", "-6", "-c", f"-T{threads}", "--block-size=24MiB"]
        )
        codes = subprocess.run(pressed, stdin=tar.stdout, stdout=out, check=False).returncode, tar.wait()
    if any(codes):
        raise RuntimeError(f"{target.name} could not be made: tar and xz ended with {codes}")
    beside.rename(target)


def split(folder: Path, archive: str) -> list[Path]:
    """The parts of an archive, cut unless they are there."""
    whole = folder / f"{archive}.tar.xz"
    if whole.is_file() and not list(folder.glob(f"{whole.name}.*")):
        with open(whole, "rb") as file:
            for index in range(10_000):
                if not (data := file.read(PART)):
                    break
                (folder / f"{whole.name}.{index:02d}").write_bytes(data)
    return sorted(folder.glob(f"{whole.name}.*"))
