"""TensorRT in two stages, against the recorded fake: what is built, what a call copies and runs,
and every refusal."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from edge import Engine, backends, doctor
from edge.backends.onnxruntime import Session
from edge.backends.trt.plan import parts_of
from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK
from edge.lower import lower_stages
from edge.pipeline import BuildOptions, rebuild
from edge.spec import StagesSpec, TargetSpec

VERSIONS = ("10.3", "10.16", "11.1")
TARGET = TargetSpec("tensorrt", "fp32", (1, 3))
IMAGE_BYTES = 3 * 64 * 64 * 4
NAMES = ["tensorrt", "tensorrt-rtx"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    path = tmp_path / "libedge_plugin.so"
    path.write_bytes(b"edge plugin, as the fake registry knows it")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", str(path))
    return path


@pytest.fixture
def images():
    """(3, 3, 64, 64) float32, smooth enough that boxes lie inside."""
    coarse = np.random.default_rng(2).normal(size=(3, 3, 8, 8)).astype(np.float32)
    return np.kron(coarse, np.ones((8, 8), np.float32))


@pytest.fixture
def opened(fake_tensorrt, staged, tmp_path):
    """A function (version, environment of the fake) → the fake, and the engine built and loaded."""

    def opened(version="10.16", *, cuda="bindings", **environment):
        fake = fake_tensorrt(version, **environment)
        bundle = staged(tmp_path / "bundle", TARGET)
        if cuda == "pycuda":
            fake.pycuda.Context().push()
        return fake, Engine.load(bundle.path, cuda=cuda)

    return opened


def assert_answers(engine, images, given=None):
    """That an engine answers as the whole graph does on ONNX Runtime; ``given``: the images in
    another form."""
    expected = Session(engine.bundle.read_file("reference.onnx"), threads=1)(images)
    found = engine.infer(images if given is None else given)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3 if engine.bundle.target.precision == "int8" else 1e-5, err_msg=name)


def on_gpu(array):
    """An array that says it lives on the GPU (the fake GPU's memory is the host's)."""
    interface = {"shape": array.shape, "typestr": "<f4", "data": (array.ctypes.data, False), "version": 3, "strides": None}
    return SimpleNamespace(__cuda_array_interface__=interface, array=array)


# Building.


@pytest.mark.parametrize("route", ["library", "none"])
def test_each_stage_has_a_plan_and_the_plugin_comes_once(fake_tensorrt, staged, tmp_path, plugin, monkeypatch, route):
    fake_tensorrt("10.3")
    if route == "none":
        monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", "")
    bundle = staged(tmp_path / "bundle", TARGET)
    files = {path.name for path in bundle.path.glob("engine.*")}
    assert files == {"engine.look.plan", "engine.closer.plan", *(["engine.plugin.so"] if route == "library" else [])}
    facts = bundle.manifest["engine"]
    assert set(facts) == {"stages", "plugin", "level", "machine", "compute_capabilities", "typing", "regions"}
    assert facts["regions"] == ("plugin" if route == "library" else "standard nodes")
    for stage, own in facts["stages"].items():
        assert set(own) == {"payload", "profiles", "workspace", "seconds", "network", "plan_bytes", "layers", "constraints"}
        assert own["plan_bytes"] == (bundle.path / own["payload"]).stat().st_size
        assert own["payload"] == f"engine.{stage}.plan"
        assert (b"plugin_namespace" in (bundle.path / own["payload"]).read_bytes()) == (route == "library")
    monkeypatch.delenv("EDGE_TENSORRT_PLUGIN")  # the bundle has its own
    Engine.load(bundle.path).close()


def test_closer_is_built_for_the_regions_of_a_batch(fake_tensorrt, staged, tmp_path):
    fake_tensorrt("10.16")
    bundle = staged(tmp_path / "bundle", TARGET)
    assert bundle.stages == StagesSpec((1, 2, 4, 6))
    stages = bundle.manifest["engine"]["stages"]
    assert stages[LOOK]["profiles"] == [[1, 1, 1], [3, 3, 3]]
    assert stages[CLOSER]["profiles"] == [[1, 1, 1], [2, 2, 2], [4, 4, 4], [6, 6, 6]]
    ranges = pickle.loads((bundle.path / "engine.closer.plan").read_bytes())["profiles"]
    assert [set(each["boxes"]) for each in ranges] == [{(size, 4)} for size in bundle.stages.sizes]
    assert [set(each["owner"]) for each in ranges] == [{(size,)} for size in bundle.stages.sizes]
    assert {each["image"] for each in ranges} == {((1, 3, 64, 64), (3, 3, 64, 64), (3, 3, 64, 64))}


def test_a_stage_that_cannot_be_built_leaves_no_plan(fake_tensorrt, two_passes, tmp_path, plugin):
    fake_tensorrt("10.3")
    lowered = lower_stages(two_passes(), TARGET, row="tensorrt", in_stages=True)
    lowered[CLOSER] = lowered[CLOSER].replace(b"RoiResize", b"RoiResizf")
    with pytest.raises(EdgeError, match="Plugin not found"):
        backends.backend("tensorrt").build(lowered, TARGET, StagesSpec((1, 2)), tmp_path)
    assert not list(tmp_path.glob("engine.*"))


def test_an_engine_of_two_stages_carries_its_kernels(fake_tensorrt, staged, images, tmp_path, monkeypatch):
    monkeypatch.setattr("edge.backends.trt.aot.compile_kernels", lambda _: b"// PTX")
    pytest.importorskip("cuda.bindings.nvrtc")
    fake_tensorrt("11.1")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", "aot")
    bundle = staged(tmp_path / "bundle", TARGET)
    assert (bundle.manifest["engine"]["regions"], bundle.manifest["engine"]["plugin"]) == ("plugin, ahead of time", None)
    monkeypatch.delenv("EDGE_TENSORRT_PLUGIN")
    with Engine.load(bundle.path) as engine:
        assert_answers(engine, images)


def test_stages_from_the_host_are_built_on_the_device_without_onnx(fake_tensorrt, staged, images, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    host = staged(tmp_path / "host", TargetSpec("tensorrt-rtx", "int8", (1,), "fp16"))
    fake_tensorrt("10.3")
    for name in ("torch", "export", "calib", "edge.lower"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails, as on a device
    made = rebuild(host, BuildOptions(backend="tensorrt", batch=3, output=tmp_path / "device"))
    assert made.lowered() == host.lowered()
    assert (host.stages, made.stages) == (StagesSpec((1, 2)), StagesSpec((1, 2, 4, 6)))
    assert set(made.manifest["engine"]["stages"]) == {LOOK, CLOSER}
    with Engine.load(made.path) as engine:
        assert engine.infer(images)["scores"].shape == (3, 5)


# Running.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_stages_answer_as_the_whole_graph_does(fake_tensorrt, staged, images, tmp_path, plugin, version, precision):
    fake = fake_tensorrt(version)
    bundle = staged(tmp_path / "bundle", TargetSpec("tensorrt", precision, (1, 3)))
    with Engine.load(bundle.path) as engine:
        for count in (1, 2, 3, 1):
            assert_answers(engine, images[:count])
        assert [runner.graphless for runner in engine.runners.values()] == ["", ""]
    assert fake.cudart.holds() == 0, "something was not freed"


@pytest.mark.parametrize("how", [{"EDGE_FAKE_CAPTURE": "refused"}, {"EDGE_FAKE_INTEGRATED": "1"}, {"cuda": "pycuda"}])
def test_the_answer_is_the_same_without_graphs_on_shared_memory_and_by_pycuda(opened, images, how):
    fake, engine = opened("10.3", **how)
    assert_answers(engine, images)
    assert_answers(engine, images[:1])
    assert bool(fake.cudart.launches) != ("EDGE_FAKE_CAPTURE" in how)
    engine.close()
    assert fake.cudart.holds() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_call_copies_the_images_once_and_little_else(opened, images, count):
    fake, engine = opened()
    engine.infer(images[:count])
    fake.cudart.copies.clear()
    engine.infer(images[:count] + 1)
    sizes = [size for *_, size in fake.cudart.copies]
    assert sizes.count(count * IMAGE_BYTES) == 1
    assert len(sizes) == 4, "beside the images: what look found, what closer is asked, and its scores"
    assert sum(sizes) < (count + 1) * IMAGE_BYTES


def test_each_size_of_a_stage_is_captured_once_and_nothing_is_made_after(opened, images):
    fake, engine = opened()
    for count in (1, 2, 3):
        engine.infer(images[:count])
    assert fake.cudart.holds("executable") == 5, "look for 1 and 3 images; closer for 2 regions of 1, 4 and 6 of 3"
    assert fake.cudart.holds("stream") == 2, "closer runs on the stream of look"
    before, handle = fake.cudart.holds(), next(fake.cudart.handles)
    fake.cudart.launches.clear()
    for count in (3, 1, 2, 3):
        engine.infer(images[:count])
    assert len(fake.cudart.launches) == 2 * 4
    assert (fake.cudart.holds(), next(fake.cudart.handles)) == (before, handle + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_lane_takes_the_memory_of_its_own_profile(opened, images, version):
    _, engine = opened(version)
    for count in (1, 3):
        engine.infer(images[:count])
    lanes = [each for lane in engine.runners[LOOK]._lanes for each in (lane, *lane.beside.values())]
    assert len(lanes) == 4
    assert {each.context._strategy.name for each in lanes} == {"ON_PROFILE_CHANGE"}


def test_threads_have_a_lane_each_and_leave_none_behind(opened, images):
    fake, engine = opened()
    expected = [engine.infer(image[None])["scores"] for image in images]
    barrier = threading.Barrier(3)

    def call(index):
        barrier.wait()
        return [engine.infer(images[index : index + 1])["scores"] for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        for index, found in enumerate(pool.map(call, range(3))):
            for scores in found:
                np.testing.assert_allclose(scores, expected[index], atol=1e-5)
    assert fake.cudart.holds("stream") <= 3
    held = fake.cudart.holds()
    for _ in range(3):
        thread = threading.Thread(target=lambda: engine.infer(images[:1]))
        thread.start()
        thread.join()
    assert fake.cudart.holds() == held


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_device_array_stays_there_and_the_outputs_come_to_the_host(opened, images, count):
    fake, engine = opened()
    given = on_gpu(images[:count].copy())
    assert_answers(engine, images[:count], given)
    assert_answers(engine, images[:count])  # what it left behind is in nobody's way
    fake.cudart.copies.clear()
    engine.infer(given)
    sources = [source for _, source, _ in fake.cudart.copies]
    assert sources.count(given.array.ctypes.data) == 1
    assert sum(size for *_, size in fake.cudart.copies) < (count + 1) * IMAGE_BYTES


def test_a_device_array_of_another_form_is_refused(opened, images):
    _, engine = opened()
    for wrong in (images[0], np.concatenate([images, images])):
        with pytest.raises(EdgeError, match=r"\[infer\]"):
            engine.infer(on_gpu(wrong))


# Look launches its graph twice, at first to try it, and has two buffers.
@pytest.mark.parametrize(("failing", "after"), [("cudaGraphLaunch", 3), ("cudaMalloc", 2), ("cudaMalloc", 3)])
def test_a_call_that_fails_in_closer_leaves_nothing_behind(opened, images, monkeypatch, failing, after):
    fake, engine = opened()
    calls, plain = [], getattr(fake.cudart, failing)

    def fails(*arguments):
        calls.append(arguments)
        return (fake.cudart.INVALID, 0) if len(calls) > after else plain(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fake.cudart, failing, fails)
        with pytest.raises(EdgeError, match=f"{failing} failed"):
            engine.infer(images)
    assert fake.cudart.holds() == 0
    assert_answers(engine, images)


# What does not fit.


def facts_of(**own):
    part = {"payload": "engine.plan", "profiles": [[1, 1, 1]], "plan_bytes": 1}
    return {"stages": {LOOK: part, CLOSER: part}, "machine": {"version": "10.3", "compute_capability": "8.7"}, **own}


@pytest.mark.parametrize("name", NAMES)
def test_engines_of_another_version_or_gpu_are_refused_before_they_are_read(name):
    support = backends.Support(version="10.3", device="Orin", facts={"compute_capability": "8.7"})
    backend = backends.backend(name)
    backend.check_fit(facts_of(), support, "Rebuild it")
    with pytest.raises(EdgeError, match=rf"built with {name} 10\.7, and 10\.3 is installed"):
        backend.check_fit(facts_of(machine={"version": "10.7"}), support, "Rebuild it")
    with pytest.raises(EdgeError, match=r"built for compute capability 12\.1, and this GPU \(Orin\) has 8\.7"):
        backend.check_fit(facts_of(compute_capabilities=["12.1"]), support, "Rebuild it")
    missing = facts_of(stages={LOOK: facts_of()["stages"][LOOK], CLOSER: {"payload": "engine.plan", "profiles": []}})
    with pytest.raises(EdgeError, match="lacks the plan's plan_bytes"):
        backend.check_fit(missing, support, "Rebuild it")


@pytest.mark.parametrize("name", NAMES)
def test_facts_of_another_form_are_misfits(name):
    backend, part = backends.backend(name), facts_of()["stages"][LOOK]
    assert backend.misfits(facts_of()) == []
    for stages in ([], {}, {LOOK: part}, {LOOK: part, CLOSER: 1}, {LOOK: part, CLOSER: part, "third": part}):
        assert backend.misfits(facts_of(stages=stages)) == ["stages"]
    assert backend.misfits(facts_of(stages={LOOK: part, CLOSER: {**part, "profiles": [[0, 1, 1]], "plan_bytes": -1}})) == [
        "plan_bytes",
        "profiles",
    ]


def test_the_facts_of_a_whole_graph_are_their_own_part():
    facts = {"payload": "engine.plan", "profiles": [[1, 1, 1]], "plan_bytes": 1}
    assert parts_of(facts) == {"": facts}
    parts = parts_of(facts_of(plugin=None))
    assert parts[CLOSER]["plugin"] is None
    assert "stages" not in parts[LOOK]


@pytest.mark.parametrize(("stage", "said"), [(LOOK, "3 images"), (CLOSER, "6 regions")])
def test_a_manifest_without_the_profile_is_one_line(fake_tensorrt, staged, images, tmp_path, stage, said):
    fake_tensorrt("10.3")
    bundle = staged(tmp_path / "bundle", TARGET)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["engine"]["stages"][stage]["profiles"].pop()
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with Engine.load(bundle.path) as engine:
        assert_answers(engine, images[:1])
        with pytest.raises(EdgeError, match=f"no profile for {said}"):
            engine.infer(images)


@pytest.mark.parametrize("stage", [LOOK, CLOSER])
def test_each_plan_is_checked_and_listed(fake_tensorrt, staged, tmp_path, stage):
    fake = fake_tensorrt("10.3")
    bundle = staged(tmp_path / "bundle", TARGET)
    path = bundle.path / f"engine.{stage}.plan"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(EdgeError, match=rf"engine\.{stage}\.plan was changed or truncated"):
        Engine.load(bundle.path)
    path.write_bytes(whole)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["engine"]["stages"][stage]["payload"] = "elsewhere.plan"
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeError, match=r"would load 'elsewhere\.plan'"):
        Engine.load(bundle.path)
    assert fake.cudart.holds() == 0


def test_the_doctor_tells_what_each_stage_is_made_of_once(fake_tensorrt, staged, tmp_path, capsys):
    fake_tensorrt("10.3")
    bundle = staged(tmp_path / "bundle", TARGET)
    assert doctor.main(doctor.arguments().parse_args([str(bundle.path)])) == 0
    said = capsys.readouterr().out
    for stage in (LOOK, CLOSER):
        assert said.count(f"{stage}: 374 layers (374 fp32), 12 reformats, 0 casts") == 1
        assert said.count(f"{stage} parsed: ") == 1
    with Engine.load(bundle.path) as engine:
        assert backends.describe_engine("tensorrt", {"layers": engine.layers()}) == [
            f"{stage}: 374 layers (374 fp32), 12 reformats, 0 casts; 0% of the convolutions read int8" for stage in (LOOK, CLOSER)
        ]
