"""The programs for the device: mcar_edge_bench on OpenVINO, and what mcar_edge_build does around
TensorRT.

What links TensorRT runs where TENSORRT_LIBRARY_DIR names the folder of its libraries, the ones that
the first folder of TENSORRT_INCLUDE_DIR has the headers of. No GPU is needed: it is refused in one
line.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from edge import Engine
from edge.backends.trt.layers import parse_layers
from edge.bundle import Bundle
from edge.measure.latency import Latency
from edge.report.result import Result

REPOSITORY = Path(__file__).parents[2]
INSPECTED = REPOSITORY / "tests" / "backends" / "inspected" / "tensorrt-8.6-mobilenetv2-256-fp32.json.gz"
IMAGES = np.random.default_rng(0).standard_normal((5, 3, 64, 64)).astype(np.float32)
DTYPES = {"region_classes": np.int64}

Program = Callable[..., subprocess.CompletedProcess]


def started(program: Path, *words: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]


def refused(done: subprocess.CompletedProcess, words: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert words in done.stderr


@pytest.fixture(scope="session")
def bench(runtime) -> Program:
    return lambda *words: started(runtime.prefix / "bin" / "mcar_edge_bench", *words)


@pytest.fixture(scope="session")
def device_program(runtime, cmake, builds: Path) -> Path:
    definitions = f"CMAKE_PREFIX_PATH={runtime.prefix}", "CMAKE_BUILD_TYPE=Release"
    return Path(cmake(Path(__file__).parent, builds / "tests", *definitions) / "device")


@pytest.fixture(scope="session")
def device(device_program: Path) -> Program:
    return lambda *words, **options: started(device_program, *words, **options)


@pytest.fixture
def unbuilt(copied: Path) -> Path:
    """A bundle for a device with TensorRT 8.6, which builds the plans itself."""
    manifest = json.loads((copied / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.startswith("engine.")]:
        (copied / name).unlink()
        del manifest["files"][name]
    manifest["target"].update(backend="tensorrt", float16=None)
    manifest["stages"]["sizes"] = [1, 2, 4, 8, 12]
    manifest.update(lowering="tensorrt-8", engine={"unbuilt": "8.6"})
    (copied / "manifest.json").write_text(json.dumps(manifest))
    return copied


# mcar_edge_bench


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_outputs_of_all_images_are_those_of_python(bench: Program, bundle: Path, tmp_path: Path, batch: int) -> None:
    IMAGES.tofile(tmp_path / "images")
    done = bench(bundle, "--batch", batch, "--iterations", 3, "--warmup", 0, "--images", tmp_path / "images", "--outputs", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with Engine.load(bundle) as engine:
        parts = [engine.infer(IMAGES[start : start + batch]) for start in range(0, len(IMAGES), batch)]
    assert {file.stem for file in (tmp_path / "out").iterdir()} == set(parts[0])
    for name in parts[0]:
        expected = np.concatenate([part[name] for part in parts])
        found = np.fromfile(tmp_path / "out" / f"{name}.bin", DTYPES.get(name, np.float32))
        np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)


def test_the_json_has_the_keys_of_the_python_command(bench: Program, bundle: Path, tmp_path: Path) -> None:
    done = bench(bundle, "--batch", 2, "--iterations", 40, "--warmup", 3, "--json", tmp_path / "json")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "json").read_text())
    assert {field.name for field in fields(Result) if not field.metadata.get("left_out")} <= set(content)
    result, read = Result.from_plain(content), Bundle.read(bundle)
    assert (result.batch, len(result.samples_ms), result.warm_up) == (2, 40, 3)
    assert (result.model, result.weights, result.size) == (read.model.name, read.manifest["weights"], 64)
    assert (result.backend, result.precision, result.float16) == ("openvino", "fp32", None)
    assert result.memory_mb.bundle == pytest.approx(read.bytes / 2**20)
    assert result.valid == (not result.reasons)
    assert result.machine.cores >= 1
    # Samples are written to 0.1 µs.
    again = Latency(np.asarray(result.samples_ms) / 1e3, images=2)
    for name, value in vars(again.percentiles).items():
        assert getattr(result.latency_ms, name) == pytest.approx(value, abs=1e-4), name
    assert result.median_interval_ms == pytest.approx(again.median_interval_ms, abs=1e-4)
    assert result.throughput_images_per_s == pytest.approx(again.throughput, rel=1e-3)
    assert result.variation == pytest.approx(again.variation, rel=1e-2)


def test_without_numbers_it_counts_for_two_seconds(bench: Program, bundle: Path, tmp_path: Path) -> None:
    assert bench(bundle, "--json", tmp_path / "json").returncode == 0
    content = json.loads((tmp_path / "json").read_text())
    assert content["batch"] == 3  # the largest of the bundle
    assert sum(content["samples_ms"]) >= 2000
    assert len(content["samples_ms"]) >= 100 or sum(content["samples_ms"]) >= 20000
    assert content["warm_up"] >= 5


def test_what_does_not_fit_is_refused_in_one_line(bench: Program, bundle: Path, tmp_path: Path) -> None:
    IMAGES.ravel()[:-1].tofile(tmp_path / "short")
    refused(bench(bundle, "--batch", 9), "[bench] --batch is 9, and ")
    refused(bench(bundle, "--batch", 0), "--batch is 0. Change it to 1 to")
    refused(bench(bundle, "--images", tmp_path / "short"), "not images of 49152 bytes each")
    refused(bench(bundle, "--images", tmp_path / "none"), "[load] Cannot read")
    refused(bench(bundle, "--json", tmp_path), "[write] Cannot write")
    refused(bench(tmp_path / "none"), "[load] There is no bundle at")


@pytest.mark.parametrize(
    "words", [(), ("a", "b"), ("a", "--speed"), ("a", "--batch"), ("a", "--batch", "many"), ("a", "--help=1")], ids=str
)
def test_what_is_not_understood_exits_with_two(bench: Program, words: tuple[str, ...]) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: mcar_edge_bench BUNDLE")


def test_it_tells_its_version_and_its_flags(bench: Program) -> None:
    from edge import __version__

    assert bench("--version").stdout == f"mcar-edge {__version__}\n"
    for flag in ("--batch", "--iterations", "--warmup", "--json", "--images", "--outputs"):
        assert flag in bench("--help").stdout


def test_a_bundle_without_a_plan_is_refused_with_what_to_run(bench: Program, unbuilt: Path) -> None:
    done = bench(unbuilt)
    refused(done, "")
    assert done.stderr == (
        "[load] The bundle has no engine yet: it must be built on the device, with TensorRT 8.6. "
        "On the device run mcar_edge_build BUNDLE OUT, or python -m edge.build --from BUNDLE.\n"
    )


# What mcar_edge_build does around TensorRT


def test_layers_are_counted_as_in_python(device: Program) -> None:
    told = gzip.decompress(INSPECTED.read_bytes()).decode()
    listed = json.loads(told, strict=False)["Layers"]
    assert any(ord(each) < 32 for layer in listed for each in layer.get("Metadata", ""))  # which no JSON may hold raw
    tensor = {"Format/Datatype": "Int8", "Datatype": "Half"}
    others = [
        {"Name": "a", "LayerType": "kgen", "ParameterType": "Convolution", "Inputs": [tensor], "Outputs": [tensor]},
        {"Name": "b", "LayerType": "Reformat", "Inputs": [{"Format": "Row major linear FP16"}], "Outputs": [{"Datatype": "Float"}]},
        {"Name": "c", "LayerType": "cast", "Inputs": [], "Outputs": []},
        "a name alone",
    ]
    unknown = {"Name": "d", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "N/A"}], "Outputs": []}
    for text in (told, *(json.dumps({"Layers": each}) for each in (others, [unknown], [unknown, *others], []))):
        assert json.loads(device("layers", input=text).stdout) == parse_layers(text).plain()


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"Layers": 1}', '{"layers": []}'])
def test_an_account_that_cannot_be_read_is_said_and_not_thrown(device: Program, text: str) -> None:
    done = device("layers", input=text)
    assert done.returncode == 0
    assert list(json.loads(done.stdout)) == ["unread"]


@pytest.mark.parametrize("batch", [0, 4])
def test_the_bundle_of_a_device_is_one_for_both_languages(
    device: Program, bench: Program, unbuilt: Path, tmp_path: Path, batch: int
) -> None:
    done = device("bundle", unbuilt, tmp_path / "out", batch)
    assert (done.returncode, done.stderr) == (0, "")
    made, old = Bundle.read(tmp_path / "out"), Bundle.read(unbuilt)
    made.verify()
    assert made.target.backend == "tensorrt"
    assert made.target.batches == ((1, 2, 4) if batch else (1, 2, 3))
    assert made.stages is not None
    assert made.stages.sizes == ((1, 2, 4, 8, 16) if batch else (1, 2, 4, 8, 12))  # four regions an image
    assert made.manifest["engine"]["stages"]["closer"]["profiles"] == [[size] * 3 for size in made.stages.sizes]
    for name in ("weights", "trained", "lowering", "model", "image", "parents", "graph", "parity"):
        assert made.manifest[name] == old.manifest[name], name
    assert {name for name in made.manifest["files"] if not name.startswith("engine.")} == set(old.manifest["files"])
    assert (tmp_path / "out" / "engine.look.plan").read_text() == "plan of look"
    refused(bench(tmp_path / "out"), "built for tensorrt")


@pytest.mark.parametrize(
    ("how", "effort", "sizes", "profile"),
    [("only", 0.5, (1, 2, 4, 8), [1, 8, 8]), ("only", 1, (8,), [8, 8, 8]), ("only-8.5", 0.5, (8,), [8, 8, 8])],
)
def test_one_profile_is_for_fewer_regions_where_some_are_left_out(
    device: Program, unbuilt: Path, tmp_path: Path, how: str, effort: float, sizes: tuple[int, ...], profile: list[int]
) -> None:
    manifest = json.loads((unbuilt / "manifest.json").read_text())
    manifest["stages"]["effort"] = effort
    (unbuilt / "manifest.json").write_text(json.dumps(manifest))
    done = device("bundle", unbuilt, tmp_path / "out", 2, how)
    assert (done.returncode, done.stderr) == (0, "")
    made = Bundle.read(tmp_path / "out")
    assert (made.target.batches, made.stages.sizes) == ((2,), sizes)
    plans = made.manifest["engine"]["stages"]
    assert (plans["look"]["profiles"], plans["closer"]["profiles"]) == ([[2, 2, 2]], [profile])


def test_what_fails_leaves_nothing(device: Program, unbuilt: Path, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    refused(device("bundle", unbuilt, folder / "out", 0, "fail"), "The builder made no plan")
    (unbuilt / "graph.onnx").write_bytes((unbuilt / "graph.onnx").read_bytes()[:-1])
    refused(device("bundle", unbuilt, folder / "out", 0), "was changed or truncated")
    (unbuilt / "labels.txt").unlink()
    (unbuilt / "labels.txt").symlink_to("/etc/hostname")
    (unbuilt / "graph.onnx").unlink()
    refused(device("bundle", unbuilt, folder / "out", 0), "There is no file")
    assert list(folder.iterdir()) == []


# How the process that builds may end: what is printed, and whether the builder gave up or was
# killed.
ENDS = {
    "throw": ("[backend] It failed. Try again.\n", False, False),
    "no-plan": ("no plan\n", True, False),
    "exit": ("ended with exit code 3: the last words. Report", False, False),
    "abort": ("ended with Aborted: the last words. Report", False, False),
    "kill": ("ended with Killed, as for want of memory: the last words. Close other programs", False, True),
}


@pytest.mark.parametrize("how", ENDS)
def test_whatever_ends_the_builder_is_one_line(device: Program, tmp_path: Path, how: str) -> None:
    words, gave_up, killed = ENDS[how]
    done = device("child", tmp_path / "out", how)
    refused(done, words)
    assert json.loads(done.stdout) == {"facts": None, "gave_up": gave_up, "killed": killed}
    assert list(tmp_path.iterdir()) == []


def test_what_the_builder_answers_comes_through(device: Program, tmp_path: Path) -> None:
    done = device("child", tmp_path / "out", "answer")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"facts": {"words": "answer"}, "gave_up": False, "killed": False}


def test_a_build_that_is_stopped_leaves_nothing(device_program: Path, tmp_path: Path) -> None:
    running = subprocess.Popen([device_program, "child", tmp_path / "out", "hang"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.partial-*/started")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.terminate()
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


# With TensorRT's libraries


@pytest.fixture(scope="session")
def build(cmake, builds: Path) -> Program:
    """mcar_edge_build, linked with the TensorRT that the environment names."""
    headers, libraries = (os.environ.get(name, "").split(os.pathsep)[0] for name in ("TENSORRT_INCLUDE_DIR", "TENSORRT_LIBRARY_DIR"))
    if not headers or not libraries:
        pytest.skip("no TensorRT to link with: set TENSORRT_LIBRARY_DIR to the folder of libnvinfer, TENSORRT_INCLUDE_DIR to its headers")
    if not shutil.which("nvcc"):
        pytest.skip("no CUDA toolkit to link with: put its nvcc on the PATH")
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here, and what is tested is its absence: run benchmarks/gpu")
    found = [
        f"TENSORRT_INCLUDE_DIR={headers}",
        f"TENSORRT_LIBRARY_DIR={libraries}",
        "MCAR_EDGE_BACKENDS=tensorrt",
        "CMAKE_BUILD_TYPE=Debug",
    ]
    folder = cmake(REPOSITORY / "edge" / "cpp", builds / "tensorrt", *found)
    # The parser needs NVIDIA's own plugins, and these cuBLAS and cuDNN; of a graph without such
    # plugins only their start.
    plugins = next(Path(libraries).glob("libnvinfer_plugin.so.*"))
    source = folder / "plugins.cpp"
    source.write_text('extern "C" bool initLibNvInferPlugins(void*, const char*) { return true; }\n')
    stub = folder / "stub" / plugins.name
    stub.parent.mkdir(exist_ok=True)
    subprocess.run(["g++", "-shared", "-fPIC", f"-Wl,-soname,{plugins.name}", source, "-o", stub], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([str(stub.parent), libraries])}
    return lambda *words: started(folder / "tools" / "mcar_edge_build", *words, env=environment)


def test_without_a_gpu_one_line_says_so_and_nothing_is_left(build: Program, unbuilt: Path, tmp_path: Path) -> None:
    assert build("--version").returncode == 0
    version = json.loads((unbuilt / "manifest.json").read_text())
    major8 = "takes tensorrt-8" not in build(unbuilt, tmp_path / "out").stderr
    version["lowering"] = "tensorrt-8" if major8 else "tensorrt"
    (unbuilt / "manifest.json").write_text(json.dumps(version))
    folder = tmp_path / "there"
    folder.mkdir()
    refused(
        build(unbuilt, folder / "out", "--json", folder / "json"),
        "[backend] A plan must be built on the GPU that will run it, and none was found",
    )
    refused(build(unbuilt, folder / "out", "--batch", 5000), "--batch is 5000. Change it to 1 to 4096")
    refused(build(unbuilt, unbuilt), "exists already. Add --force")
    refused(build(unbuilt, tmp_path, "--force"), "not a bundle made by edge.build")
    assert list(folder.iterdir()) == []


def test_a_graph_for_another_tensorrt_is_refused(build: Program, bundle: Path, tmp_path: Path) -> None:
    done = build(bundle, tmp_path / "out")
    refused(done, "[build] The bundle's graph is lowered for openvino, and TensorRT ")
    assert " --backend tensorrt --tensorrt " in done.stderr
