"""Registers, spills and shared memory of every kernel, as the compiler reports them; no GPU needed.

``python benchmarks/gpu/resources.py`` compiles every ``.cu`` and writes ``kernels/resources.json``,
the table that the tests compare with. Run it after a change that is meant to move these figures,
and commit the table with the change.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = REPOSITORY / "kernels"
TABLE = KERNELS / "resources.json"
ARCHITECTURES = ("sm_87", "sm_90", "sm_110")  # Jetson Orin, Hopper, Jetson Thor
FIGURES = ("registers", "stack", "spill_stores", "spill_loads", "shared")

_FUNCTION = re.compile(r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>sm_\d+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


def sources() -> list[Path]:
    """Every CUDA source of the repository, relative to it."""
    found = [*KERNELS.rglob("*.cu"), *(REPOSITORY / "benchmarks" / "gpu").glob("*.cu")]
    return sorted(path.relative_to(REPOSITORY) for path in found)


def compile_command(nvcc: str | Path, source: Path, output: Path, architectures: tuple[str, ...] = ARCHITECTURES) -> list[str]:
    """The nvcc call that every source compiles with, alone, against ``kernels/`` only."""
    targets = [f"-gencode=arch={arch.replace('sm_', 'compute_')},code={arch}" for arch in architectures]
    checks = ["-Xcompiler", "-Wall,-Wextra,-Werror", "-Werror", "all-warnings"]
    files = ["-c", str(REPOSITORY / source), "-o", str(output)]
    return [str(nvcc), "-std=c++17", "-O3", f"-I{KERNELS}", *checks, *targets, "--threads", "2", *files]


def parse(report: str) -> dict[str, dict[str, list[int]]]:
    """``--resource-usage`` output → {kernel (mangled): {architecture: values of FIGURES}}."""
    table: dict[str, dict[str, list[int]]] = {}
    name, arch, stack = "", "", [0, 0, 0]
    for line in report.splitlines():
        if match := _FUNCTION.search(line):
            name, arch, stack = match["name"], match["arch"], [0, 0, 0]
        elif match := _STACK.search(line):
            stack = [int(value) for value in match.groups()]
        elif (match := _USED.search(line)) and name:
            table.setdefault(name, {})[arch] = [int(match[1]), *stack, int(match[2] or 0)]
    return table


def demangled(table: dict[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
    """The table with readable kernel names, parameters left out."""
    names = subprocess.run(["c++filt", *table], check=True, capture_output=True, text=True).stdout.splitlines()
    short = [re.sub(r"\(edge::Layout\)", "", name).removeprefix("void ").split("(")[0] for name in names]
    ordered = [{arch: row[arch] for arch in ARCHITECTURES if arch in row} for row in table.values()]
    return dict(sorted(zip(short, ordered, strict=True)))


def measure(nvcc: str | Path, source: Path) -> dict[str, dict[str, list[int]]]:
    """Compile one source for all architectures; a compiler error is raised with its output."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*compile_command(nvcc, source, Path(folder) / "out.o"), "--resource-usage"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"[kernels] {source} must compile, got:\n{done.stdout}{done.stderr}")
    return demangled(parse(done.stdout + done.stderr))


def release(nvcc: str | Path) -> str:
    """The compiler's release, such as ``13.5``."""
    text = subprocess.run([str(nvcc), "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return found[1] if found else "unknown"


def main() -> None:
    nvcc = sys.argv[1] if len(sys.argv) > 1 else shutil.which("nvcc")
    if nvcc is None:
        sys.exit("[kernels] a CUDA compiler must be given, got none. Expected nvcc on the PATH. Do pass its path as the argument.")
    kernels = {str(source): measure(nvcc, source) for source in sources()}
    lines = ",\n".join(
        f"  {json.dumps(source)}: {{\n" + ",\n".join(f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items()) + "\n  }"
        for source, table in kernels.items()
    )
    head = f'{{\n "nvcc": "{release(nvcc)}",\n "figures": {json.dumps(FIGURES)},\n "register_tolerance": 16,\n "kernels": {{\n'
    TABLE.write_text(head + lines + "\n }\n}\n")


if __name__ == "__main__":
    main()
