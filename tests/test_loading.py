"""Loading: the bytes whose digests were checked are the bytes that run, whatever happens to the
files meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge import Engine, backends, command, doctor
from edge.bundle import CALIBRATION, ENGINE_FILES, REFERENCE, Bundle
from edge.errors import EdgeError
from edge.manifest import digest_bytes, digest_file

BACKENDS = ("openvino", "onnxruntime")
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
# EDGE_STRESS=1000 makes the predictions of each thread as many.
PREDICTIONS = int(os.environ.get("EDGE_STRESS", "20"))
LOADS = int(os.environ.get("EDGE_STRESS", "20")) // 2


@pytest.fixture(params=BACKENDS)
def bundle(request, small_bundle, tmp_path):
    return shutil.copytree(small_bundle(request.param), tmp_path / "bundle")


def resealed(folder: Path, **changes: object) -> Path:
    """The folder with a manifest that fits its files as they are now, and says what is given."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry |= {"sha256": digest_file(folder / name), "bytes": (folder / name).stat().st_size}
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def other(bundle, tmp_path):
    """Another valid bundle of the same form: half the weights' size, and thresholds of its own."""
    import onnx
    from onnx import numpy_helper

    folder = shutil.copytree(bundle, tmp_path / "other")
    read = Bundle.read(folder)
    lowered = {}
    for stage, data in read.lowered().items():
        model = onnx.load_from_string(data)
        for constant in model.graph.initializer:
            if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 4:
                constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * np.float32(0.5), constant.name))
        lowered[stage] = model.SerializeToString()
    backends.backend(read.target.backend).build(lowered, read.target, read.stages, folder)
    return resealed(folder, model={"thresholds": [0.25] * len(read.model.labels)})


def scores(path: Path) -> np.ndarray:
    with Engine.load(path) as engine:
        return engine.infer(IMAGES)["scores"]


def exchange(one: Path, two: Path) -> None:
    """Two folders exchange their names; for a moment there is none under either."""
    aside = one.with_name("aside")
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)


@pytest.fixture
def meanwhile():
    """A function that runs another again and again beside the test, and hands on what it raises."""
    ended, threads, raised = threading.Event(), [], []

    def start(action, pause: float = 0.0) -> None:
        def loop() -> None:
            try:
                while not ended.is_set():
                    action()
                    time.sleep(pause)
            except Exception as error:
                raised.append(error)

        threads.append(threading.Thread(target=loop))
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()
    assert not raised


def test_a_loaded_engine_does_not_see_what_becomes_of_its_files(bundle, other, meanwhile):
    expected = scores(bundle)
    assert np.abs(expected - scores(other)).max() > 1e-3, "the two must be told apart"
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (bundle, other)]

    def overwrite() -> None:
        for name in contents[0]:
            for one in (contents[1][name], bytes(len(contents[0][name]) // 2), contents[0][name]):
                with open(bundle / name, "r+b") as file:
                    file.write(one)
                    file.truncate()
        exchange(bundle, other)

    with Engine.load(bundle) as engine, ThreadPoolExecutor(8) as pool:
        meanwhile(overwrite)
        found = list(pool.map(lambda _: engine.infer(IMAGES)["scores"], range(8 * PREDICTIONS)))
    for one in found:
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_a_load_gives_one_bundle_or_the_other_while_they_change_places(bundle, other, meanwhile):
    first, second = scores(bundle), scores(other)
    met = set()
    meanwhile(lambda: exchange(bundle, other), 0.004)
    for _ in range(LOADS):
        with Engine.load(bundle) as engine:
            is_first = not engine.spec.thresholds
            np.testing.assert_allclose(engine.infer(IMAGES)["scores"], first if is_first else second, atol=1e-5)
            met.add(is_first)
    assert LOADS < 100 or len(met) == 2


def test_a_folder_removed_while_it_is_read_gives_way_to_the_one_that_took_its_place(bundle, other, monkeypatch):
    expected = scores(other)
    read = Bundle._of
    calls = []

    def replaced_after_the_manifest(folder):
        found = read(folder)
        if not calls:
            calls.append(1)
            shutil.rmtree(bundle)
            os.rename(other, bundle)
        return found

    monkeypatch.setattr(Bundle, "_of", replaced_after_the_manifest)
    np.testing.assert_allclose(scores(bundle), expected, atol=1e-5)


def test_every_file_is_opened_once(bundle):
    opened: list[str] = []

    def audit(event: str, arguments: tuple) -> None:
        if event == "open":
            opened.append(Path(str(arguments[0])).name)

    names = {path.name for path in bundle.iterdir()}
    sys.addaudithook(audit)
    Engine.load(bundle).close()
    read, opened = list(opened), []
    assert sorted(name for name in read if name in names) == sorted(names)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_no_file_of_the_bundle_is_mapped_or_held_open(bundle):
    with Engine.load(bundle) as engine:
        engine.infer(IMAGES)
        assert str(bundle) not in Path("/proc/self/maps").read_text()
        held = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert not [each for each in held if each.startswith(str(bundle))]


def damaged(folder: Path, way: str) -> Path:
    for path in folder.glob("engine.*"):
        data = path.read_bytes()
        if way == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif way == "empty":
            path.write_bytes(b"")
        elif path.suffix != ".bin":
            path.write_bytes(b"\x07garbage" * 100)
    return resealed(folder)


@pytest.mark.parametrize("way", ["garbage", "cut", "empty"])
def test_an_engine_that_is_none_is_refused_in_one_line(bundle, way, tmp_path, capsys):
    damaged(bundle, way)
    with pytest.raises(EdgeError, match=r"OpenVINO|ONNX Runtime") as caught:
        Engine.load(bundle)
    assert "\n" not in str(caught.value)
    assert command.run(doctor.main, doctor.arguments().parse_args([str(bundle), "--json", str(tmp_path / "doctor.json")])) == 1
    assert json.loads((tmp_path / "doctor.json").read_text())["bundle"]["loads"] is False


def test_weights_that_are_cut_are_refused(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle("openvino"), tmp_path / "bundle")
    data = (folder / "engine.bin").read_bytes()
    (folder / "engine.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgeError, match="OpenVINO cannot read the engine"):
        Engine.load(resealed(folder))


def test_an_engine_file_that_is_missing_is_named(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    for path in bundle.glob("engine.*"):
        path.unlink()
        del manifest["files"][path.name]
    manifest["engine"]["payload"] = "labels.txt"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeError, match=r"no file engine\."):
        Engine.load(bundle)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": {"size": 512}}, r"image .*float32 \(B, 3, 64, 64\).*float32 \(B, 3, 512, 512\)"),
        ({"model": {"labels": [f"thing{index}" for index in range(7)]}}, r"scores.*float32 \(B, 20\).*float32 \(B, 7\)"),
        ({"model": {"options": {"regions": 9}}}, r"region.*4.*9"),
    ],
)
def test_an_engine_of_another_form_than_its_manifest_says_is_refused(bundle, changes, says):
    changes = {key: dict(value) for key, value in changes.items()}
    with pytest.raises(EdgeError, match=says) as caught:
        Engine.load(resealed(bundle, **changes))
    assert str(caught.value).startswith("[load] ")


def test_a_tensor_that_nobody_described_is_refused(small_bundle, tmp_path):
    import onnx

    folder = shutil.copytree(small_bundle("onnxruntime"), tmp_path / "bundle")
    model = onnx.load(str(folder / "engine.closer.onnx"))
    for node in model.graph.node:
        node.output[:] = ["guesses" if name == "region_scores" else name for name in node.output]
    model.graph.output[0].name = "guesses"
    onnx.save(model, str(folder / "engine.closer.onnx"))
    with pytest.raises(EdgeError, match="has no region_scores"):
        Engine.load(resealed(folder))


def test_what_the_library_raises_in_a_call_is_one_line(bundle, monkeypatch):
    with Engine.load(bundle) as engine:
        monkeypatch.setattr("edge.engine.checked_batch", lambda batch, bundle: batch)
        with pytest.raises(EdgeError, match=r"\[infer\] .* cannot run the engine: "):
            engine.infer(np.zeros((1, 3, 64, 63), np.float32))


def test_a_file_is_read_only_if_it_is_the_one_listed(bundle):
    read = Bundle.read(bundle)
    data = read.read_file(REFERENCE)
    assert digest_bytes(data) == read.manifest["files"][REFERENCE]["sha256"]
    (bundle / REFERENCE).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EdgeError, match="changed or truncated"):
        read.read_file(REFERENCE)
    with pytest.raises(EdgeError, match=CALIBRATION):
        read.read_file(CALIBRATION)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_of_its_own_is_refused(bundle, tmp_path, kind):
    path = next(bundle.glob("engine.*"))
    path.rename(tmp_path / "moved")
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path / "moved")}[kind]()
    with pytest.raises(EdgeError, match=ENGINE_FILES):
        Engine.load(bundle)


def test_a_path_that_cannot_be_a_bundle_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path / ("x" * 300), tmp_path / "null\0byte"):
        with pytest.raises(EdgeError, match="no bundle"):
            Engine.load(path)


@pytest.mark.parametrize(("given", "seen"), [(None, "1"), ("0", "0")])
def test_onnxruntime_sends_nothing_unless_it_is_told_to(given, seen):
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = (
        "import os, sys; from edge import backends; backends.probe('onnxruntime'); "
        "assert 'onnxruntime' in sys.modules; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment |= {"ORT_DISABLE_TELEMETRY": given} if given else {}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == seen
