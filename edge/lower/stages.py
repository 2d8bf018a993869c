"""One graph of two passes → its two stages: *look* finds the regions, *closer* recognises what is
in them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from edge.errors import EdgeError
from edge.graph import BOXES, CLOSER, INPUT, LOOK, OWNER, REGION_SCORES, WHOLE, cut
from edge.ops import DOMAIN, roi_resize

LOOK_OUTPUTS = ("global_scores", "regions", "region_classes")
REGIONS = "regions"  # the symbolic size R


def stages(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """The stages of a canonical graph, by name; ``model`` is not changed.

    1. A graph without a RoiResize is one stage, ``WHOLE``.
    2. *look* is what leads to ``global_scores``, ``regions`` and ``region_classes``.
    3. *closer* begins at the RoiResize, which gets the inputs ``boxes`` (R, 4) and ``owner`` (R); R
       is left open.
    4. It ends before the maximum over an image's regions: the sigmoid of what that reads, (R, C),
       is ``region_scores``.
    5. Both hold what they read and nothing else. A weight that both read is in both: no convolution
       shares one any more, so that runtimes may pack it and fuse into it as they like.
    """
    crops = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type == roi_resize.NAME]
    if not crops:  # 1
        return {WHOLE: model}
    look = cut(model, model.graph.input, [value for value in model.graph.output if value.name in LOOK_OUTPUTS])  # 2

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for node in whole.graph.node:
        if node.name == crops[0].name:  # 3
            node.input[:] = [node.input[0], BOXES, OWNER]
    logits, classes = _region_logits(whole.graph)
    flat = f"{logits}/flat"
    whole.graph.node.extend(
        [
            helper.make_node("Flatten", [logits], [flat], name=flat, axis=1),
            helper.make_node("Sigmoid", [flat], [REGION_SCORES], name=f"{logits}/{REGION_SCORES}"),  # 4
        ]
    )
    boxes = helper.make_tensor_value_info(BOXES, TensorProto.FLOAT, [REGIONS, 4])
    owner = helper.make_tensor_value_info(OWNER, TensorProto.INT32, [REGIONS])
    scores = helper.make_tensor_value_info(REGION_SCORES, TensorProto.FLOAT, [REGIONS, classes])
    closer = cut(whole, [*model.graph.input, boxes, owner], [scores])
    if [node.name for node in closer.graph.node if INPUT in node.input] != [crops[0].name]:
        raise EdgeError("lower", "The second pass depends on more of the first than its boxes", "Export the model again")
    return {LOOK: look, CLOSER: closer}


def parted(lowered: Mapping[str, bytes]) -> tuple[bytes, dict[str, bytes]]:
    """Serialised stages taken apart: the constants that both hold, and each stage without them.

    Either stage is whole again when its bytes are put behind those of the constants: protobuf
    merges what it reads in turn.
    """
    models = {stage: onnx.load_from_string(data) for stage, data in lowered.items()}
    in_look = {each.name: each.SerializeToString(deterministic=True) for each in models[LOOK].graph.initializer}
    both = onnx.ModelProto()
    both.graph.initializer.extend(
        each for each in models[CLOSER].graph.initializer if in_look.get(each.name) == each.SerializeToString(deterministic=True)
    )
    shared = {each.name for each in both.graph.initializer}
    for model in models.values():
        own = [each for each in model.graph.initializer if each.name not in shared]
        del model.graph.initializer[:]
        model.graph.initializer.extend(own)
    return both.SerializeToString(deterministic=True), {
        stage: model.SerializeToString(deterministic=True) for stage, model in models.items()
    }


def _region_logits(graph: onnx.GraphProto) -> tuple[str, int]:
    """The value (R, C, …) from which ``local_scores`` take the maximum over an image's regions, and
    C."""
    source = {name: node for node in graph.node for name in node.output}
    value = next(output for output in graph.output if output.name == "local_scores")
    name = value.name
    for op_type in ("Sigmoid", "ReduceMax", "Reshape"):
        node = source.get(name)
        if node is None or node.op_type != op_type:
            found = "nothing" if node is None else node.op_type
            raise EdgeError("lower", f"The scores of the second pass end in {found} instead of {op_type}", "Export the model again")
        name = node.input[0]
    return name, value.type.tensor_type.shape.dim[1].dim_value
