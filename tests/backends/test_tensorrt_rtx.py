"""TensorRT-RTX for real: engines are built here without a GPU, and refused by a machine without one."""

from __future__ import annotations

import pytest

from edge import Engine, backends, doctor
from edge.backends.trt.plan import unpacked_plan
from edge.bundle import Bundle, write_bundle
from edge.errors import EdgeError
from edge.graph import Graph
from edge.spec import ImageSpec, ModelSpec, TargetSpec

pytest.importorskip("tensorrt_rtx")
BACKEND = backends.backend("tensorrt-rtx")
without_gpu = pytest.mark.skipif(backends.probe("tensorrt-rtx").reason == "", reason="a GPU is here")


@pytest.fixture(scope="module")
def built(small_graph, tmp_path_factory):
    """Precision → (folder, facts) of the small graph."""
    made = {}
    for precision in ("fp32", "fp16", "int8"):
        folder = tmp_path_factory.mktemp(precision)
        made[precision] = folder, BACKEND.build(small_graph(precision), TargetSpec("tensorrt-rtx", precision, (1, 3)), folder)
    return made


def test_every_precision_is_parsed_as_it_was_typed(built):
    types = {precision: facts["network"]["types"] for precision, (_, facts) in built.items()}
    assert "HALF" not in types["fp32"]
    assert types["fp16"]["HALF"] >= 2
    assert types["int8"]["INT8"] >= 1
    assert {precision: facts["network"]["int8_convolutions"] for precision, (_, facts) in built.items()} == {
        "fp32": 0,
        "fp16": 0,
        "int8": 1,
    }


def test_one_range_of_batches_serves_all(built):
    assert built["fp32"][1]["profiles"] == [[1, 3, 3]]


def test_a_plan_is_packed_and_found_again(built):
    folder, facts = built["fp32"]
    packed = folder / facts["payload"]
    data = packed.read_bytes()
    plan = unpacked_plan(packed.name, data, facts["plan_bytes"])
    assert len(plan) == facts["plan_bytes"] > len(data)
    with pytest.raises(EdgeError, match="damaged"):
        unpacked_plan(packed.name, data[:-20], facts["plan_bytes"])


def test_an_unknown_compute_capability_is_refused_with_those_known(small_graph, tmp_path):
    with pytest.raises(EdgeError, match=r"does not know compute capability 8\.7\..*8\.9"):
        BACKEND.build(small_graph(), TargetSpec("tensorrt-rtx", "fp32", (1,)), tmp_path, compute_capabilities=("8.7",))
    assert list(tmp_path.iterdir()) == []


def test_nodes_of_ours_never_reach_it(small_graph, tmp_path):
    # It aborts on plugins: none may be loaded for it.
    with pytest.raises(EdgeError, match=r"tensorrt-rtx takes none.* standard nodes"):
        BACKEND.build(small_graph(regions=True), TargetSpec("tensorrt-rtx", "fp32", (1,)), tmp_path)


@pytest.fixture
def bundle(small_graph, tmp_path):
    graph = Graph(small_graph("int8"), ModelSpec("mcar-mobilenetv2", tuple("abcdefghijklmnop")), ImageSpec(32))
    return write_bundle(
        tmp_path / "bundle",
        graph=graph,
        reference=graph.proto,
        lowered=graph.proto,
        target=TargetSpec("tensorrt-rtx", "int8", (1, 3), "fp16"),
        build_engine=BACKEND.build,
        facts={},
    )


@without_gpu
def test_loading_without_a_gpu_is_refused_in_one_line(bundle):
    with pytest.raises(EdgeError, match="no GPU answers") as refused:
        Engine.load(bundle.path)
    assert "\n" not in str(refused.value)


@without_gpu
def test_the_doctor_says_that_an_engine_built_without_a_gpu_was_never_tried(bundle, capsys):
    assert doctor.main(doctor.arguments().parse_args([str(bundle.path)])) == 1
    said, refused = capsys.readouterr()
    assert "built on a machine without a GPU and never run there: try it where it shall run" in said
    assert "no GPU answers" in refused


def test_each_damaged_file_of_a_bundle_is_refused(bundle):
    for path in sorted(bundle.path.iterdir()):
        whole = path.read_bytes()
        for damage in (whole[:-3], whole[: len(whole) // 2] + b"\x00" + whole[len(whole) // 2 + 1 :] + b"x", b""):
            path.write_bytes(damage)
            with pytest.raises(EdgeError) as refused:
                Engine.load(bundle.path)
            assert "GPU" not in str(refused.value), f"{path.name} was not looked at"
        path.write_bytes(whole)


def test_the_version_must_be_the_one_that_built_it(bundle):
    support = backends.probe("tensorrt-rtx")
    facts = dict(bundle.manifest["engine"])
    BACKEND.check_fit(facts, support, "Rebuild it")
    facts["machine"] = {"version": "1.0.0"}
    with pytest.raises(EdgeError, match=r"built with tensorrt-rtx 1\.0\.0"):
        BACKEND.check_fit(facts, support, "Rebuild it")
    facts |= {"machine": {"version": support.version}, "compute_capabilities": ["12.1"]}
    with pytest.raises(EdgeError, match=r"built for compute capability 12\.1"):
        BACKEND.check_fit(facts, support, "Rebuild it")


def test_what_the_fake_of_tensorrt_plays_is_here_under_the_same_names(fake_tensorrt):
    # The runner is one for both libraries, and cannot run here: at least no name it uses may be missing.
    import tensorrt_rtx as real

    fake = fake_tensorrt("11.1").tensorrt
    played = [(kind, name) for kind in fake.SURFACE["classes"] for name in vars(getattr(fake, kind, object)) if not name.startswith("_")]
    assert len(played) >= 40
    assert [f"{kind}.{name}" for kind, name in played if not hasattr(getattr(real, kind), name)] == []


def test_sizes_fall_with_the_precision(small_bundle):
    # 2.2 million weights beside some two hundred kernels as packed text.
    sizes = {precision: Bundle.read(small_bundle("tensorrt-rtx", precision)).bytes for precision in ("fp32", "fp16", "int8")}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]
