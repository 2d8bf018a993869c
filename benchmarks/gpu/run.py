"""What run.sh runs: every step in turn, each allowed to fail or be absent, then one JSON file and one Markdown table.

No step can hold up the rest: each has a time limit, all of them together have ``BUDGET_S`` (default 1500 seconds), and what a
step leaves running is ended with it. The files are written anew after every step. What a step needs and this machine lacks
is said first, and listed in the files as missing; ``--check`` says it and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.report import Found, write
from benchmarks.gpu.resources import KERNELS, REPOSITORY, TABLE, measure, release, sources

GPU = REPOSITORY / "benchmarks" / "gpu"
OPERATIONS = ("roi_resize", "region_boxes")
BUDGET_S = 1500.0
LEAST_S = 10.0  # a step with less time left than this is not begun
_TIMING = re.compile(r"v(\d+) \| block_size +(\d+) \| time +([\d.]+) us \| +([\d.]+) MB \| +([\d.]+) %")


@dataclass
class Run:
    """What was found so far. A step that fails is recorded and the next one goes on.

    Attributes:
        save: called after every step.
        ends: when the time for everything is over, on the monotonic clock.
    """

    work: Path
    ends: float
    save: Callable[[Run], object] = lambda run: None
    result: Found = field(default_factory=Found)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def call(self, step: str, *command: str | Path, timeout: float = 300, environment: dict[str, str] | None = None) -> str | None:
        """Output of a command, or None with the step marked as failed."""
        limit = min(timeout, self.ends - time.monotonic())
        if limit < LEAST_S:
            self.missing.append(f"{step}: no time left")
            return None
        print(f"… {step}", file=sys.stderr, flush=True)
        start = time.monotonic()
        output, code = ended_in_time([str(part) for part in command], limit, {**os.environ, **(environment or {})})
        print(f"  {'done' if code == 0 else 'FAILED'} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        if code != 0:
            self.failed.append(step)
            self.result.setdefault("failures", {})[step] = output[-4000:]
            print(output[-4000:], file=sys.stderr)
        self.save(self)
        return output if code == 0 else None


def ended_in_time(command: list[str], limit: float, environment: dict[str, str]) -> tuple[str, int]:
    """Output and exit code of a command in a session of its own; past the limit all of that session is killed."""
    with tempfile.TemporaryFile("w+") as said:  # a pipe would stay open as long as any grandchild holds it
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=REPOSITORY, env=environment, start_new_session=True
            )
        except OSError as error:
            return str(error), -1
        try:
            code, words = process.wait(limit), ""
        except subprocess.TimeoutExpired:
            code, words = -1, f"\nnot done within {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return said.read() + words, code


def cpu_part(run: Run, nvcc: str | None) -> None:
    """The tests that need no GPU, and the compiler's resource figures against the recorded ones."""
    if find_spec("pytest") is None:
        run.missing.append("CPU tests: no pytest")
    else:
        output = run.call("CPU tests", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernels", timeout=600)
        run.result["cpu_tests"] = output.strip().splitlines()[-1].split(" in ")[0] if output else None
    if nvcc is None:
        run.missing.append("resource figures: no nvcc")
        return
    run.result["nvcc"] = release(nvcc)
    recorded = json.loads(TABLE.read_text())
    try:
        measured = {str(source): measure(nvcc, source) for source in sources()}
    except RuntimeError as error:
        run.failed.append("resource figures")
        run.result.setdefault("failures", {})["resource figures"] = str(error)[-4000:]
        return
    run.result["resources"] = measured
    # Another compiler spends registers otherwise: that says nothing about the kernels.
    run.result["resources_equal_recorded"] = measured == recorded["kernels"] if run.result["nvcc"] == recorded["nvcc"] else None


def build(run: Run, nvcc: str) -> dict[str, Path]:
    """Programs and libraries for the GPU present: name → path, what failed left out."""
    flags: list[str | Path] = [nvcc, "-O3", "-std=c++17", "-arch=native", "-lineinfo", f"-I{KERNELS}"]
    launch = KERNELS / "launch.cu"
    steps: dict[str, list[str | Path]] = {
        "check": [*flags, GPU / "check.cu", launch],
        "library": [*flags, "-shared", "-Xcompiler", "-fPIC", launch],
        "ptx": [*flags, "-ptx", KERNELS / "aot.cu"],
        **{operation: [*flags, KERNELS / operation / "ladder.cu"] for operation in OPERATIONS},
    }
    built = {}
    for name, command in steps.items():
        if run.call(f"build {name}", *command, "-o", run.work / name) is not None:
            built[name] = run.work / name
    return built


def plugin(run: Run, nvcc: str) -> None:
    """The plugin library by CMake, its enqueue by a small host program."""
    headers = next((part for part in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if part), None)
    if headers is None or shutil.which("cmake") is None:
        run.missing.append("plugin enqueue: no TENSORRT_INCLUDE_DIR" if headers is None else "plugin enqueue: no cmake")
        return
    folder, program = run.work / "plugin", run.work / "enqueue"
    settings = f"-DTENSORRT_INCLUDE_DIR={headers}", f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DCMAKE_BUILD_TYPE=Release"
    if run.call("configure the plugin", "cmake", "-S", KERNELS / "plugin", "-B", folder, *settings) is None:
        return
    if run.call("build the plugin", "cmake", "--build", folder) is None:
        return
    # nvcc as the host compiler's driver: it knows where its runtime is.
    flags = "-std=c++17", f"-I{KERNELS}", f"-I{headers}"
    if run.call("build enqueue", nvcc, *flags, GPU / "enqueue.cpp", "-ldl", "-o", program) is None:
        return
    output = run.call("enqueue", program, folder / "libedge_plugin.so")
    run.result["enqueue"] = json.loads(output.splitlines()[-1]) if output else None


def sanitize(run: Run, built: dict[str, Path]) -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        run.missing.append("compute-sanitizer: not installed")
        return
    findings: dict[str, str | None] = {}
    for name in ("check", *OPERATIONS):
        for check in ("memcheck", "racecheck", "initcheck", "synccheck"):
            if name in built:
                output = run.call(f"{check} {name}", tool, "--tool", check, "--error-exitcode", "9", built[name], "--small", timeout=120)
                summary = [line.strip("= ") for line in (output or "").splitlines() if "SUMMARY" in line]
                findings[f"{check} {name}"] = summary[-1] if summary else None
    run.result["sanitizer"] = findings


def ladders(run: Run, built: dict[str, Path]) -> None:
    run.result["ladders"] = {}
    for name in OPERATIONS:
        output = run.call(f"ladder {name}", built[name]) if name in built else None
        if output is None:
            continue
        rows: list[dict[str, float]] = [
            {"version": int(v), "block_size": int(b), "microseconds": float(t), "megabytes": float(m), "percent_of_copy": float(p)}
            for v, b, t, m, p in _TIMING.findall(output)
        ]
        copy = re.search(r"copy bandwidth (\d+) GB/s", output)
        run.result["ladders"][name] = {"copy_gb_per_s": int(copy[1]) if copy else None, "rows": rows}


def kernels(run: Run, nvcc: str) -> None:
    built = build(run, nvcc)
    if "check" in built:
        output = run.call("check", built["check"])
        run.result["checks"] = [json.loads(line) for line in (output or "").splitlines() if line.startswith("{")]
    plugin(run, nvcc)
    ladders(run, built)
    if "library" in built and "ptx" in built:
        output = run.call("compare", sys.executable, GPU / "compare.py", built["library"], built["ptx"], timeout=400)
        run.result["compare"] = json.loads(output[output.rindex('{"problem"') :].splitlines()[0]) if output else None
    sanitize(run, built)


def engines(run: Run, model: str, size: int) -> None:
    """Whole networks in TensorRT-RTX, TensorRT and torch; what was found before a time limit is kept."""
    found, bundles = run.work / f"{model}-{size}.json", run.work / f"{model}-{size}"
    words: list[str | Path] = ["--model", model, "--size", str(size), "--json", found, "--work", bundles]
    library = run.work / "plugin" / "libedge_plugin.so"
    route = {"EDGE_TENSORRT_PLUGIN": str(library)} if library.is_file() else {}
    run.call(f"engines {model} {size}", sys.executable, "-m", "benchmarks.gpu.engines", *words, timeout=700, environment=route)
    if found.is_file():
        run.result.setdefault("engines", []).append(json.loads(found.read_text()))
    polygraphy(run, bundles)


def polygraphy(run: Run, bundles: Path) -> None:
    """A judge that shares no code with ours: it builds and compares the graphs the backends parsed, with ONNX Runtime as reference."""
    tool = find_tool("polygraphy")
    if tool is None:
        run.missing.append("polygraphy: not installed")
        return
    # With TensorRT-RTX it cannot clear TF32: its products have ten-bit mantissas.
    judged: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("tensorrt-rtx", "5e-2", {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}),
        ("tensorrt-standard", "1e-3", {}),
    )
    for backend, tolerance, environment in judged:
        manifest = bundles / f"{backend}-fp32" / "manifest.json"
        if not manifest.is_file():
            continue
        size = json.loads(manifest.read_text())["image"]["size"]
        image, asked = f"image:[1,3,{size},{size}]", ("boxes:[4,4]", "owner:[4]")
        for stage, output, shapes in (("look", "global_scores", [image]), ("closer", "region_scores", [image, *asked])):
            # Any numbers do as boxes: both sides cut the same.
            inputs = ["--input-shapes", *shapes, "--val-range", "image:[-2,2]", f"boxes:[0,{size}]", "owner:[0,0]"]
            inputs += [word for which in ("min", "opt", "max") for word in (f"--trt-{which}-shapes", *shapes)]
            outputs = ["--trt-outputs", output, "--onnx-outputs", output, "--atol", f"{output}:{tolerance}", "--rtol", "0"]
            graph = manifest.with_name(f"lowered.{stage}.onnx")
            run.call(f"polygraphy {backend} {stage}", tool, "run", graph, "--trt", "--onnxrt", *inputs, *outputs, environment=environment)


def training(run: Run) -> None:
    """Two epochs of the recipe on the GPU: that it trains there, and how long an epoch takes."""
    folder = run.work / "trained"
    words = "--device", "cuda", "--epochs", "2", "--size", "256", "--output", folder, "--json", folder.with_suffix(".json")
    if run.call("training", sys.executable, "-m", "edge.train", *words, timeout=400) is not None:
        run.result["training"] = json.loads(folder.with_suffix(".json").read_text())


def gpu_name() -> str | None:
    """Name of the first GPU, as the driver tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def find_tool(name: str) -> str | None:
    """A program on the PATH, or beside this Python."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def find_nvcc() -> str | None:
    """The compiler that is named, on the PATH, or in NVIDIA's wheels."""
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    return os.environ.get("NVCC") or shutil.which("nvcc") or next(map(str, reversed(wheels)), None)


# What the steps need: name → (how to look for it, what goes without it).
NEEDS: dict[str, tuple[Callable[[], object], str]] = {
    "GPU": (lambda: gpu_name(), "every GPU figure"),
    "nvcc": (find_nvcc, "the kernels' checks, ladders and comparison"),
    **{
        module: (lambda module=module: find_spec(module), step)  # type: ignore[misc]
        for module, step in {
            "pytest": "CPU tests",
            "torch": "comparison, engines, training",
            "torchvision": "comparison, engines, training",
            "onnx": "engines",
            "onnxscript": "engines",
            "onnxruntime": "engines: outputs against the reference",
            "tensorrt_rtx": "engines on TensorRT-RTX (pip install tensorrt-rtx-cu13)",
            "tensorrt": "engines on TensorRT (pip install tensorrt)",
            "cuda": "engines on either (pip install cuda-bindings)",
        }.items()
    },
    "g++": (lambda: shutil.which("g++"), "torch.compile, AOTInductor, CPU tests"),
    "cmake": (lambda: shutil.which("cmake"), "the plugin"),
    "TENSORRT_INCLUDE_DIR": (lambda: os.environ.get("TENSORRT_INCLUDE_DIR"), "the plugin (headers: github.com/NVIDIA/TensorRT, include/)"),
    "compute-sanitizer": (lambda: shutil.which("compute-sanitizer"), "races and memory faults"),
    "polygraphy": (lambda: find_tool("polygraphy"), "the second judge of outputs (pip install polygraphy)"),
}


def absent() -> list[str]:
    """What is not here, with what goes without it."""
    return [f"no {name}: {step}" for name, (look, step) in NEEDS.items() if not look()]


def main() -> int:
    for line in (lacking := absent()):
        print(line, file=sys.stderr)
    if "--check" in sys.argv[1:]:
        return 0
    gpu, nvcc = gpu_name(), find_nvcc()
    target = Path(os.environ.get("OUT") or REPOSITORY / "benchmarks" / "results")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ends = time.monotonic() + float(os.environ.get("BUDGET_S") or BUDGET_S)
        run = Run(
            Path(folder),
            ends,
            lambda run: write(run.result, gpu, run.missing, run.failed, target),
            missing=[line for line in lacking if gpu],
        )
        if gpu is None:
            run.missing.append("every GPU figure: no GPU on this machine")
        if gpu and nvcc:
            kernels(run, nvcc)
        if gpu and find_spec("torch"):
            engines(run, "mcar-resnet50", 448)
            engines(run, "mcar-mobilenetv2", 256)
        if gpu and "--train" in sys.argv[1:]:
            training(run)
        cpu_part(run, nvcc)
        report = write(run.result, gpu, run.missing, run.failed, target)
    print(report.read_text())
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
