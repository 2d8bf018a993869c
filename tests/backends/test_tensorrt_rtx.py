"""TensorRT-RTX for real: engines are built here without a GPU, and refused by a machine without one."""

from __future__ import annotations

import pytest

from edge import Engine, backends, doctor
from edge.backends.trt.plan import unpacked_plan
from edge.errors import EdgeError
from edge.spec import TargetSpec

pytest.importorskip("tensorrt_rtx")
BACKEND = backends.backend("tensorrt-rtx")


def test_a_plan_is_packed_and_found_again(small_graph, tmp_path):
    facts = BACKEND.build(small_graph(), TargetSpec("tensorrt-rtx", "fp32", (1, 3)), tmp_path)
    assert facts["profiles"] == [[1, 3, 3]], "one range of batches serves all"
    data = (tmp_path / facts["payload"]).read_bytes()
    plan = unpacked_plan(facts["payload"], data, facts["plan_bytes"])
    assert len(plan) == facts["plan_bytes"] > len(data)
    with pytest.raises(EdgeError, match="damaged"):
        unpacked_plan(facts["payload"], data[:-20], facts["plan_bytes"])


def test_an_unknown_compute_capability_is_refused_with_those_known(small_graph, tmp_path):
    with pytest.raises(EdgeError, match=r"does not know compute capability 8\.7\..*8\.9"):
        BACKEND.build(small_graph(), TargetSpec("tensorrt-rtx", "fp32", (1,)), tmp_path, compute_capabilities=("8.7",))
    assert list(tmp_path.iterdir()) == []


def test_nodes_of_ours_never_reach_it(small_graph, tmp_path):
    # It aborts on plugins: none may be loaded for it.
    with pytest.raises(EdgeError, match=r"tensorrt-rtx takes none.* standard nodes"):
        BACKEND.build(small_graph(regions=True), TargetSpec("tensorrt-rtx", "fp32", (1,)), tmp_path)


@pytest.fixture
def bundle(small_graph, bundled, tmp_path):
    return bundled(tmp_path / "bundle", small_graph("int8"), TargetSpec("tensorrt-rtx", "int8", (1, 3), "fp16"))


@pytest.mark.skipif(backends.probe("tensorrt-rtx").reason == "", reason="a GPU is here")
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
