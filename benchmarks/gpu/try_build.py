"""``python try_build.py GRAPH int8|fp16 PLUGIN``: whether TensorRT 8.6 makes a plan of a graph;
exit code 9 if it refuses.

Runs in a Python that holds the module tensorrt alone. ``try_build.py GRAPH rehearsal`` refuses what
has a planted fault, to rehearse the search.
"""

from __future__ import annotations

import itertools
import sys

FLOAT32 = "float32/"  # how the names of nodes begin that are held in float32


def refused(graph: str, precision: str, plugin: str) -> bool:
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    trt.get_plugin_registry().load_library(plugin)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(graph):
        for index in range(parser.num_errors):
            print(parser.get_error(index).desc(), file=sys.stderr)
        return True
    config = builder.create_builder_config()
    config.builder_optimization_level = 0
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        hold_in_float32(trt, network.get_layer(index))
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shape = [1 if size < 0 else size for size in given.shape]
        profile.set_shape(given.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is None


def hold_in_float32(trt, layer) -> None:  # type: ignore[no-untyped-def]
    kinds = trt.LayerType
    if not layer.name.startswith(FLOAT32) or layer.type in (kinds.SHAPE, kinds.CONSTANT, kinds.PLUGIN_V2):
        return
    if layer.get_output(0).dtype == trt.float32:
        layer.precision = trt.float32
        for index in range(layer.num_outputs):
            if layer.get_output(index).dtype == trt.float32:
                layer.set_output_type(index, trt.float32)


def refused_in_rehearsal(graph: str) -> bool:
    """A planted fault: a convolution, then its activation."""
    import onnx

    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    return any(pair in (("Conv", "Relu"), ("Conv", "Clip")) for pair in itertools.pairwise(kinds))


def main() -> int:
    graph, precision, *plugin = sys.argv[1:]
    return 9 if (refused_in_rehearsal(graph) if precision == "rehearsal" else refused(graph, precision, plugin[0])) else 0


if __name__ == "__main__":
    sys.exit(main())
