"""Fixtures every test may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs, data and photographs that are not part of the project; skips where they are absent."""
    path = Path(os.environ.get("EDGE_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference material not found at {path}; set EDGE_SHARED to its folder")
    return path


INSTRUCTION_SETS = ("AVX2", "AVX512_CORE_VNNI", "DEFAULT")  # oneDNN's names; DEFAULT is all this processor has


@pytest.fixture(scope="session", params=INSTRUCTION_SETS)
def nodes_here(request):
    """A function (model file, target) → the nodes OpenVINO runs, on a processor that has no more than these instructions."""
    pytest.importorskip("openvino")

    def nodes(model: Path, target, batch: int = 1) -> list[dict[str, str]]:
        if target.float16 and request.param == "AVX2":
            pytest.skip("AVX2 has no 16-bit float")
        code = (
            "import json, sys; from pathlib import Path; from edge.backends.openvino import Network, runtime_nodes; "
            "from edge.spec import TargetSpec; target = TargetSpec(*json.loads(sys.argv[2])); model = Path(sys.argv[1]); "
            "weights = model.with_suffix('.bin').read_bytes() if model.suffix == '.xml' else b''; "
            "print(json.dumps(runtime_nodes(Network(model.read_bytes(), target, weights).compiled(int(sys.argv[3])))))"
        )
        words = [str(model), json.dumps([target.backend, target.precision, target.batches, target.float16]), str(batch)]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": request.param}  # read once a process
        run = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, check=True, timeout=120
        )
        return json.loads(run.stdout)

    return nodes


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A function (backend, precision) → bundle of the random MobileNetV2 at 64 pixels, largest batch 3, built once a session."""
    from edge import build, command

    built: dict[tuple[str, str], Path] = {}

    def make(backend: str, precision: str = "fp32") -> Path:
        if backend in ("openvino", "onnxruntime"):
            pytest.importorskip(backend)
        if (backend, precision) not in built:
            folder = tmp_path_factory.mktemp("engines") / f"{backend}-{precision}"
            words = ["--weights", "random", "--size", "64", "--batch", "3", "--backend", backend, "--precision", precision]
            words += ["--calib-images", "8", "--output", str(folder), "--json", str(folder.with_suffix(".json"))]
            assert command.run(build.main, build.arguments().parse_args(words)) == 0
            built[backend, precision] = folder
        return built[backend, precision]

    return make
