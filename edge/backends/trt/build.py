"""The process a plan is built in: the request and the graph come by standard input, the last line
of output is the answer."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from edge import cache
from edge.atomic import write_atomically
from edge.backends.base import Facts, Native
from edge.backends.trt import PROVIDES, aot, cuda
from edge.backends.trt.child import MARK, Answer, Request
from edge.backends.trt.layers import read_layers
from edge.backends.trt.plan import packed_plan, quiet_logger, unpacked_plan
from edge.backends.trt.plugin import PLUGIN_VARIABLE, Route, register_plugin
from edge.backends.trt.vendor import LEVEL, Vendor, is_version_8
from edge.errors import EdgeError, one_of
from edge.graph import BOXES, FLOAT32_PREFIX, INPUT
from edge.manifest import digest_json
from edge.ops.region_boxes import KERNEL_MAX_SIZE


def main() -> int:
    request = Request(**json.loads(sys.stdin.buffer.readline()))
    lowered = sys.stdin.buffer.read(request.size)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        facts = build_plan(PROVIDES[request.backend], request, lowered)
        say(Answer(facts))  # already: what follows may end this process, and is not worth the plan
        answer = Answer({**facts, "layers": inspect(PROVIDES[request.backend], request, facts)})
    except EdgeError as error:
        answer = Answer(error=(error.stage, error.problem, error.fix), again=isinstance(error, _NoPlan))
    except OSError as error:
        answer = Answer(error=("backend", f"Cannot write the plan: {error}", "Free some space on the disk"))
    except Exception as error:  # what a vendor's library may raise is in no documentation
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        answer = Answer(error=("backend", f"Building the plan ended with {words}", "Report the graph with these words"))
    say(answer)
    # Not through the interpreter's exit: a library that fails while it unloads must not spoil a
    # good plan.
    os._exit(0)


# Kinds of layers that compute nothing in floats, or choose their own types.
UNTYPED = frozenset({"CONSTANT", "SHAPE", "PLUGIN", "PLUGIN_V2"})
# Libraries whose kernels TensorRT 8 may use besides its own, by tactic source; one of each will do.
LIBRARIES = {
    "CUBLAS": ("libcublas.so.12", "libcublas.so.11"),
    "CUBLAS_LT": ("libcublasLt.so.12", "libcublasLt.so.11"),
    "CUDNN": ("libcudnn.so.8",),
}


def say(answer: Answer) -> None:
    """The last answer counts."""
    print("\n" + MARK + json.dumps(asdict(answer)), flush=True)


class _NoPlan(EdgeError):
    """The builder gave up; less workspace may help."""


def build_plan(vendor: Vendor, request: Request, lowered: bytes) -> Facts:
    """Parse, build and write the plan of one stage; returns facts for the manifest."""
    trt = vendor.load()
    logger = quiet_logger(trt)
    device, *_ = cuda.present()
    builder = trt.Builder(logger)
    folder, route = Path(request.folder), Route(request.route)
    if route is Route.LIBRARY:  # before parsing: the parser looks its nodes up there
        register_plugin(trt.get_plugin_registry(), folder / request.plugin)
    elif route is Route.AHEAD_OF_TIME:
        aot.register(trt, aot.compile_kernels(device.compute_capability if device else (8, 0)))
    network, parser = _parse(trt, builder, logger, lowered)
    inputs = {each.name: tuple(each.shape)[1:] for each in map(network.get_input, range(network.num_inputs))}
    size = inputs[INPUT][-1]
    if route is not Route.NONE and size > KERNEL_MAX_SIZE:
        raise EdgeError(
            "backend",
            f"The kernel that finds boxes supports images up to {KERNEL_MAX_SIZE} px, and this model has {size} px",
            f"Set {PLUGIN_VARIABLE}= to build with standard nodes, or use a smaller `size`",
        )
    config = builder.create_builder_config()
    if hasattr(config, "builder_optimization_level"):  # TensorRT 8.5 lacks it
        config.builder_optimization_level = LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # Products of 10-bit mantissas would move boxes; what shall be quicker than float32 is typed so
    # in the graph.
    config.clear_flag(trt.BuilderFlag.TF32)
    workspace = int(request.share * _free_memory(device)) if request.share and device else 0
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    features = getattr(trt, "PreviewFeature", None)
    if hasattr(features, "PROFILE_SHARING_0806"):
        # As later versions always have it: threads that call at once have a context each, for the
        # same sizes.
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    weak = not _typed_by_graph(trt)
    constraints = None
    if weak:
        leave_out_missing_libraries(trt, config)
        constraints = _choose_types(trt, config, network, request.precision)
    _set_compute_capabilities(trt, config, request.compute_capabilities)
    for counts in request.profiles:
        profile = builder.create_optimization_profile()
        for name, shape in inputs.items():
            of_images = name == INPUT and BOXES in inputs
            profile.set_shape(name, *((count, *shape) for count in (request.images if of_images else counts)))
        config.add_optimization_profile(profile)

    machine = {"version": str(trt.__version__), **(device.plain() if device else {})}
    # Timings hold for this GPU and these versions only; without a GPU nothing is timed.
    timings = None if vendor.for_other_gpus else cache.folder("timings") / f"{digest_json(machine)[:24]}.cache"
    if timings is not None:
        known = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
        config.set_timing_cache(known, ignore_mismatch=False)

    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None and constraints:
        config.clear_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        plan, constraints = builder.build_serialized_network(network, config), "preferred"
    del parser  # and not before
    if plan is None:
        raise _NoPlan(
            "backend",
            f"{vendor.name} could not build a plan: {logger.said or 'no reason given'}",
            "Close other programs, or build with a smaller `batch`; otherwise report the graph",
        )
    (folder / request.payload).write_bytes(packed_plan(request.payload, bytes(plan)))
    if timings is not None:
        with suppress(EdgeError, OSError):  # timings that cannot be kept cost the next build time only
            write_atomically(timings, bytes(config.get_timing_cache().serialize()))
    return {
        "machine": machine,
        "typing": "weak" if weak else "strong",
        "constraints": constraints,
        "workspace": workspace,
        "seconds": round(time.perf_counter() - start, 1),
        "network": describe(network),
        "plan_bytes": len(bytes(plan)),
        "layers": None,
    }


def inspect(vendor: Vendor, request: Request, facts: Facts) -> Facts | None:
    """What the plan is made of; None on a machine that could not run it."""
    device, *_ = cuda.present()
    if device is None:
        return None
    trt = vendor.load()
    data = (Path(request.folder) / request.payload).read_bytes()
    runtime = trt.Runtime(quiet_logger(trt))  # must outlive the engine
    engine = runtime.deserialize_cuda_engine(unpacked_plan(request.payload, data, facts["plan_bytes"]))
    return read_layers(trt, engine).plain() if engine else None


def describe(network: Native) -> Facts:
    """What the parser made of the graph: layers by kind, first outputs by type, and how many
    convolutions compute in int8."""
    kinds: Counter[str] = Counter()
    types: Counter[str] = Counter()
    dequantised: set[str] = set()
    convolutions = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        kinds[layer.type.name] += 1
        types[output.dtype.name] += 1
        if layer.type.name == "DEQUANTIZE":
            dequantised.add(output.name)
        elif layer.type.name == "CONVOLUTION":
            convolutions.append(layer.get_input(0).name)
    return {
        "layers": network.num_layers,
        "kinds": dict(sorted(kinds.items())),
        "types": dict(sorted(types.items())),
        "convolutions": len(convolutions),
        "int8_convolutions": sum(name in dequantised for name in convolutions),
    }


def _parse(trt: Native, builder: Native, logger: Native, lowered: bytes) -> tuple[Native, Native]:
    """The network and its parser, which holds its weights: it must live until the plan is built."""
    kinds = trt.NetworkDefinitionCreationFlag.__members__
    # TensorRT 8 has to be told that the batch is a dimension, TensorRT 10 that types are the
    # graph's; 11 has no other networks.
    kind = kinds.get("STRONGLY_TYPED", None if _typed_by_graph(trt) else kinds.get("EXPLICIT_BATCH"))
    network = builder.create_network(0 if kind is None else 1 << int(kind))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(lowered):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        said = " ".join(errors.split())[:300] or "it does not say why"
        raise EdgeError("backend", f"The parser refuses the graph: {said}", "Report the graph, or use another `backend`")
    return network, parser


def leave_out_missing_libraries(trt: Native, config: Native) -> None:
    """Take no kernels from libraries that are not installed: they would fail the build."""
    sources = config.get_tactic_sources()
    for source, names in LIBRARIES.items():
        if not any(map(_loads, names)):
            sources &= ~(1 << int(trt.TacticSource.__members__[source]))
    config.set_tactic_sources(sources)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _typed_by_graph(trt: Native) -> bool:
    """Whether types are those of the graph; TensorRT 8 chooses them itself, as flags and
    constraints allow."""
    return not is_version_8(str(trt.__version__))


def _choose_types(trt: Native, config: Native, network: Native, precision: str) -> str | None:
    """Let TensorRT 8 choose: 16 bits, and 8 between Q and DQ, for all but what the graph names
    ``float32/``.

    Returns:
        ``obeyed``, for these names are constraints; None where there are none.
    """
    if precision == "fp32":
        return None
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    constraints = None
    for layer in map(network.get_layer, range(network.num_layers)):
        floats = [index for index in range(layer.num_outputs) if layer.get_output(index).dtype == trt.DataType.FLOAT]
        if layer.name.startswith(FLOAT32_PREFIX) and floats and layer.type.name not in UNTYPED:
            constraints = "obeyed"
            layer.precision = trt.DataType.FLOAT
            for index in floats:
                layer.set_output_type(index, trt.DataType.FLOAT)
    if constraints:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return constraints


def _set_compute_capabilities(trt: Native, config: Native, wanted: list[str]) -> None:
    """For TensorRT-RTX: the GPUs the engine shall run on, as ``8.9``; none given means all it
    knows."""
    if not wanted:
        return
    known = {f"{name[2:-1]}.{name[-1]}": each for name, each in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    unknown = [each for each in wanted if each not in known]
    if unknown:
        problem = f"TensorRT-RTX does not know compute capability {', '.join(unknown)}"
        raise EdgeError("backend", problem, f"Change `compute_capability` to {one_of(known)}")
    config.num_compute_capabilities = len(wanted)
    for index, each in enumerate(wanted):
        config.set_compute_capability(known[each], index)


def _free_memory(device: cuda.Device) -> int:
    """Bytes a build may count on."""
    if device.integrated:  # CUDA does not count what the kernel would give back
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return cuda.Bindings().free_memory()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
