"""TensorRT against a recorded fake of three versions: building, shipping the plugin, running, and
every refusal."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edge import backends
from edge.backends.trt import arrays, cuda, lane, run, vendor
from edge.backends.trt.build import LIBRARIES, leave_out_missing_libraries
from edge.errors import EdgeError
from edge.graph import INPUT, WHOLE
from edge.ops import region_boxes
from edge.spec import TargetSpec

VERSIONS = ("8.6", "10.3", "10.16", "11.1")
TARGET = TargetSpec("tensorrt", "fp32", (1, 3))


@pytest.fixture
def backend():
    return backends.backend("tensorrt")


@pytest.fixture
def images():
    return np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def expected(small_graph):
    from edge.backends.onnxruntime import Session

    return lambda images, graph=None: Session(graph or small_graph(), threads=1)(images)["scores"]


@pytest.fixture
def opened(fake_tensorrt, backend, small_graph, tmp_path):
    """A function (version, environment of the fake) → the fake, and the small engine built and
    opened."""

    def opened(version="10.16", *, cuda="bindings", graphs=True, **environment):
        fake = fake_tensorrt(version, **environment)
        facts = backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
        if cuda == "pycuda":
            fake.pycuda.Context().push()
        return fake, backends.open_built(backend, tmp_path, TARGET, facts, cuda=cuda, graphs=graphs)[WHOLE]

    return opened


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    path = tmp_path / "libedge_plugin.so"
    path.write_bytes(b"edge plugin, as the fake registry knows it")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", str(path))
    return path


# Building and running.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_and_answers_as_the_graph_says(
    fake_tensorrt, backend, images, tmp_path, version, precision, small_graph, expected
):
    fake = fake_tensorrt(version)
    graph = small_graph(precision)
    facts = backend.build({WHOLE: graph}, TargetSpec("tensorrt", precision, (1, 3)), None, tmp_path)
    assert facts["profiles"] == [[1, 1, 1], [3, 3, 3]]
    assert facts["typing"] == ("weak" if version == "8.6" else "strong")
    assert facts["network"]["int8_convolutions"] == (precision == "int8")
    assert facts["machine"]["compute_capability"] == "8.7"
    network = backends.open_built(backend, tmp_path, TARGET, facts)[WHOLE]
    for count in (1, 3, 1, 3):
        np.testing.assert_allclose(network(images[:count])["scores"], expected(images[:count], graph), atol=2e-3)
    assert network.graphless == ""
    assert len(fake.cudart.launches) >= 4, "no CUDA graph was launched"
    network.close()
    assert fake.cudart.holds() == 0, "something was not freed"


@pytest.mark.parametrize(
    ("precision", "name", "constraints"), [("fp32", "float32/", None), ("fp16", "", None), ("fp16", "float32/", "obeyed")]
)
def test_version_8_says_whether_it_obeys_constraints(fake_tensorrt, backend, tmp_path, small_graph, precision, name, constraints):
    fake_tensorrt("8.6")
    model = onnx.load_from_string(small_graph(precision))
    model.graph.node[-1].name = f"{name}scores"
    facts = backend.build({WHOLE: model.SerializeToString()}, TargetSpec("tensorrt", precision, (1,)), None, tmp_path)
    assert facts["constraints"] == constraints


def test_float32_is_float32(fake_tensorrt, backend, tmp_path, small_graph):
    import pickle

    fake_tensorrt("10.3")
    backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    assert "TF32" not in pickle.loads((tmp_path / "engine.plan").read_bytes())["flags"]


@pytest.mark.parametrize("installed", [set(), {"libcublas.so.11", "libcudnn.so.8"}])
def test_version_8_takes_no_kernels_from_libraries_that_are_absent(fake_tensorrt, monkeypatch, installed):
    def load(name: str) -> None:
        if name not in installed:
            raise OSError(f"{name}: cannot open shared object file")

    trt = fake_tensorrt("8.6").tensorrt
    config = trt.Builder(trt.ILogger()).create_builder_config()
    monkeypatch.setattr(ctypes, "CDLL", load)
    leave_out_missing_libraries(trt, config)
    left = {name for name, source in trt.TacticSource.__members__.items() if config.get_tactic_sources() >> int(source) & 1}
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"} | ({"CUBLAS", "CUDNN"} if installed else set())


@pytest.mark.parametrize(("version", "left_out"), [("8.6", {"CUBLAS", "CUBLAS_LT", "CUDNN"}), ("10.3", set())])
def test_only_version_8_builds_without_absent_libraries(fake_tensorrt, backend, tmp_path, small_graph, version, left_out):
    import pickle

    for name in (name for names in LIBRARIES.values() for name in names):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            pytest.skip(f"{name} is installed here")
    sources = fake_tensorrt(version).tensorrt.TacticSource.__members__
    backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    found = pickle.loads((tmp_path / "engine.plan").read_bytes())["sources"]
    assert set(found) == sources.keys() - left_out


def test_timings_are_kept_for_the_next_build(fake_tensorrt, backend, tmp_path, small_graph):
    fake_tensorrt("10.16")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path / name)
    (kept,) = (tmp_path / "cache" / "mcar-edge" / "timings").iterdir()
    assert kept.read_bytes() == b"timed;timed;"


def test_timings_that_cannot_be_kept_cost_nothing_else(fake_tensorrt, backend, tmp_path, small_graph, monkeypatch):
    fake_tensorrt("10.16")
    (tmp_path / "full").write_text("no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    (tmp_path / "one").mkdir()
    assert backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path / "one")["plan_bytes"] > 0


@pytest.mark.parametrize(
    ("how", "graph"), [({"EDGE_FAKE_CAPTURE": "refused"}, False), ({"graphs": False}, False), ({"EDGE_FAKE_INTEGRATED": "1"}, True)]
)
def test_the_answer_is_the_same_without_graphs_and_on_shared_memory(opened, images, expected, how, graph):
    fake, network = opened("10.3", **how)
    np.testing.assert_allclose(network(images)["scores"], expected(images), atol=1e-5)
    assert bool(fake.cudart.launches) == graph
    assert bool(network.graphless) == ("EDGE_FAKE_CAPTURE" in how)
    for mode in lane.MODES:
        made = network._made({INPUT: images.shape}, 3, mode)
        made.load(images)
        np.testing.assert_allclose(made.run({})["scores"], expected(images), atol=1e-5)


def test_threads_share_the_engine_and_nothing_else(opened, images, expected):
    _, network = opened()
    barrier = threading.Barrier(3)

    def call(index):
        barrier.wait()
        return [network(images[index : index + 1])["scores"] for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        for index, found in enumerate(pool.map(call, range(3))):
            for scores in found:
                np.testing.assert_allclose(scores, expected(images[index : index + 1]), atol=1e-5)


@pytest.mark.parametrize("cuda", ["bindings", "pycuda"])
@pytest.mark.parametrize("on_device", [False, True])
def test_threads_that_end_leave_nothing_behind(opened, images, cuda, on_device):
    fake, network = opened(cuda=cuda)
    call = (lambda: network.on_device(OnDevice(images))) if on_device else (lambda: network(images))
    held = []
    for _ in range(10):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        held.append(fake.cudart.holds())
    assert set(held) == {held[0]}
    assert held[0] > 0
    network.close()
    assert fake.cudart.holds() == 0


def test_outputs_on_the_device_outlive_the_thread_that_computed_them(opened, images, expected):
    _, network = opened()
    found = []
    for batch in (images, images + 1):  # each in a thread of its own, the first ended before the second begins
        thread = threading.Thread(target=lambda batch=batch: found.append(network.on_device(OnDevice(batch))["scores"]))
        thread.start()
        thread.join()
    for scores, batch in zip(found, (images, images + 1), strict=True):
        np.testing.assert_allclose(on_host(scores), expected(batch), atol=1e-5)


@pytest.mark.parametrize("failing", ["cudaHostAlloc", "cudaStreamSynchronize", "cudaHostGetDevicePointer"])
def test_a_call_that_gets_no_memory_leaves_nothing_behind(opened, images, monkeypatch, failing):
    fake, network = opened("10.16", EDGE_FAKE_INTEGRATED="1" if failing == "cudaHostGetDevicePointer" else "0")
    monkeypatch.setattr(fake.cudart, failing, lambda *_: (fake.cudart.INVALID, 0))
    with pytest.raises(EdgeError, match=f"{failing} failed"):
        network(images)
    assert fake.cudart.holds() == 0


@pytest.mark.parametrize(
    ("integrated", "slow", "chosen"), [("1", "pinned", "mapped"), ("1", "mapped", "pinned"), ("0", "pinned", "pinned")]
)
def test_the_quicker_memory_is_chosen_where_it_is_shared(opened, images, monkeypatch, integrated, slow, chosen):
    fake, network = opened("10.3", EDGE_FAKE_INTEGRATED=integrated)
    now, plain = [0.0], lane.Lane.run

    def timed(one, batch):
        now[0] += 2 if one.mode == slow else 1
        return plain(one, batch)

    monkeypatch.setattr(lane.Lane, "run", timed)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    network(images)
    assert network.memory == chosen
    assert fake.cudart.holds("stream") == 1, "what was timed is not freed"


def test_layers_can_be_read(opened, images):
    for version in ("10.16", "11.1"):
        fake, network = opened(version)
        assert network.layers() == {"layers": 374, "precisions": {"fp32": 374}, "reformats": 12, "casts": 0, "int8_share": 0.0}
        assert fake.cudart.holds() == 0


@pytest.mark.parametrize("answer", ["no JSON", '{"Layers": [1]}', '{"Layers": [{"Inputs": ["image"]}]}'])
def test_layers_that_cannot_be_read_never_cost_the_plan(fake_tensorrt, backend, images, tmp_path, small_graph, expected, answer):
    fake_tensorrt("10.16", EDGE_FAKE_INSPECTED=answer)
    facts = backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    assert answer[:80] in facts["layers"]["unread"]
    assert backends.describe_engine("tensorrt", {"layers": facts["layers"]}) == [
        f"engine: its layers could not be read: {facts['layers']['unread']}"
    ]
    network = backends.open_built(backend, tmp_path, TARGET, facts)[WHOLE]
    np.testing.assert_allclose(network(images)["scores"], expected(images), atol=1e-5)
    assert network.layers() == facts["layers"]


def test_an_inspector_that_fails_never_costs_the_plan(opened, monkeypatch):
    fake, network = opened("10.3")
    monkeypatch.setattr(fake.tensorrt.EngineInspector, "get_engine_information", lambda *_: b"\xff".decode())
    assert network.layers()["unread"].startswith("UnicodeDecodeError")


# Device arrays and PyCUDA.


class OnDevice:
    """An array that says it lives on the GPU (the fake GPU's memory is the host's)."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 2,
            "strides": None if array.flags.c_contiguous else array.strides,
        }


class ByDLPack:
    """The same by DLPack only."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream):
        assert stream, "a producer must be told which stream waits"
        return self.array.__dlpack__()


def on_host(found):
    """What a device array of floats holds (the fake GPU's memory is the host's)."""
    interface = found.__cuda_array_interface__
    count = int(np.prod(interface["shape"]))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(interface["data"][0])).reshape(interface["shape"]).copy()


@pytest.mark.parametrize("kind", [OnDevice, ByDLPack])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_device_arrays_stay_on_the_device(opened, images, kind, count, expected):
    _, network = opened()
    assert backends.on_device(kind(images))
    found = network.on_device(kind(images[:count]))["scores"]
    assert found.__cuda_array_interface__["shape"] == (count, 16)
    np.testing.assert_allclose(on_host(found), expected(images[:count]), atol=1e-5)


def test_a_device_array_of_another_form_is_refused(opened, images):
    _, network = opened("10.3")
    for wrong in (images.astype(np.float64), images[:, :, ::2], images[0], np.concatenate([images, images])):
        with pytest.raises(EdgeError, match=r"\[infer\]"):
            network.on_device(OnDevice(wrong))


def test_what_lives_on_the_host_is_no_device_array(images):
    torch = pytest.importorskip("torch")
    assert not backends.on_device(images)
    assert not backends.on_device(torch.zeros(1))
    assert arrays._strides((2, 3, 4), 4) == (48, 16, 4)


def test_pycuda_runs_in_the_applications_context_from_any_thread(fake_tensorrt, backend, images, tmp_path, small_graph, expected):
    fake = fake_tensorrt("10.3")
    facts = backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    with pytest.raises(EdgeError, match="no current PyCUDA context"):
        backends.open_built(backend, tmp_path, TARGET, facts, cuda="pycuda")[WHOLE]
    fake.pycuda.Context().push()
    network = backends.open_built(backend, tmp_path, TARGET, facts, cuda="pycuda")[WHOLE]
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: network(images)["scores"], range(2)):
            np.testing.assert_allclose(found, expected(images), atol=1e-5)
    assert network.graphless == ""
    network.close()
    assert len(fake.pycuda._stack()) == 1, "the application's context stack must be as it was"
    with pytest.raises(EdgeError, match="bindings or pycuda"):
        cuda.open_cuda("cupy")


# The plugin.


@pytest.mark.parametrize("version", VERSIONS)
def test_the_plugin_travels_with_the_engine_and_is_registered_first(fake_tensorrt, backend, images, tmp_path, plugin, version, small_graph):
    fake_tensorrt(version)
    assert backend.probe().lowering == ("tensorrt-8" if version == "8.6" else "")
    folder = tmp_path / "bundle"
    folder.mkdir()
    facts = backend.build({WHOLE: small_graph(regions=True)}, TARGET, None, folder)
    assert facts["regions"] == "plugin"
    assert facts["plugin"] == {"file": "engine.plugin.so", "sha256": hashlib.sha256(plugin.read_bytes()).hexdigest()}
    plugin.unlink()  # the bundle has its own
    boxes = backends.open_built(backend, folder, TARGET, facts)[WHOLE](images)["regions"]
    assert boxes.shape == (3, 2, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_without_a_plugin_the_graph_is_lowered_to_standard_nodes(fake_tensorrt, backend, tmp_path, monkeypatch, small_graph):
    fake_tensorrt("10.3")
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", "")
    assert backend.probe().lowering == "standard-nodes"
    assert backends.lowering("tensorrt") == "standard-nodes"
    with pytest.raises(EdgeError, match="needs the plugin library"):
        backend.build({WHOLE: small_graph(regions=True)}, TARGET, None, tmp_path)
    assert not list(tmp_path.glob("engine.*"))


def test_a_library_that_is_no_plugin_is_refused(fake_tensorrt, backend, tmp_path, plugin, small_graph):
    fake_tensorrt("10.3")
    plugin.write_bytes(b"another library")
    with pytest.raises(EdgeError, match="does not provide edge::RoiResize"):
        backend.build({WHOLE: small_graph(regions=True)}, TARGET, None, tmp_path)


def test_an_image_that_the_kernel_cannot_hold_is_refused(fake_tensorrt, backend, tmp_path, plugin, small_graph):
    fake_tensorrt("10.3")
    with pytest.raises(EdgeError, match=r"up to 1024 px, .* 1056 px\. Set EDGE_TENSORRT_PLUGIN= to build with standard nodes"):
        backend.build({WHOLE: small_graph(regions=True, size=1056)}, TARGET, None, tmp_path)
    largest = small_graph(regions=True, size=region_boxes.KERNEL_MAX_SIZE)
    assert backend.build({WHOLE: largest}, TARGET, None, tmp_path)["regions"] == "plugin"


@pytest.mark.parametrize(
    ("value", "reason", "fix"),
    [
        ("/missing.so", "names /missing.so, which is not a file", "docs/jetson.md"),
        ("aot", "needs TensorRT 10.9 or later, and 10.3.0.30 is installed", "docs/jetson.md"),
    ],
)
def test_a_plugin_that_cannot_be_had_is_a_reason_and_no_failure(fake_tensorrt, backend, monkeypatch, value, reason, fix):
    fake_tensorrt("10.3")
    assert backends.automatic() == "tensorrt"
    monkeypatch.setenv("EDGE_TENSORRT_PLUGIN", value)
    support = backend.probe()
    assert reason in support.reason
    assert fix in support.fix
    assert not support.builds
    assert backends.automatic() != "tensorrt"


def test_missing_cuda_bindings_are_named_with_their_fix(fake_tensorrt, backend, monkeypatch):
    fake_tensorrt("10.3")
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, module, None)
    support = backend.probe()
    assert "cuda-bindings cannot be imported" in support.reason
    assert 'pip install "cuda-bindings==' in support.fix


# Builds that fail.


@pytest.mark.parametrize("how", ["kill", "none"])
def test_less_workspace_is_tried_where_a_build_runs_out_of_memory(fake_tensorrt, backend, tmp_path, how, small_graph):
    fake_tensorrt("10.16", EDGE_FAKE_BUILD=f"{how} above {1 << 30}")
    facts = backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    assert facts["workspace"] == int(vendor.LADDER[2] * (4 << 30))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill above 0", "SIGKILL, as for want of memory"),
        ("none above 0", "Could not find any implementation"),
        ("abort", "SIGABRT: terminate called"),
    ],
)
def test_a_build_that_fails_is_one_line(fake_tensorrt, backend, tmp_path, how, words, small_graph):
    fake_tensorrt("11.1", EDGE_FAKE_BUILD=how)
    with pytest.raises(EdgeError, match=words) as refused:
        backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.glob("engine.*")) == []


def test_an_unparsable_graph_is_one_line(fake_tensorrt, backend, tmp_path, plugin, small_graph):
    fake_tensorrt("10.3")
    model = onnx.load_from_string(small_graph(regions=True))
    model.graph.node[-1].op_type = "Unknown"
    with pytest.raises(EdgeError, match="Plugin not found"):
        backend.build({WHOLE: model.SerializeToString()}, TARGET, None, tmp_path)


# What does not fit.


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_engines_of_another_version_or_gpu_are_refused_before_they_are_read(name):
    support = backends.Support(version="10.3", device="Orin", facts={"compute_capability": "8.7"})
    facts = {"profiles": [[1, 1, 1]], "plan_bytes": 1, "machine": {"version": "10.3", "compute_capability": "8.7"}}
    backend = backends.backend(name)
    backend.check_fit(facts, support, "Rebuild it")
    with pytest.raises(EdgeError, match=rf"built with {name} 10\.7, and 10\.3 is installed"):
        backend.check_fit({**facts, "machine": {"version": "10.7"}}, support, "Rebuild it")
    with pytest.raises(EdgeError, match=r"built for compute capability 12\.1, and this GPU \(Orin\) has 8\.7"):
        backend.check_fit({**facts, "compute_capabilities": ["12.1"]}, support, "Rebuild it")


def test_a_damaged_plan_is_refused_with_the_librarys_words(fake_tensorrt, backend, tmp_path, small_graph):
    fake_tensorrt("10.16")
    facts = backend.build({WHOLE: small_graph()}, TARGET, None, tmp_path)
    (tmp_path / "engine.plan").write_bytes(b"damaged")
    facts["plan_bytes"] = len(b"damaged")
    with pytest.raises(EdgeError, match="magicTag does not match"):
        backends.open_built(backend, tmp_path, TARGET, facts)[WHOLE]


def test_tensorrt_8_0_is_too_old(fake_tensorrt, backend):
    fake_tensorrt("10.3", EDGE_FAKE_VERSION="8.0.3")
    assert "older than 8.5" in backend.probe().reason
