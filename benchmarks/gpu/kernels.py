"""The kernels on the GPU: checks, ladders, beside PyTorch, the plugin's enqueue, and (when asked
for) compute-sanitizer."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.place import GPU, KERNELS, Answer, Found, Missing, Place, Save

OPERATIONS = ("roi_resize", "region_boxes")
CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck")
_TIMING = re.compile(r"v(\d+) \| block_size +(\d+) \| time +([\d.]+) us \| +([\d.]+) MB \| +([\d.]+) %")


def run(place: Place, found: Found, save: Save) -> None:
    """By value: checks, ladders, comparison, enqueue. What fails is listed, and the next goes
    on."""
    built = build(place, found, ["check", "library", "ptx", *OPERATIONS])
    if place.rehearse:
        raise Missing(f"a GPU to run what was built: {', '.join(built)}")
    if "check" in built:
        answer = step(found, "check", place.call([built["check"]], 30))
        found["checks"] = [json.loads(line) for line in answer.output.splitlines() if line.startswith("{")]
        save()
    for name in OPERATIONS:
        if name in built:
            found.setdefault("ladders", {})[name] = ladder(step(found, name, place.call([built[name]], 30)).output)
            save()
    if "library" in built and "ptx" in built:
        answer = step(found, "compare", place.call([sys.executable, GPU / "compare.py", built["library"], built["ptx"]], 70))
        if answer.code == 0:
            found["compare"] = json.loads(answer.output[answer.output.rindex('{"problem"') :].splitlines()[0])
        save()
    enqueue(place, found)
    if found.get("failures"):
        raise RuntimeError(f"{', '.join(found['failures'])} failed")


def run_sanitizer(place: Place, found: Found, save: Save) -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None or place.rehearse:
        raise Missing("compute-sanitizer" if tool is None else "a GPU")
    for name, program in build(place, found, ["check", *OPERATIONS]).items():
        for check in CHECKS:
            answer = place.call([tool, "--tool", check, "--error-exitcode", "9", program, "--small"], 60)
            summary = [line.strip("= ") for line in answer.output.splitlines() if "SUMMARY" in line]
            found[f"{check} {name}"] = summary[-1] if summary else f"ended with {answer.code}"
            save()


def build(place: Place, found: Found, names: Sequence[str]) -> dict[str, Path]:
    """Programs and libraries for the GPU present, at once: name → path, what failed left out."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise Missing("nvcc")
    folder = place.work / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    flags = [nvcc, "-O3", "-std=c++17", "-arch=sm_90" if place.rehearse else "-arch=native", "-lineinfo", f"-I{KERNELS}"]
    launch = KERNELS / "launch.cu"
    commands: dict[str, list[str | Path]] = {
        "check": [*flags, GPU / "check.cu", launch],
        "library": [*flags, "-shared", "-Xcompiler", "-fPIC", launch],
        "ptx": [*flags, "-ptx", KERNELS / "aot.cu"],
        **{operation: [*flags, KERNELS / operation / "ladder.cu"] for operation in OPERATIONS},
    }
    with ThreadPoolExecutor(len(names)) as pool:
        answers = pool.map(lambda name: step(found, f"build {name}", place.call([*commands[name], "-o", folder / name], 120)), names)
        return {name: folder / name for name, answer in zip(names, answers, strict=True) if answer.code == 0}


def step(found: Found, name: str, answer: Answer) -> Answer:
    """The answer; one that failed is kept."""
    if answer.code:
        found.setdefault("failures", {})[name] = answer.tail
    return answer


def enqueue(place: Place, found: Found) -> None:
    """The plugin library for the headers in the pack, or those that are named, its enqueue by a
    small host program."""
    named = next((part for part in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if part), place.work / "include")
    if not (Path(named) / "NvInferRuntime.h").is_file():
        found["enqueue"] = "no TensorRT headers"
        return
    folder, program, nvcc = place.work / "plugin", place.work / "enqueue", find_nvcc()
    settings = f"-DTENSORRT_INCLUDE_DIR={named}", f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DCMAKE_BUILD_TYPE=Release"
    for name, command in (
        ("configure the plugin", ["cmake", "-S", KERNELS / "plugin", "-B", folder, *settings]),
        ("build the plugin", ["cmake", "--build", folder]),
        # nvcc as the host compiler's driver: it knows where its runtime is.
        ("build enqueue", [nvcc, "-std=c++17", f"-I{KERNELS}", f"-I{named}", GPU / "enqueue.cpp", "-ldl", "-o", program]),
        ("enqueue", [program, folder / "libedge_plugin.so"]),
    ):
        answer = step(found, name, place.call([str(word) for word in command], 40))
        if answer.code:
            return
    found["enqueue"] = json.loads(answer.output.splitlines()[-1])


def ladder(output: str) -> Found:
    """What a ladder printed: bandwidth of a copy, and a row per version and block size."""
    rows = [
        {"version": int(v), "block_size": int(b), "microseconds": float(t), "megabytes": float(m), "percent_of_copy": float(p)}
        for v, b, t, m, p in _TIMING.findall(output)
    ]
    copy = re.search(r"copy bandwidth (\d+) GB/s", output)
    return {"copy_gb_per_s": int(copy[1]) if copy else None, "rows": rows}


def find_nvcc() -> str | None:
    """The compiler that is named, on the PATH, or in NVIDIA's wheels."""
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    return os.environ.get("NVCC") or shutil.which("nvcc") or next(map(str, reversed(wheels)), None)
