"""TensorRT through the bundle: the engine as an application loads it, and a bundle from the host
rebuilt on the device."""

from __future__ import annotations

import ctypes
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edge import Engine, doctor
from edge.backends.onnxruntime import Session
from edge.errors import EdgeError
from edge.pipeline import BuildOptions, rebuild
from edge.spec import TargetSpec


@pytest.fixture
def images():
    return np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def on_the_device(bundled, fake_tensorrt, small_graph, tmp_path):
    fake_tensorrt("10.3")
    return bundled(tmp_path / "bundle", small_graph(), TargetSpec("tensorrt", "fp32", (1, 3)))


def test_an_application_loads_it_and_batches_between_are_padded(on_the_device, small_graph, images):
    with Engine.load(on_the_device.path) as engine:
        scores = engine.infer(images)["scores"]
        np.testing.assert_allclose(scores, Session(small_graph(), threads=1)(images)["scores"], atol=1e-5)
        assert engine.layers()["layers"] == 374


def test_device_arrays_pass_through_the_engine(on_the_device, small_graph, images):
    interface = {"shape": images.shape, "typestr": "<f4", "data": (images.ctypes.data, False), "version": 3, "strides": None}
    with Engine.load(on_the_device.path) as engine:
        found = engine.infer(SimpleNamespace(__cuda_array_interface__=interface))["scores"]
        flat = np.ctypeslib.as_array((ctypes.c_float * 32).from_address(found.address))
        np.testing.assert_allclose(flat.reshape(2, 16), Session(small_graph(), threads=1)(images)["scores"], atol=1e-5)


def test_the_application_may_bring_its_pycuda_context(on_the_device, images):
    import fake_pycuda  # type: ignore[import-not-found]

    fake_pycuda.Context().push()
    with Engine.load(on_the_device.path, cuda="pycuda") as engine:
        assert engine.infer(images)["scores"].shape == (2, 16)


def test_an_engine_of_the_cpu_refuses_cuda_and_device_arrays(bundled, small_graph, tmp_path, images):
    bundle = bundled(tmp_path / "bundle", small_graph(), TargetSpec("onnxruntime", "fp32", (1, 3)))
    with pytest.raises(EdgeError, match="needs an engine on a GPU"):
        Engine.load(bundle.path, cuda="pycuda")
    with Engine.load(bundle.path) as engine, pytest.raises(EdgeError, match="need an engine on a GPU"):
        engine.infer(SimpleNamespace(__cuda_array_interface__={"shape": images.shape}))


def test_a_plugin_changed_after_the_build_is_never_loaded(bundled, fake_tensorrt, small_graph, tmp_path, monkeypatch):
    fake = fake_tensorrt("10.16")
    library = tmp_path / "libedge_plugin.so"
    library.write_bytes(b"edge plugin")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", str(library))
    bundle = bundled(tmp_path / "bundle", small_graph(regions=True), TargetSpec("tensorrt", "fp32", (1,)))
    assert "engine.plugin.so" in bundle.manifest["files"]
    (bundle.path / "engine.plugin.so").write_bytes(b"edge plugiN")
    with pytest.raises(EdgeError, match=r"engine\.plugin\.so was changed"):
        Engine.load(bundle.path)
    assert fake.tensorrt.get_plugin_registry().get_creator("RoiResize", "1", "edge") is None


def test_a_bundle_from_the_host_is_rebuilt_on_the_device_without_onnx(bundled, fake_tensorrt, small_graph, tmp_path, monkeypatch, images):
    def on_the_host(lowered, target, stages, folder):
        (folder / "engine.plan.z").write_bytes(b"for RTX")
        return {"payload": "engine.plan.z"}

    proto = small_graph("int8")
    host = bundled(tmp_path / "host", proto, TargetSpec("tensorrt-rtx", "int8", (1,), "fp16"), on_the_host, lowering="tensorrt-rtx")
    fake_tensorrt("10.3")
    for name in ("torch", "export", "calib", "edge.lower"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails, as on a device
    made = rebuild(host, BuildOptions(backend="tensorrt", batch=3, output=tmp_path / "device"))
    assert made.target == TargetSpec("tensorrt", "int8", (1, 2, 3), "fp16")
    assert (made.path / "lowered.onnx").read_bytes() == proto
    assert made.manifest["engine"]["regions"] == "standard nodes"
    with Engine.load(made.path) as engine:
        assert engine.infer(images)["scores"].shape == (2, 16)


def test_a_graph_that_must_be_lowered_says_that_onnx_is_missing(bundled, fake_tensorrt, small_graph, tmp_path, monkeypatch):
    host = bundled(tmp_path / "host", small_graph(), TargetSpec("onnxruntime", "fp32", (1,)))
    fake_tensorrt("10.3")
    monkeypatch.setitem(sys.modules, "edge.lower", None)
    monkeypatch.delattr("edge.lower", raising=False)
    with pytest.raises(EdgeError, match="needs onnx"):
        rebuild(host, BuildOptions(backend="tensorrt", output=tmp_path / "device"))
    assert not (tmp_path / "device").exists()


def test_the_doctor_tells_what_an_engine_is_made_of(on_the_device, capsys):
    assert doctor.main(doctor.arguments().parse_args([str(on_the_device.path)])) == 0
    said = capsys.readouterr().out
    assert "engine: 374 layers (374 fp32), 12 reformats, 0 casts" in said
    assert "boxes and crops by standard nodes; built on Orin" in said


def test_the_doctor_says_what_does_not_fit_and_the_command_that_rebuilds(on_the_device, capsys, monkeypatch):
    path = on_the_device.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["engine"]["machine"]["compute_capability"] = "11.0"
    path.write_text(json.dumps(manifest))
    assert doctor.main(doctor.arguments().parse_args([str(on_the_device.path)])) == 1
    said = capsys.readouterr().err
    assert "for compute capability 11.0, and this GPU (Orin) has 8.7" in said
    assert f"edge.build --from {on_the_device.path} --force" in said
