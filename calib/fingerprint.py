"""What a calibration table belongs to: the function whose activations were observed, not the file
that held it."""

from __future__ import annotations

import onnx
from onnx import defs, helper, numpy_helper

from edge.graph import OPSET, Graph
from edge.lower.backbone import WEIGHTED, convolutions, observed
from edge.manifest import digest_bytes, digest_json
from edge.ops import DOMAIN
from edge.spec import to_plain

# Attributes that may be written out or left out: what they say then follows from elsewhere.
IMPLIED = {"auto_pad": {b"NOTSET"}, "dilations": {1}, "strides": {1}, "pads": {0}}
PLUGIN = frozenset({"plugin_namespace", "plugin_version"})


def fingerprint(graph: Graph) -> str:
    """SHA-256 that graphs share of which the same tensors under the same names have the same
    values.

    1. Every observed tensor is named with all it is computed from: operators, attributes, bytes of
       the constants, back to the image. Order and names of nodes, names of constants, value types
       and defaults written out play no part: they differ between versions of an exporter.
    2. How the boxes are found from the feature maps is told by attributes, options and weights of
       the classifiers rather than node by node: exporters spell it differently, and it decides only
       which crops are seen.
    3. Size and normalisation of the image, architecture and options stand beside it; class names do
       not.
    """
    model = graph.parse()
    constants = {each.name: _constant(each) for each in model.graph.initializer}
    values = constants | {each.name: digest_json(["input", each.name]) for each in model.graph.input}
    for node in model.graph.node:
        inputs = [] if (node.domain, node.op_type) == (DOMAIN, "RegionBoxes") else [values.get(name, "") for name in node.input]  # 2
        for index, name in enumerate(node.output):
            values[name] = digest_json([node.domain, node.op_type, _attributes(node), inputs, index])
    backbone = {node.name for node in convolutions(model)}
    heads = {
        constants[name]
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.name not in backbone
        for name in node.input
        if name in constants
    }
    return digest_json(
        {
            "image": to_plain(graph.image),
            "model": [graph.model.name, dict(graph.model.options)],
            "observed": {name: values[name] for name in observed(model)},
            "heads": sorted(heads),
        }
    )


def _constant(tensor: onnx.TensorProto) -> str:
    """Type, shape and bytes; axes of length 1 do not count, an exporter may add them to a
    scalar."""
    array = numpy_helper.to_array(tensor)
    return digest_json([str(array.dtype), [side for side in array.shape if side != 1], digest_bytes(array.tobytes())])


def _attributes(node: onnx.NodeProto) -> list[list[str]]:
    """Name and content of what is not implied, sorted."""
    known = defs.get_schema(node.op_type, OPSET, node.domain).attributes if node.domain == "" else {}
    found = []
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        each = set(value) if isinstance(value, list) else {value} if isinstance(value, bytes) else None
        default = known[attribute.name].default_value if attribute.name in known else None
        if attribute.name in PLUGIN or (attribute.name in IMPLIED and each == IMPLIED[attribute.name]):
            continue
        if node.op_type == "Conv" and attribute.name == "kernel_shape":  # the shape of the weights
            continue
        if default is not None and default.name and helper.get_attribute_value(default) == value:
            continue
        bare = onnx.AttributeProto()
        bare.CopyFrom(attribute)
        bare.doc_string = ""
        found.append([attribute.name, bare.SerializeToString(deterministic=True).hex()])
    return sorted(found)
