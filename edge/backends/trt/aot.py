"""Our two operations as plugins that TensorRT 10.9 and later takes into the engine ahead of time:
no library beside it.

NVRTC turns ``kernels/aot.cu`` into PTX where the engine is built, and TensorRT's module
``tensorrt.plugin`` is told which entry point to launch for which types and formats, on what grid,
with what numbers. Asked for by ``EDGE_TENSORRT_PLUGIN=aot``: it is not the default, because no
engine with it has run on a GPU yet.
"""

from __future__ import annotations

import os
import struct
import sysconfig
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from edge.backends.base import Native
from edge.backends.trt.plugin import AHEAD_OF_TIME, PLUGIN_VARIABLE
from edge.errors import EdgeError

# Thread blocks of kernels/aot.cu, and output rows per thread of a crop.
BOX_THREADS, CROP_THREADS, CROP_ROWS = 512, 128, 8


def check_version(trt: Native) -> None:
    """Refuse a version that lacks this route."""
    if not hasattr(trt, "QuickPluginCreationRequest"):  # it came with the route, and says more than a number
        raise EdgeError(
            "backend",
            f"{PLUGIN_VARIABLE}={AHEAD_OF_TIME} needs TensorRT 10.9 or later, and {trt.__version__} is installed",
            "Build the plugin library instead: docs/jetson.md",
        )


def compile_kernels(compute_capability: tuple[int, int]) -> bytes:
    """``kernels/aot.cu`` → PTX for that compute capability, by NVRTC; needs no GPU."""
    nvrtc, folder, include = _nvrtc(), _kernels(), _cuda_include()
    options = ["-std=c++17", f"-I{folder}", f"-I{include}", "-arch=compute_{}{}".format(*compute_capability)]

    def call(name: str, *arguments: Native) -> Native:
        code, *results = getattr(nvrtc, name)(*arguments)  # by name, to say which call failed
        if int(code):
            raise EdgeError(
                "backend",
                f"NVRTC cannot compile the kernels: {name}: {code.name} {_log(nvrtc, program)}".rstrip(),
                f"Install an NVRTC that knows compute capability {'.'.join(map(str, compute_capability))}, or build the plugin library",
            )
        return results[0] if results else None

    program = None
    program = call("nvrtcCreateProgram", (folder / "aot.cu").read_bytes(), b"aot.cu", 0, [], [])
    call("nvrtcCompileProgram", program, len(options), [option.encode() for option in options])
    ptx = b" " * int(call("nvrtcGetPTXSize", program))
    call("nvrtcGetPTX", program, ptx)
    call("nvrtcDestroyProgram", program)
    return ptx.rstrip(b"\0")


def register(trt: Native, ptx: bytes) -> None:
    """Tell TensorRT of both operations, before a graph with their nodes is parsed; once per
    process.

    Its module reads the annotations of what it is given, so they are set as values.
    """
    plugin = import_module(f"{trt.__name__}.plugin")
    desc = plugin.TensorDesc

    def launch(kernel: str, threads: int, grid: tuple[Native, Native], numbers: tuple[Native, ...]) -> tuple[Native, ...]:
        shape = plugin.KernelLaunchParams(grid_x=grid[0], grid_y=grid[1], block_x=threads)
        return kernel, ptx, shape, plugin.SymIntExprs.from_tuple([plugin.SymInt32(number) for number in numbers])

    # maps: (B, K, n, n) float32 → boxes: (B, K, 4) float32
    def boxes(maps: Native, size: int, threshold: float) -> Native:
        return plugin.from_shape_expr((maps.shape_expr[0], maps.shape_expr[1], 4), dtype=trt.DataType.FLOAT)

    def launch_boxes(maps: Native, size: int, threshold: float, outputs: Native, tactic: int) -> Native:
        images, regions, side = (maps.shape_expr[axis] for axis in range(3))
        return launch("edge_region_boxes", BOX_THREADS, (images * regions * 2, 1), (side, size, _bits(threshold)))

    # image: (B, 3, H, W) float32 or float16, boxes: (R, 4) float32, owner: (R) int32 → crops: (R,
    # 3, size, size) of the image's type
    def crops(image: Native, boxes: Native, owner: Native, size: int) -> Native:
        return plugin.from_shape_expr((boxes.shape_expr[0], image.shape_expr[1], size, size), dtype=image.dtype)

    def crop_formats(image: Native, boxes: Native, owner: Native, outputs: Native) -> Native:
        made = plugin.AutoTuneCombination
        return [
            made("FP32|FP16, FP32, INT32, FP32|FP16", "LINEAR"),
            made("FP16, FP32, INT32, FP16", "LINEAR, LINEAR, LINEAR, HWC8"),
        ]

    def launch_crops(image: Native, boxes: Native, owner: Native, size: int, outputs: Native, tactic: int) -> Native:
        kind = "fp16" if image.dtype == trt.DataType.HALF else "fp32"
        layout = "hwc8" if outputs[0].format == trt.TensorFormat.HWC8 else "linear"
        columns = 2 if (kind, layout) == ("fp16", "linear") else 1
        tiles = _ceil_div(size, columns) * _ceil_div(size, CROP_ROWS)
        grid = _ceil_div(tiles, CROP_THREADS), boxes.shape_expr[0]
        numbers = image.shape_expr[0], image.shape_expr[2], image.shape_expr[3], size
        return launch(f"edge_roi_resize_{kind}_{kind}_{layout}", CROP_THREADS, grid, numbers)

    launched = tuple[str, bytes, plugin.KernelLaunchParams, plugin.SymIntExprs]  # type: ignore[name-defined]
    boxed, cut, sized = {"size": int, "threshold": float}, {"image": desc, "boxes": desc, "owner": desc}, {"size": int}
    plugin.register("edge::RegionBoxes")(_annotated(boxes, {"maps": desc, **boxed, "return": desc}))
    plugin.aot_impl("edge::RegionBoxes")(_annotated(launch_boxes, {"maps": desc, **boxed, "return": launched}))
    plugin.register("edge::RoiResize")(_annotated(crops, {**cut, **sized, "return": desc}))
    plugin.autotune("edge::RoiResize")(_annotated(crop_formats, cut))
    plugin.aot_impl("edge::RoiResize")(_annotated(launch_crops, {**cut, **sized, "return": launched}))


def _annotated(function: Callable[..., Native], annotations: dict[str, Native]) -> Callable[..., Native]:
    function.__annotations__ = annotations
    return function


def _bits(value: float) -> int:
    """A float32 as the int32 of the same bits: kernels launched by TensorRT take no other
    numbers."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _kernels() -> Path:
    """The kernels' sources: in an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    return next(folder for folder in (package / "_native" / "kernels", package.parent / "kernels") if (folder / "aot.cu").is_file())


def _cuda_include() -> Path:
    """The folder of ``cuda_fp16.h``: of a toolkit, or of NVIDIA's wheels."""

    def candidates() -> Iterator[Path]:
        for variable in ("CUDA_HOME", "CUDA_PATH"):
            if os.environ.get(variable):
                yield Path(os.environ[variable]) / "include"
        yield from sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"), reverse=True)
        yield Path("/usr/local/cuda/include")

    for folder in candidates():
        if (folder / "cuda_fp16.h").is_file():
            return folder
    raise EdgeError(
        "backend",
        "NVRTC needs cuda_fp16.h, which is not in CUDA_HOME, /usr/local/cuda or NVIDIA's wheels",
        "Set CUDA_HOME, or pip install nvidia-cuda-runtime",
    )


def _nvrtc() -> Native:
    for name in ("cuda.bindings.nvrtc", "cuda.nvrtc"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise EdgeError(
        "backend",
        "The Python module cuda.bindings.nvrtc is missing",
        "Install cuda-bindings 12.6 or later: pip install cuda-bindings",
    )


def _log(nvrtc: Native, program: Native) -> str:
    """The end of what the compiler said."""
    if program is None:
        return ""
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    text = b" " * size
    nvrtc.nvrtcGetProgramLog(program, text)
    return " ".join(text.decode(errors="replace").rstrip("\0 ").split())[-200:]
