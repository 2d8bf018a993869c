"""TensorRT-RTX for real: engines are built here without a GPU, and refused by a machine without
one."""

from __future__ import annotations

import pytest

from edge import Engine, backends, doctor
from edge.backends.trt.plan import unpacked_plan
from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK, WHOLE
from edge.spec import StagesSpec, TargetSpec

pytest.importorskip("tensorrt_rtx")
BACKEND = backends.backend("tensorrt-rtx")


def test_a_plan_is_packed_and_found_again(small_graph, tmp_path):
    facts = BACKEND.build({WHOLE: small_graph()}, TargetSpec("tensorrt-rtx", "fp32", (1, 3)), None, tmp_path)
    assert facts["profiles"] == [[1, 3, 3]], "one range of batches serves all"
    data = (tmp_path / facts["payload"]).read_bytes()
    plan = unpacked_plan(facts["payload"], data, facts["plan_bytes"])
    assert len(plan) == facts["plan_bytes"] > len(data)
    with pytest.raises(EdgeError, match="damaged"):
        unpacked_plan(facts["payload"], data[:-20], facts["plan_bytes"])


def test_both_stages_are_parsed_and_built_with_any_number_of_images_and_regions(staged, tmp_path):
    for precision, float16 in (("fp32", None), ("int8", "fp16")):
        bundle = staged(tmp_path / precision, TargetSpec("tensorrt-rtx", precision, (1, 3), float16))
        assert bundle.stages == StagesSpec((1, 2, 4, 6))
        facts = bundle.manifest["engine"]
        assert {path.name for path in bundle.path.glob("engine.*")} == {"engine.look.plan.z", "engine.closer.plan.z"}
        for stage, profiles in ((LOOK, [[1, 3, 3]]), (CLOSER, [[1, 6, 6]])):
            own = facts["stages"][stage]
            assert own["profiles"] == profiles
            assert own["network"]["convolutions"] > 4
            assert bool(own["network"]["int8_convolutions"]) == (precision == "int8")
            assert len(unpacked_plan(own["payload"], (bundle.path / own["payload"]).read_bytes(), own["plan_bytes"])) == own["plan_bytes"]
        assert "MATRIX_MULTIPLY" in facts["stages"][CLOSER]["network"]["kinds"]
        for stage in (LOOK, CLOSER):
            assert not {"GRID_SAMPLE", "PLUGIN_V3"} & set(facts["stages"][stage]["network"]["kinds"])
        if BACKEND.probe().reason:
            with pytest.raises(EdgeError, match="no GPU answers"):
                Engine.load(bundle.path)


def test_an_unknown_compute_capability_is_refused_with_those_known(small_graph, tmp_path):
    with pytest.raises(EdgeError, match=r"does not know compute capability 8\.7\..*8\.9"):
        BACKEND.build({WHOLE: small_graph()}, TargetSpec("tensorrt-rtx", "fp32", (1,)), None, tmp_path, compute_capabilities=("8.7",))
    assert list(tmp_path.iterdir()) == []


def test_nodes_of_ours_never_reach_it(small_graph, tmp_path):
    # It aborts on plugins: none may be loaded for it.
    with pytest.raises(EdgeError, match=r"tensorrt-rtx does not support.* standard nodes"):
        BACKEND.build({WHOLE: small_graph(regions=True)}, TargetSpec("tensorrt-rtx", "fp32", (1,)), None, tmp_path)


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
