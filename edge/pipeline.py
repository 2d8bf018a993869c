"""Build a bundle from weights, or rebuild one for this machine: the API behind ``edge.build``.

from edge.pipeline import BuildOptions, build
bundle = build(BuildOptions(weights="mine.pth", dataset="csv:photos", output="engines/mine"))
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge import adaptive, backends, cpu
from edge.backends.base import UNBUILT, Facts, powers_of_two
from edge.bundle import CALIBRATION, REFERENCE, BuildEngine, Bundle, write_bundle
from edge.engine import Engine
from edge.errors import EdgeError, one_of
from edge.events import SILENT, Events
from edge.graph import Graph
from edge.manifest import check_replaceable
from edge.options import AUTO, BATCH, READ_BY_REBUILD, BuildOptions, check_size, refuse_unread
from edge.packages import check_host_packages
from edge.quantisation import Quantised, check_gate, quantise
from edge.spec import INPUTS, ImageSpec, TargetSpec

if TYPE_CHECKING:
    from edge.models.source import Source
    from export import Parity

__all__ = ["BuildOptions", "build", "rebuild"]

ENGINES = Path("engines")
TENSORRT = "tensorrt"  # the backend that builds where its engines run
# What a rebuild has no means to find out again.
KEPT = (
    *("weights", "trained", "held_out", "effort", "default_dataset", "parity", "calibration", "equalisation", "sensitivity", "thresholds"),
    *("reference", "tuned"),
)


def build(options: BuildOptions, *, events: Events = SILENT, decide: adaptive.Decide = adaptive.decide) -> Bundle:
    """Weights → graph → int8 graph → what the backend parses → bundle.

    Args:
        options: what to build.
        events: receives findings, warnings and progress.
        decide: what the finished engine adds to the manifest, such as its effort.
    Raises:
        EdgeError: the bundle cannot be built, or not on this machine; nothing is left behind. Its
            subclass ``GateError``: ``max_map_drop`` is exceeded.
    """
    backend, support = _backend(options)
    target = _target(backend, options.precision, BATCH if options.batch is None else options.batch, support)
    build_engine = _engine_builder(backend, options)
    check_host_packages()
    source = _open(options, events)
    output = Path(options.output or ENGINES / f"{source.title}-{source.image.size}-{options.precision}-{backend}")
    check_replaceable(output, replace=options.force)
    check_gate(source, options)
    origin = adaptive.Origin.of_source(source)
    adaptive.check_effort(origin, options)
    _describe(source, events)

    exported = _export(source, events)
    final = Quantised(exported.graph, {}, {})
    if target.precision == "int8":
        final = quantise(exported.graph, source, target, options, events)
    lowering = backends.lowering(backend, support)
    image = replace(source.image, input=options.input or INPUTS[0])
    lowered = backends.lowered(final.graph, target, lowering, image=image)
    stages = backends.stages_of(backends.backend(backend), lowered, final.graph.model, target)
    adaptive.check_stages(stages, options)
    return write_bundle(
        output,
        graph=final.graph,
        image=image,
        reference=exported.reference,
        lowered=lowered,
        target=target,
        stages=stages,
        build_engine=build_engine,
        facts={
            **_origin(source),
            "held_out": origin.held_out,
            "parity": exported.parity.plain(),
            "lowering": lowering,
            **final.facts,
            **_provenance(backend, support, options),
        },
        extra_files=final.files,
        check=partial(_finish, origin=origin, options=options, events=events, decide=decide),
        replace=options.force,
    )


def rebuild(source: Bundle | Path | str, options: BuildOptions | None = None, *, events: Events = SILENT) -> Bundle:
    """Build the graph of a bundle again, for this machine; needs neither torch nor images.

    Args:
        source: the bundle; model, precision and calibration stay as they are.
        options: ``backend``, ``batch``, ``input``, ``compute_capability``, ``effort`` with
            ``max_effort_drop`` and ``dataset``, ``output`` and ``force`` apply; any other option
            that is set is refused.
        events: receives warnings.
    """
    options = BuildOptions() if options is None else options
    keep = f"in a rebuild, which reads {one_of(f'`{name}`' for name in READ_BY_REBUILD)}"
    refuse_unread(options.given - set(READ_BY_REBUILD), keep, "build from the weights")
    if options.effort is None:
        refuse_unread(options.given & {"dataset", "max_effort_drop"}, "in a rebuild without `effort`", "set `effort` to auto")
    old = source if isinstance(source, Bundle) else Bundle.read(source)
    old.verify()
    origin = adaptive.Origin.of_bundle(old)
    adaptive.check_effort(origin, options)
    backend, support = _backend(options, usual=old.target.backend)
    target = _target(backend, old.target.precision, old.target.max_batch if options.batch is None else options.batch, support)
    output = Path(options.output or old.path)
    check_replaceable(output, replace=options.force)
    lowering = backends.lowering(backend, support)
    image = replace(old.image, input=options.input or old.image.input)
    before = (backends.lowering_of(old.manifest), old.target.float16, old.target.reduced_range, old.image)
    same = (lowering, target.float16, target.reduced_range, image) == before
    lowered = old.lowered() if same else _lowered_anew(old, target, lowering, image)
    stages = backends.stages_of(backends.backend(backend), lowered, old.model, target)
    adaptive.check_stages(stages, options)
    return write_bundle(
        output,
        graph=old.graph(),
        image=image,
        reference=old.read_file(REFERENCE),
        lowered=lowered,
        target=target,
        stages=adaptive.kept(stages, old),
        build_engine=_engine_builder(backend, options),
        facts={
            **{name: old.manifest[name] for name in KEPT if name in old.manifest},
            "lowering": lowering,
            **_provenance(backend, support, options),
        },
        extra_files={name: old.read_file(name) for name in (CALIBRATION,) if name in old.manifest["files"]},
        check=partial(_finish, origin=origin, options=options, events=events, decide=adaptive.decide),
        replace=options.force,
    )


# What an engine is for.


def _backend(options: BuildOptions, usual: str | None = None) -> tuple[str, backends.Support]:
    """The backend and its capabilities, here or on the device that will build the engine."""
    if options.tensorrt is not None:
        return TENSORRT, backends.backend(TENSORRT).support_of(options.tensorrt)
    name = (usual or backends.automatic(options.precision)) if options.backend == AUTO else options.backend
    return name, backends.require(name, building=True)


def _target(backend: str, precision: str, batch: int, support: backends.Support) -> TargetSpec:
    float16 = {"fp16": support.float16, "int8": support.int8_float16}.get(precision)
    if precision == "fp16" and float16 is None:
        raise EdgeError(
            "build",
            f"{backend} has no 16-bit float on {support.device or 'this machine'}",
            "Set `precision` to fp32 or int8, or use another `backend`",
        )
    if precision == "int8" and support.no_int8:
        raise EdgeError(
            "build",
            f"{backend} cannot make int8 engines here: {support.no_int8}",
            "Set `backend` to onnxruntime, or `precision` to fp32 or fp16",
        )
    reduced_range = support.reduced_range if precision == "int8" else None
    return TargetSpec(backend, precision, powers_of_two(batch), float16, reduced_range)


def _engine_builder(backend: str, options: BuildOptions) -> BuildEngine:
    """The backend's ``build``, with what the options add to it."""
    if options.tensorrt is not None:
        facts = {UNBUILT: options.tensorrt}
        return lambda *_: facts
    build_engine = backends.backend(backend).build
    if not options.compute_capability:
        return build_engine
    if not backends.backend(backend).for_other_gpus:
        raise EdgeError(
            "build", f"`compute_capability` has no effect with `backend` {backend}", "Leave it out, or set `backend` to tensorrt-rtx"
        )
    return partial(build_engine, compute_capabilities=options.compute_capability)


# Weights → graph → what the backend parses.


@dataclass(frozen=True)
class _Exported:
    graph: Graph
    reference: bytes
    parity: Parity


def _open(options: BuildOptions, events: Events) -> Source:
    """The network, its weights and what describes them."""
    from edge.models.source import open_source

    source = open_source(
        options.weights,
        model=options.model,
        labels=Path(options.labels) if options.labels else None,
        size=options.size,
        options={name: vars(options)[name] for name in ("pooling", "regions", "threshold") if vars(options)[name] is not None},
        seed=options.seed,
    )
    check_size(source.image.size)
    return source


def _describe(source: Source, events: Events) -> None:
    values = ", ".join(f"{name} {value}" for name, value in source.model.options.items())
    events.say("model", f"{source.model.name}, {len(source.model.labels)} classes, {source.image.size} px; {values}")
    events.say("weights", f"{source.title} (sha256 {source.digest[:12]}…)")
    for warning in source.warnings:
        events.warn(warning)


def _export(source: Source, events: Events) -> _Exported:
    """The canonical graph, its FP32 form in standard nodes, and the parity of that with torch."""
    from edge import lower
    from edge.backends.onnxruntime import Session
    from export import check_parity, export_graph

    graph = export_graph(source.network, source.model, source.image, {"weights": source.digest})
    canonical = graph.parse()
    reference = lower.reference(canonical).SerializeToString(deterministic=True)
    parity = check_parity(source.network, Session(reference), source.image)
    has_regions = any(value.name == "regions" for value in canonical.graph.output)
    boxes = f", {parity.boxes_within_one:.1%} of box coordinates within a pixel" if has_regions else ""
    events.say("graph", f"{len(canonical.graph.node)} nodes; against torch: scores within {parity.score_error:.1g}{boxes}")
    return _Exported(graph, reference, parity)


def _lowered_anew(old: Bundle, target: TargetSpec, lowering: str, image: ImageSpec) -> dict[str, bytes]:
    """Lower the graph of a bundle, which is untrusted input."""
    try:
        import_module("edge.lower")
    except ImportError as error:
        raise EdgeError(
            "build",
            f"Lowering the graph again, from {old.target.backend} to {target.backend} with {image.input} input, needs onnx: {error}",
            f"pip install onnx, or build on the host with `backend` {backends.usual_for(lowering, target.backend)}",
        ) from error
    try:
        return backends.lowered(old.graph(), target, lowering, image=image)
    except EdgeError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise EdgeError(
            "build", f"The bundle's graph.onnx is not one that edge.build wrote: {why}", "Build again from the weights"
        ) from error


# What the manifest says, and the last check.


def _origin(source: Source) -> Facts:
    """What later commands need to know about the weights: whether scores mean anything, and the
    default data set."""
    return {"weights": source.title, "trained": source.trained, "default_dataset": source.default_dataset}


def _provenance(backend: str, support: backends.Support, options: BuildOptions) -> Facts:
    tools = {"python": platform.python_version(), backend: support.version}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        if sys.modules.get(name):
            tools[name] = str(sys.modules[name].__version__)
    if options.tensorrt is not None:
        return {"tools": tools}  # who builds the engine says on which machine
    # What the engine is built and judged with: other instructions may round otherwise.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    machine = {
        "architecture": platform.machine(),
        "device": support.device,
        "instructions": list(cpu.instructions()),
        **({"max_cpu_isa": limit} if limit else {}),
    }
    return {"tools": tools, "machine": machine}


def _finish(folder: Path, origin: adaptive.Origin, options: BuildOptions, events: Events, decide: adaptive.Decide) -> Facts:
    """Manifest keys that depend on the finished engine."""
    bundle = Bundle.read(folder)
    _try_engine(bundle, events)
    return decide(bundle, origin, options, events)


def _try_engine(bundle: Bundle, events: Events) -> None:
    """The last check of a build: the finished bundle loads and runs."""
    if UNBUILT in bundle.manifest["engine"]:
        return
    try:
        engine = Engine.load(bundle.path)
    except EdgeError:
        support = backends.probe(bundle.target.backend)
        why = support.reason or backends.backend(bundle.target.backend).elsewhere(bundle.manifest["engine"], support)
        if not why:
            raise
        events.warn(f"the engine was not tried: {why}. On its machine run: python -m edge.doctor BUNDLE")
        return
    with engine:
        engine.infer(np.zeros((1, *bundle.image.shape), bundle.image.input))
