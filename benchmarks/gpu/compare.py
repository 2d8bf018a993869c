"""Our two kernels beside the ways PyTorch offers, on one GPU: errors, microseconds, and the share
of a ResNet-50 pass.

``python benchmarks/gpu/compare.py LIBRARY PTX`` with the launches built as a shared library and
``aot.cu`` as PTX; prints JSON. Every contender runs in turn in every round, the L2 cache filled
with something else before it; medians are quoted.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

BATCH, REGIONS, SIZE, GRID = 8, 4, 448, 14
THRESHOLD = 0.5
BOX_THREADS, CROP_THREADS, CROP_ROWS = 512, 128, 8  # as edge/backends/trt/aot.py launches them
FP32_LINEAR, FP16_LINEAR = 0, 1  # EdgeFormat of launch.h
ROUNDS = 50


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Image (B, 3, S, S) float32, boxes (B, K, 4) float32 with sides from S/8 to S, maps (B, K, n,
    n) float32."""
    torch.manual_seed(0)
    image = torch.randn(BATCH, 3, SIZE, SIZE, device="cuda").half().float()
    sides = torch.randint(SIZE // 8, SIZE + 1, (BATCH, REGIONS, 2), device="cuda")
    begin = (torch.rand(BATCH, REGIONS, 2, device="cuda") * (SIZE - sides + 1)).floor()
    maps = torch.rand(BATCH, REGIONS, GRID, GRID, device="cuda")
    return image, torch.cat([begin, begin + sides], dim=2).float().contiguous(), maps


# ----------------------------------------------------------------------------
# ours


class Launches:
    """The functions of launch.h on torch tensors, on the current stream."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library)

    def roi_resize(self, image: Tensor, boxes: Tensor, out: Tensor, form: int) -> None:
        code = self.library.edge_roi_resize(
            ctypes.c_void_p(image.data_ptr()), int(image.dtype == torch.float16), ctypes.c_void_p(boxes.data_ptr()),
            None, boxes.shape[0], boxes.shape[0] * boxes.shape[1], image.shape[2], image.shape[3], out.shape[2],
            form, ctypes.c_void_p(out.data_ptr()), stream(),
        )  # fmt: skip
        if code != 0:
            raise RuntimeError(f"edge_roi_resize returned CUDA error {code}")

    def region_boxes(self, maps: Tensor, out: Tensor) -> None:
        code = self.library.edge_region_boxes(
            ctypes.c_void_p(maps.data_ptr()), maps.shape[0] * maps.shape[1], maps.shape[2], SIZE, ctypes.c_float(THRESHOLD),
            ctypes.c_void_p(out.data_ptr()), stream(),
        )  # fmt: skip
        if code != 0:
            raise RuntimeError(f"edge_region_boxes returned CUDA error {code}")


def stream() -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def launch_ahead_of_time(ptx: bytes, image: Tensor, boxes: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Both entry points of aot.cu as TensorRT launches them: inputs, int32 numbers, output."""
    driver = ctypes.CDLL("libcuda.so.1")
    module = ctypes.c_void_p()
    torch.cuda.synchronize()
    assert driver.cuModuleLoadData(ctypes.byref(module), ptx) == 0

    def launch(name: bytes, grid: tuple[int, int], block: int, inputs: list[Tensor], numbers: list[int], out: Tensor) -> None:
        function = ctypes.c_void_p()
        assert driver.cuModuleGetFunction(ctypes.byref(function), module, name) == 0
        values = [ctypes.c_void_p(tensor.data_ptr()) for tensor in inputs]
        values += [ctypes.c_int32(number) for number in numbers]  # type: ignore[misc]
        values.append(ctypes.c_void_p(out.data_ptr()))
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        assert driver.cuLaunchKernel(function, *grid, 1, block, 1, 1, 0, stream(), parameters, None) == 0

    found = torch.full_like(boxes, float("nan"))
    crops = torch.full((BATCH * REGIONS, 3, SIZE, SIZE), float("nan"), device="cuda", dtype=torch.float16)
    blocks = -(-(SIZE // 2 * (SIZE // CROP_ROWS)) // CROP_THREADS)
    owner = torch.arange(BATCH, device="cuda", dtype=torch.int32).repeat_interleave(REGIONS)
    resize_numbers = [BATCH, SIZE, SIZE, SIZE]
    launch(b"edge_region_boxes", (2 * BATCH * REGIONS, 1), BOX_THREADS, [maps], [GRID, SIZE, bits(THRESHOLD)], found)
    launch(b"edge_roi_resize_fp16_fp16_linear", (blocks, BATCH * REGIONS), CROP_THREADS, [image, boxes, owner], resize_numbers, crops)
    torch.cuda.synchronize()
    return found, crops


def bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


# ----------------------------------------------------------------------------
# PyTorch's ways; image (B, 3, S, S), boxes (B, K, 4) float32 -> (B * K, 3, S, S)


def interpolate_loop(image: Tensor, boxes: Tensor) -> Tensor:
    """The published way: boxes go to the host, each crop is sliced and interpolated."""
    crops = []
    for picture, own in zip(image, boxes.int().tolist(), strict=True):
        for x1, y1, x2, y2 in own:
            crops.append(interpolate(picture[None, :, y1:y2, x1:x2], (SIZE, SIZE), mode="bilinear", align_corners=True))
    return torch.cat(crops)


def sample_positions(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of every output column and row, two (B * K, S) float32."""
    begin, last = boxes.reshape(-1, 4)[:, :2], boxes.reshape(-1, 4)[:, 2:] - 1
    steps = torch.arange(SIZE, device=boxes.device, dtype=torch.float32) / (SIZE - 1)
    places = begin[:, :, None] + (last - begin)[:, :, None] * steps
    return places[:, 0], places[:, 1]


def grid_sampled(image: Tensor, boxes: Tensor) -> Tensor:
    """grid_sample wants image and grid in one type: fp32, for the coordinates' sake."""
    x, y = sample_positions(boxes)
    grid = torch.stack((x[:, None, :].expand(-1, SIZE, -1), y[:, :, None].expand(-1, -1, SIZE)), dim=3) * (2 / (SIZE - 1)) - 1
    pixels = image.float().repeat_interleave(boxes.shape[1], dim=0)
    return grid_sample(pixels, grid, mode="bilinear", align_corners=True).to(image.dtype)


def roi_aligned(image: Tensor, boxes: Tensor) -> Tensor:
    """One sample per bin, boxes widened so that bin centres fall on the aligned-corner samples;
    fp32 coordinates."""
    flat = boxes.reshape(-1, 4)
    step = (flat[:, 2:] - 1 - flat[:, :2]) / (SIZE - 1)
    begin = flat[:, :2] - step / 2 + 0.5
    index = torch.arange(flat.shape[0], device=boxes.device).div(boxes.shape[1], rounding_mode="floor")
    rois = torch.cat([index[:, None].float(), begin, begin + step * SIZE], dim=1)
    crops: Tensor = torchvision.ops.roi_align(image.float(), rois, (SIZE, SIZE), sampling_ratio=1, aligned=True)
    return crops.to(image.dtype)


def gathered(image: Tensor, boxes: Tensor) -> Tensor:
    """The decomposition into indexing and arithmetic, the form a compiler can fuse into one
    kernel."""
    x, y = sample_positions(boxes)
    left, upper = x.floor().long(), y.floor().long()
    right, lower = (left + 1).clamp(max=SIZE - 1), (upper + 1).clamp(max=SIZE - 1)
    across, down = (x - left)[:, None, None, :], (y - upper)[:, None, :, None]
    index = torch.arange(x.shape[0], device=x.device).div(boxes.shape[1], rounding_mode="floor")[:, None, None, None]
    channel = torch.arange(3, device=x.device)[None, :, None, None]

    def taps(rows: Tensor, columns: Tensor) -> Tensor:
        return image[index, channel, rows[:, None, :, None], columns[:, None, None, :]].float()

    top = torch.lerp(taps(upper, left), taps(upper, right), across)
    bottom = torch.lerp(taps(lower, left), taps(lower, right), across)
    return torch.lerp(top, bottom, down).to(image.dtype)


EAGER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "interpolate loop": interpolate_loop, "grid_sample": grid_sampled, "roi_align": roi_aligned, "gather": gathered,
}  # fmt: skip


# ----------------------------------------------------------------------------
# measuring


def medians(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of each, interleaved, with a cold L2 cache."""
    flush = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        for _ in range(3):
            work()
    for round_ in range(ROUNDS):
        for name, work in contenders.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            flush.fill_(round_)
            start.record()
            work()
            stop.record()
            stop.synchronize()
            times[name].append(start.elapsed_time(stop) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def distance(out: Tensor, truth: Tensor) -> float:
    return float((out.double() - truth).norm() / truth.norm())


def resnet50_pass() -> Callable[[], object]:
    """One fp16 channels-last ResNet-50 pass at SIZE and BATCH, random weights, replayed from a CUDA
    graph."""
    network = torchvision.models.resnet50().cuda().half().eval().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device="cuda").half().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(3):
                network(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(images)
    return graph.replay


def main() -> None:
    ours = Launches(sys.argv[1])
    image, boxes, maps = make_inputs()
    half = image.half()
    truth = interpolate_loop(image.double(), boxes)

    exact, rounded = torch.full_like(truth, float("nan"), dtype=torch.float32), torch.full_like(truth, float("nan"), dtype=torch.float16)
    found = torch.full_like(boxes, float("nan"))
    ours.roi_resize(image, boxes, exact, FP32_LINEAR)
    ours.roi_resize(half, boxes, rounded, FP16_LINEAR)
    ours.region_boxes(maps, found)
    ahead_boxes, ahead_crops = launch_ahead_of_time(Path(sys.argv[2]).read_bytes(), half, boxes, maps)
    errors = {
        "fp32": distance(exact, truth),
        "fp16": distance(rounded, truth),
        "fp16 of torch's interpolate": distance(interpolate_loop(half, boxes), truth),
        "ahead-of-time entries differ": float((ahead_crops != rounded).sum() + (ahead_boxes != found).sum()),
        **{f"fp32 of {name}": distance(way(image, boxes), truth) for name, way in EAGER.items()},
    }

    def both() -> None:
        ours.region_boxes(maps, found)
        ours.roi_resize(half, found, rounded, FP16_LINEAR)

    compiled = {f"torch.compile of {name}": torch.compile(EAGER[name]) for name in ("gather", "grid_sample")}
    contenders: dict[str, Callable[[], object]] = {
        "RoiResize": lambda: ours.roi_resize(half, boxes, rounded, FP16_LINEAR),
        "RegionBoxes": lambda: ours.region_boxes(maps, found),
        "both": both,
        **{name: lambda way=way: way(half, boxes) for name, way in {**EAGER, **compiled}.items()},  # type: ignore[misc]
        "ResNet-50 fp16 pass": resnet50_pass(),
    }
    with torch.inference_mode():
        times = medians(contenders)
    fastest_eager, fastest_compiled = min(times[name] for name in EAGER), min(times[name] for name in compiled)
    criteria = {
        "fp32 error at most 1e-5": errors["fp32"] <= 1e-5,
        "fp16 error at most twice torch's": errors["fp16"] <= 2 * errors["fp16 of torch's interpolate"],
        "ahead-of-time entries equal": errors["ahead-of-time entries differ"] == 0,
        "3 x faster than the best eager way": times["RoiResize"] * 3 <= fastest_eager,
        "not slower than torch.compile": times["RoiResize"] <= fastest_compiled,
        "both under 5 % of a ResNet-50 pass": times["both"] <= 0.05 * times["ResNet-50 fp16 pass"],
    }
    problem = {"batch": BATCH, "regions": REGIONS, "size": SIZE, "rounds": ROUNDS, "torch": torch.__version__}
    print(json.dumps({"problem": problem, "errors": errors, "microseconds": times, "criteria": criteria}))


if __name__ == "__main__":
    main()
