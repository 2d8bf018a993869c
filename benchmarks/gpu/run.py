"""What run.sh runs: every step in turn, each allowed to fail or be absent, then one JSON file and one Markdown table."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.resources import KERNELS, REPOSITORY, TABLE, measure, release, sources

GPU = REPOSITORY / "benchmarks" / "gpu"
OPERATIONS = ("roi_resize", "region_boxes")
_TIMING = re.compile(r"v(\d+) \| block_size +(\d+) \| time +([\d.]+) us \| +([\d.]+) MB \| +([\d.]+) %")


@dataclass
class Run:
    """What was found so far. A step that fails is recorded and the next one goes on."""

    work: Path
    result: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def call(self, step: str, *command: str | Path, timeout: int = 300) -> str | None:
        """Output of a command, or None with the step marked as failed."""
        print(f"… {step}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            arguments = [str(part) for part in command]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY, check=False)
            output, code = done.stdout + done.stderr, done.returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            output, code = str(error), -1
        print(f"  {'done' if code == 0 else 'FAILED'} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        if code != 0:
            self.failed.append(step)
            self.result.setdefault("failures", {})[step] = output[-4000:]
            print(output[-4000:], file=sys.stderr)
            return None
        return output


# ----------------------------------------------------------------------------
# steps


def cpu_part(run: Run, nvcc: str | None) -> None:
    """The tests that need no GPU, and the compiler's resource figures against the recorded ones."""
    output = run.call("CPU tests", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernels", timeout=1200)
    run.result["cpu_tests"] = output.strip().splitlines()[-1].split(" in ")[0] if output else None
    if nvcc is None:
        run.missing.append("resource figures: no nvcc")
        return
    run.result["nvcc"] = release(nvcc)
    recorded = json.loads(TABLE.read_text())["kernels"]
    try:
        measured = {str(source): measure(nvcc, source) for source in sources()}
    except RuntimeError as error:
        run.failed.append("resource figures")
        run.result.setdefault("failures", {})["resource figures"] = str(error)[-4000:]
        return
    run.result["resources"] = measured
    run.result["resources_equal_recorded"] = measured == recorded


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
    settings = {"TENSORRT_INCLUDE_DIR": headers, "CMAKE_CUDA_COMPILER": nvcc, "CMAKE_BUILD_TYPE": "Release"}
    configure: list[str | Path] = [
        "cmake",
        "-S",
        KERNELS / "plugin",
        "-B",
        folder,
        *(f"-D{name}={value}" for name, value in settings.items()),
    ]
    if run.call("configure the plugin", *configure) is None or run.call("build the plugin", "cmake", "--build", folder) is None:
        return
    # nvcc as the host compiler's driver: it knows where its runtime is.
    compile_: list[str | Path] = [nvcc, "-std=c++17", f"-I{KERNELS}", f"-I{headers}", GPU / "enqueue.cpp", "-ldl", "-o", program]
    if run.call("build enqueue", *compile_) is None:
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
        rows = [
            {"version": int(v), "block_size": int(b), "microseconds": float(t), "megabytes": float(m), "percent_of_copy": float(p)}
            for v, b, t, m, p in _TIMING.findall(output)
        ]
        copy = re.search(r"copy bandwidth (\d+) GB/s", output)
        run.result["ladders"][name] = {"copy_gb_per_s": int(copy[1]) if copy else None, "rows": rows}


def gpu_part(run: Run, nvcc: str) -> None:
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


# ----------------------------------------------------------------------------
# report


def gpu_name() -> str | None:
    """Name of the first GPU, as the driver tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def table(run: Run, gpu: str | None) -> str:
    """The Markdown report: only figures that were measured."""
    result = run.result
    lines = [f"# Kernels on {gpu or 'a machine without a GPU'}", ""]
    lines += [f"CPU tests: {result.get('cpu_tests') or 'not run or failed'}.", ""]
    if "resources" in result:
        lines += [f"Resources by nvcc {result['nvcc']}: registers per thread, and bytes of shared memory per block where any.", ""]
        lines += ["| kernel | sm_87 | sm_90 | sm_110 |", "|---|---|---|---|"]
        for name, row in result["resources"]["kernels/aot.cu"].items():
            cells = [f"{values[0]}" + (f", {values[4]} B" if values[4] else "") for values in row.values()]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        lines.append("")
    for name, ladder in result.get("ladders", {}).items():
        lines += [
            f"## {name} (copy {ladder['copy_gb_per_s']} GB/s)",
            "",
            "| version | best block size | µs | % of copy |",
            "|---|---|---|---|",
        ]
        for version in sorted({row["version"] for row in ladder["rows"]}):
            best = min((row for row in ladder["rows"] if row["version"] == version), key=lambda row: row["microseconds"])
            lines.append(f"| {version} | {best['block_size']} | {best['microseconds']:.2f} | {best['percent_of_copy']:.1f} |")
        lines.append("")
    if compare := result.get("compare"):
        lines += ["## Beside PyTorch", "", "| way | µs |", "|---|---|"]
        lines += [f"| {name} | {value:.1f} |" for name, value in compare["microseconds"].items()]
        lines += ["", "| error | |", "|---|---|", *(f"| {name} | {value:.2e} |" for name, value in compare["errors"].items())]
        lines += ["", *(f"- {'met' if met else 'NOT met'}: {name}" for name, met in compare["criteria"].items()), ""]
    if "checks" in result:
        wrong = [check["check"] for check in result["checks"] if not check["ok"]]
        lines += [f"Checks on the GPU: {len(result['checks'])}, failed: {', '.join(wrong) or 'none'}.", ""]
    for step, finding in (result.get("sanitizer") or {}).items():
        lines.append(f"- {step}: {finding}")
    lines += [*(f"- missing: {what}" for what in run.missing), *(f"- failed: {step}" for step in run.failed)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    gpu, nvcc = gpu_name(), os.environ.get("NVCC") or shutil.which("nvcc")
    target = Path(os.environ.get("OUT") or REPOSITORY / "benchmarks" / "results")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        if gpu and nvcc:
            gpu_part(run, nvcc)
        else:
            run.missing.append(f"every GPU figure: {'no nvcc' if gpu else 'no GPU on this machine'}")
        cpu_part(run, nvcc)
    machine = {"gpu": gpu, "processor": platform.machine(), "python": platform.python_version()}
    document = {**machine, "missing": run.missing, "failed": run.failed, **run.result}
    name = "kernels-" + (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") if gpu else "no-gpu")
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", json.dumps(document, indent=1))
    (target / f"{name}.json").write_text(text + "\n")
    (target / f"{name}.md").write_text(table(run, gpu))
    print((target / f"{name}.md").read_text())
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
