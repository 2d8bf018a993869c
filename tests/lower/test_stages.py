"""One graph of two passes becomes two: what each takes, gives and holds, and that together they
compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK, WHOLE
from edge.lower import lower, lower_stages, reference
from edge.lower.stages import parted, stages
from edge.spec import TargetSpec

pytest.importorskip("onnxruntime")
BACKENDS = ("onnxruntime", "openvino", "standard-nodes")


def answers(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    from edge.backends.onnxruntime import Session

    return Session(model.SerializeToString()).run(inputs)


def fused(parts: dict[str, onnx.ModelProto], image: np.ndarray) -> dict[str, np.ndarray]:
    """Both stages, all regions in one call."""
    found = answers(parts[LOOK], image=image)
    batch, regions = found["regions"].shape[:2]
    owner = np.arange(batch, dtype=np.int32).repeat(regions)
    scores = answers(parts[CLOSER], image=image, boxes=found["regions"].reshape(-1, 4), owner=owner)["region_scores"]
    local = scores.reshape(batch, regions, -1).max(1)
    return {**found, "local_scores": local, "scores": np.maximum(found["global_scores"], local)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_stages_compute_what_the_whole_graph_does(canonical, quantised, image, backend, precision):
    model = quantised if precision == "int8" else canonical
    whole = answers(lower(model, backend=backend, precision=precision), image=image)
    parts = {name: lower(part, backend=backend, precision=precision) for name, part in stages(model).items()}
    for part in parts.values():
        onnx.checker.check_model(part, full_check=True)
    found = fused(parts, image)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_inputs_and_outputs_are_those_of_the_contract(canonical):
    parts = stages(canonical)
    names = {stage: ([each.name for each in part.graph.input], [each.name for each in part.graph.output]) for stage, part in parts.items()}
    assert names == {
        LOOK: (["image"], ["global_scores", "regions", "region_classes"]),
        CLOSER: (["image", "boxes", "owner"], ["region_scores"]),
    }
    for part in parts.values():
        onnx.checker.check_model(part, full_check=True)


def test_no_convolution_of_a_stage_shares_its_weight_or_bias(canonical):
    for part in stages(canonical).values():
        read = [name for node in part.graph.node if node.op_type == "Conv" and "classifier" not in node.input[1] for name in node.input[1:]]
        assert len(read) == len(set(read)) > 6


def test_a_graph_of_one_pass_is_one_stage(canonical):
    look = stages(canonical)[LOOK]
    assert stages(look) == {WHOLE: look}


def test_the_graph_is_left_alone(canonical):
    before = canonical.SerializeToString(deterministic=True)
    stages(canonical)
    assert canonical.SerializeToString(deterministic=True) == before


def test_a_second_pass_that_reads_the_first_is_refused(canonical):
    local = next(node for node in canonical.graph.node if node.name == "local/last")
    local.input[2] = "global/last/relu/out"
    with pytest.raises(EdgeError, match="depends on more of the first"):
        stages(canonical)


def test_a_second_pass_with_another_end_is_refused(canonical):
    next(node for node in canonical.graph.node if node.name == "local/strongest").op_type = "ReduceMean"
    with pytest.raises(EdgeError, match="ReduceMean instead of ReduceMax"):
        stages(canonical)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_stages_taken_apart_are_whole_when_joined(canonical, quantised, image, precision):
    model = quantised if precision == "int8" else canonical
    lowered = lower_stages(model, TargetSpec("onnxruntime", precision, reduced_range=False), row="onnxruntime", in_stages=True)
    shared, own = parted(lowered)
    assert sum(map(len, own.values())) + len(shared) < 0.8 * sum(map(len, lowered.values()))
    joined = {name: onnx.load_from_string(shared + data) for name, data in own.items()}
    expected = fused({name: onnx.load_from_string(data) for name, data in lowered.items()}, image)
    for name, value in fused(joined, image).items():
        np.testing.assert_array_equal(value, expected[name])


def test_whole_where_a_backend_takes_no_stages(canonical):
    target = TargetSpec("tensorrt", "fp32")
    lowered = lower_stages(canonical, target, row="tensorrt", in_stages=False)
    assert lowered == {WHOLE: lower(canonical, backend="tensorrt", precision="fp32").SerializeToString(deterministic=True)}
    assert reference(canonical).graph.output
