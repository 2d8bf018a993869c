"""``python -m edge.build``: weights → graph → int8 graph → bundle."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import backends, command
from edge.bundle import CALIBRATION, LOWERED, MAX_BATCH, MAX_SIZE, REFERENCE, Bundle, write_bundle
from edge.engine import Engine
from edge.errors import EdgeError, one_of
from edge.graph import Graph
from edge.manifest import check_replaceable
from edge.measure.machine import describe
from edge.models import DEFAULT_WEIGHTS
from edge.spec import PRECISIONS, TargetSpec

if TYPE_CHECKING:
    from calib.calibration import Calibration
    from calib.trials import Trials
    from edge.data import Dataset
    from edge.models.source import Source

ENGINES = Path("engines")
# What a rebuild has no means to find out again.
KEPT = ("weights", "trained", "default_dataset", "parity", "calibration", "equalisation", "sensitivity", "thresholds")
VALIDATION_IMAGES = 500  # at most: what a gate can tell apart, for the time it takes
CALIBRATION_IMAGES = 256
# What a flag means that is not given. The parser leaves None there, so that a flag nobody would read can be refused.
DEFAULTS: dict[str, Any] = {"precision": "int8", "batch": 8, "calib_method": "mse", "repair": (), "seed": 0}
READ_BY_REBUILD = ("source", "backend", "batch", "compute_capability", "output", "force", "json")


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "build",
        "Build an engine bundle: one folder that an application loads with one call.\n"
        "Without arguments: the shipped MobileNetV2, int8, for the fastest backend found here.",
        "examples:\n"
        "  python -m edge.build --precision int8\n"
        "  python -m edge.build --weights voc2007-resnet50-avg-448-4-0.5.pth.tar --precision fp16\n"
        "  python -m edge.build --weights mine.pth --precision int8 --dataset csv:photos --max-map-drop 0.5\n"
        "  python -m edge.build --from engines/copied-from-the-host        # rebuild on the device, without torch or images",
    )
    what = made.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", help="architecture; default: as the weights say")
    what.add_argument("--weights", metavar="SHIPPED|PATH|random", help=f"default {DEFAULT_WEIGHTS}; random is seeded and for trying out")
    what.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line; default: as the weights say")
    what.add_argument("--size", type=int, help="input side in pixels, a multiple of 32; default: as the weights say, else 256")
    what.add_argument("--regions", type=int, help="regions of the second pass; default: as the weights say, else 4")
    what.add_argument("--threshold", type=float, help="localisation threshold in (0, 1); default: as the weights say, else 0.5")
    what.add_argument("--pooling", choices=("avg", "gwp", "max"), help="global pooling; default: as the weights say, else avg")
    target = made.add_argument_group("engine")
    target.add_argument("--precision", choices=PRECISIONS, help="fp16 means the target's 16-bit float (default int8)")
    target.add_argument(
        "--backend", choices=("auto", *backends.BACKENDS), default="auto", help="default auto: tensorrt, openvino, onnxruntime"
    )
    target.add_argument("--batch", type=int, help="largest batch (default 8; with --from that of the bundle)")
    target.add_argument(
        "--compute-capability", metavar="LIST", help="tensorrt-rtx: GPUs to build for, such as 8.6,8.9 (default: all it knows)"
    )
    target.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="BUNDLE",
        help="rebuild a bundle's graph for this machine; model, precision and calibration stay",
    )
    int8 = made.add_argument_group("int8")
    int8.add_argument(
        "--dataset", metavar="SPEC", help="calibration images: scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, images:DIR"
    )
    int8.add_argument(
        "--calib-method",
        choices=("entropy", "percentile", "minmax", "mse"),
        help="how a range is cut (default mse)",
    )
    int8.add_argument(
        "--calib-images", type=int, metavar="N", help=f"calibrate on N images, also where a table is shipped (default {CALIBRATION_IMAGES})"
    )
    int8.add_argument("--calibration", type=Path, metavar="FILE", help="a calibration.json made before, instead of images")
    int8.add_argument(
        "--repair",
        action="append",
        choices=("bias-correction", "equalisation"),
        help="change the weights before they are rounded; may be given twice (default: none, docs/int8.md tells why)",
    )
    int8.add_argument("--max-map-drop", type=float, metavar="PTS", help="return layers to float until the mAP drop is at most this")
    out = made.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help=f"bundle folder (default {ENGINES}/<weights>-<size>-<precision>-<backend>)")
    out.add_argument("--force", action="store_true", help="replace an existing bundle")
    out.add_argument("--seed", type=int, help="of random weights and of image sampling (default 0)")
    return made


def main(args: argparse.Namespace) -> int:
    _refuse_unread(args)
    if args.source is None:
        for name, value in DEFAULTS.items():
            if getattr(args, name) is None:
                setattr(args, name, value)
    bundle = _build(args) if args.source is None else _rebuild(args)
    command.say(f"bundle     {bundle.path} ({bundle.bytes / 1e6:.1f} MB engine)")
    command.say(f"next       python -m edge.bench {bundle.path}")
    command.write_json(args.json, {"bundle": str(bundle.path), "manifest": dict(bundle.manifest)})
    return 0


def _refuse_unread(args: argparse.Namespace) -> None:
    """Refuse flags that would change nothing: who gives them counts on what they promise."""
    given = {name for name, value in vars(args).items() if value is not None}
    if args.source is not None:
        unread, why = given - set(READ_BY_REBUILD), "with --from, which rebuilds what the bundle holds"
        fix = f"build from the weights; --from goes with {one_of(command.flag(name) for name in READ_BY_REBUILD if name != 'source')}"
    elif (args.precision or DEFAULTS["precision"]) != "int8":
        # Calibration images may be given for any precision: one script then builds them all.
        unread, why, fix = given & {"max_map_drop", "repair"}, f"at --precision {args.precision}", "build --precision int8"
    else:
        unread = {"calib_images"} & given if args.calibration else set()
        why, fix = "where --calibration gives a table", "leave --calibration out"
    if unread:
        flags = ", ".join(sorted(command.flag(name) for name in unread))
        raise EdgeError("build", f"{flags} would change nothing {why}", f"Leave it out, or {fix}")


def _build(args: argparse.Namespace) -> Bundle:
    if args.max_map_drop is not None and not 0 <= args.max_map_drop < math.inf:
        raise EdgeError("build", f"`max_map_drop` is {args.max_map_drop:g}", "Give --max-map-drop 0 or more")
    backend = backends.automatic() if args.backend == "auto" else args.backend
    support = backends.require(backend, building=True)
    target = _target(backend, args.precision, args.batch, support)
    _check_host_packages()
    from edge import lower
    from edge.backends.onnxruntime import Session
    from edge.models.source import open_source
    from export import check_parity, export_graph

    source = open_source(
        args.weights,
        model=args.model,
        labels=args.labels,
        size=args.size,
        options={name: getattr(args, name) for name in ("pooling", "regions", "threshold") if getattr(args, name) is not None},
        seed=args.seed,
    )
    if source.image.size > MAX_SIZE:
        raise EdgeError("build", f"An image size of {source.image.size} pixels is too large", f"Give --size {MAX_SIZE} or less")
    output = args.output or ENGINES / f"{source.title}-{source.image.size}-{args.precision}-{backend}"
    check_replaceable(output, replace=args.force)
    _check_gate(source, args)
    _describe(source)

    graph = export_graph(source.network, source.model, source.image, {"weights": source.digest})
    canonical = graph.parse()
    reference = lower.reference(canonical).SerializeToString(deterministic=True)
    parity = check_parity(source.network, Session(reference), source.image)
    looks = any(value.name == "regions" for value in canonical.graph.output)
    boxes = f", {parity.boxes_within_one:.1%} of box coordinates within a pixel" if looks else ""
    command.say(f"graph      {len(canonical.graph.node)} nodes; against torch: scores within {parity.score_error:.1g}{boxes}")
    extra: dict[str, bytes] = {}
    facts: dict[str, Any] = {}
    if target.precision == "int8":
        graph, extra, facts = _to_int8(graph, source, target, args)
    lowering = backends.lowering(backend)
    lowered = lower.lower(graph.parse(), backend=lowering, precision=target.precision, float16=target.float16)
    return write_bundle(
        output,
        graph=graph,
        reference=reference,
        lowered=lowered.SerializeToString(deterministic=True),
        target=target,
        build_engine=_build_engine(backend, args),
        facts={**_origin(source), "parity": parity.plain(), "lowering": lowering, **facts, **_provenance(backend, support)},
        extra_files=extra,
        check=_loads,
        replace=args.force,
    )


def _to_int8(graph: Graph, source: Source, target: TargetSpec, args: argparse.Namespace) -> tuple[Graph, dict[str, bytes], dict[str, Any]]:
    """The graph with Q/DQ and thresholds, the files it adds to the bundle, and what the manifest says of it."""
    from calib.equalise import equalise
    from calib.placement import quantize
    from calib.trials import Trials, compare_speed, runs_here

    dataset = args.dataset or source.default_dataset
    validation = _validation(dataset, source, args)
    start = graph
    facts: dict[str, Any] = {}
    if "equalisation" in args.repair:
        equalised = equalise(graph)
        start = equalised.graph
        facts["equalisation"] = {"pairs": list(equalised.pairs), "skipped": dict(equalised.skipped)}
        command.say(f"repair     {len(equalised.pairs)} pairs of convolutions equalised, {len(equalised.skipped)} convolutions left alone")
    calibration = _calibration(start, source, dataset, args)
    files = {CALIBRATION: calibration.text.encode()}
    facts["calibration"] = {
        "method": args.calib_method,
        "images": calibration.images,
        "data": dict(calibration.data),
        "digest": calibration.digest,
        "repairs": sorted(set(args.repair)),
    }
    command.say(f"int8       {args.calib_method} ranges of {calibration.images} images of {calibration.data.get('name')}")
    corrected = "bias-correction" in args.repair

    def quantised(float_nodes: Collection[str] = ()) -> Graph:
        return quantize(start, calibration, method=args.calib_method, float_nodes=float_nodes, bias_correction=corrected)

    if validation is None:
        result = quantised()
    else:
        with Trials(validation, target) as trials:
            result, judged = _judged(quantised, graph, trials, args)
        facts |= judged
    if runs_here(target):
        facts["latency"] = speed = compare_speed(result, graph, target)
        line = f"int8 {speed['int8_ms']:.1f} ms, {speed['float']} {speed['float_ms']:.1f} ms at batch 1 on {speed['backend']}"
        command.say(f"speed      {line}")
        if speed["ratio"] >= 1:
            better = "fp32" if speed["float"] == "fp32" else "fp16"
            command.warn(f"int8 is no faster than {speed['float']} here: {line}. Consider --precision {better}")
    else:
        command.say(f"speed      not compared: {target.backend} does not run here")
    return result, files, facts


def _judged(
    quantised: Callable[[Collection[str]], Graph], graph: Graph, trials: Trials, args: argparse.Namespace
) -> tuple[Graph, dict[str, Any]]:
    """What validation images decide: the gate, where there is one, and the thresholds; the graph with both, and the facts."""
    from calib.sensitivity import hold_gate, units
    from calib.thresholds import fit_thresholds

    validation, facts = trials.dataset, {}
    assert validation.labels is not None
    if trials.stand_in:
        command.warn(f"{args.backend} does not run here: {trials.target.backend} stands in where validation images decide")
    if args.max_map_drop is None:
        result = quantised(())
    else:
        with command.progress("sensitivity", "stage") as report:
            gated = hold_gate(
                quantised,
                units(graph),
                trials.run,
                trials.reference(graph),
                validation.labels,
                max_map_drop=args.max_map_drop,
                progress=report,
            )
        result = gated.graph
        facts["sensitivity"] = gated.plain()
        drop, count = gated.judgement.map_drop, len(validation)
        returned = f"; float: {', '.join(gated.returned)}" if gated.returned else ""
        command.say(f"gate       mAP drop {drop:.2f} of {args.max_map_drop:g} points on {count} validation images{returned}")
    fitted = fit_thresholds(trials.run(result)["scores"], validation.labels)
    facts["thresholds"] = {**asdict(fitted), "data": f"{validation.name}, {len(validation)} validation images"}
    command.say(f"thresholds {fitted.fitted} classes; CF1 {fitted.cf1_before:.1f} → {fitted.cf1:.1f} where they were fitted")
    return replace(result, model=replace(result.model, thresholds=fitted.thresholds)), facts


def _validation(dataset: str | None, source: Source, args: argparse.Namespace) -> Dataset | None:
    """The part of the train split that decides on gate and thresholds; never the test split. None without a data set."""
    from edge.data import match_labels, open_dataset, validation_split

    labelled = None
    # Without class names nobody knows which column is which; without training there is nothing to decide.
    if dataset is not None and source.named and source.trained:
        train = open_dataset(dataset, "train", seed=args.seed)
        if train.labels is not None:
            labelled = validation_split(match_labels(train, source.model.labels))[1]
            labelled = labelled.subset(range(min(len(labelled), VALIDATION_IMAGES)))
    if labelled is None and args.max_map_drop is not None:
        raise _unjudged(f"{dataset} has no labels")
    return labelled


def _check_gate(source: Source, args: argparse.Namespace) -> None:
    """Refuse a gate, before the work, where nothing could be judged; whether the images are labelled shows when they are opened."""
    if args.max_map_drop is None:
        return
    if not source.trained:
        raise EdgeError("build", "Random weights have no mAP that could drop", "Leave --max-map-drop out, or give trained --weights")
    if not source.named:
        raise EdgeError("build", "`max_map_drop` needs the names of the classes, which the weights do not have", "Give --labels FILE")
    if args.dataset is None and source.default_dataset is None:
        raise _unjudged("there is no data set")


def _unjudged(why: str) -> EdgeError:
    fix = "Give --dataset scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT or coco2014:ROOT"
    return EdgeError("build", f"`max_map_drop` needs labelled images to judge by, and {why}", fix)


def _calibration(graph: Graph, source: Source, dataset: str | None, args: argparse.Namespace) -> Calibration:
    """Ranges from a given table, from images, or from the table that comes with shipped weights."""
    from calib.calibration import Calibration
    from calib.ranges import calibrate
    from edge.data import open_dataset

    if args.calibration:
        return Calibration.load(args.calibration)
    table = source.calibration_table
    if args.dataset is None and args.calib_images is None and table is not None:
        shipped = Calibration.load(table)
        if shipped.belongs_to(graph):
            return shipped
    if dataset is None:
        why = "; the shipped table is of another graph" if table and args.calib_images is None else ""
        raise EdgeError(
            "build",
            f"INT8 needs images to calibrate on, or a table made from them{why}",
            "Give --dataset SPEC (images:DIR will do) or --calibration FILE",
        )
    images = CALIBRATION_IMAGES if args.calib_images is None else args.calib_images
    with command.progress("calibrate") as report:
        calibration = calibrate(graph, open_dataset(dataset, "train", seed=args.seed), images=images, seed=args.seed, progress=report)
    missing = calibration.missing_classes()
    if missing:
        command.warn(f"no calibration image shows {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
    return calibration


def _rebuild(args: argparse.Namespace) -> Bundle:
    """The graph of a bundle, built anew for this machine: neither torch nor images are needed."""
    old = Bundle.read(args.source)
    old.verify()
    backend = old.target.backend if args.backend == "auto" else args.backend
    support = backends.require(backend, building=True)
    target = _target(backend, old.target.precision, old.target.max_batch if args.batch is None else args.batch, support)
    output = args.output or args.source
    check_replaceable(output, replace=args.force)
    graph: Graph = old.graph()
    lowering = backends.lowering(backend)
    same = (lowering, target.float16) == (backends.lowering_of(old.manifest), old.target.float16)
    if same and not backends.backend(backend).lowers_anew(old.manifest["engine"], target, support):
        lowered = old.read_file(LOWERED)
    else:
        try:
            from edge import lower
        except ImportError as error:
            raise EdgeError(
                "build",
                f"Turning a graph for {old.target.backend} into one for {backend} needs onnx: {error}",
                f"pip install onnx, or build on the host with --backend {backends.usual_for(lowering, backend)}",
            ) from error
        lowered = _lowered(lower.lower, graph, backend=lowering, precision=target.precision, float16=target.float16)
    carried = {name: old.read_file(name) for name in (CALIBRATION,) if name in old.manifest["files"]}
    kept = {name: old.manifest[name] for name in KEPT if name in old.manifest}
    return write_bundle(
        output,
        graph=graph,
        reference=old.read_file(REFERENCE),
        lowered=lowered,
        target=target,
        build_engine=_build_engine(backend, args),
        facts={**kept, "lowering": lowering, **_provenance(backend, support)},
        extra_files=carried,
        check=_loads,
        replace=args.force,
    )


def _lowered(lower: Callable[..., Any], graph: Graph, **target: Any) -> bytes:
    """A graph from a bundle, lowered: it comes from outside and may be anything."""
    try:
        lowered: bytes = lower(graph.parse(), **target).SerializeToString(deterministic=True)
    except EdgeError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise EdgeError("build", f"The bundle's graph.onnx is not as edge.build wrote it: {why}", "Build again from the weights") from error
    return lowered


def _build_engine(backend: str, args: argparse.Namespace) -> Callable[[bytes, TargetSpec, Path], dict[str, Any]]:
    """The backend's ``build``, with what the command line adds to it."""
    build = backends.backend(backend).build
    if args.compute_capability is None:
        return build
    if not backends.backend(backend).for_other_gpus:
        raise EdgeError("build", f"{backend} takes no --compute-capability", "Leave it out, or give --backend tensorrt-rtx")
    return partial(build, compute_capabilities=tuple(args.compute_capability.replace(" ", "").split(",")))


def _target(backend: str, precision: str, batch: int, support: backends.Support) -> TargetSpec:
    if not 1 <= batch <= MAX_BATCH:
        raise EdgeError("build", f"`batch` is {batch}", f"Give --batch 1 to {MAX_BATCH}")
    float16 = {"fp16": support.float16, "int8": support.int8_float16}.get(precision)
    if precision == "fp16" and float16 is None:
        raise EdgeError(
            "build",
            f"{backend} has no 16-bit float on {support.device or 'this machine'}",
            "Give --precision fp32 or int8, or another --backend",
        )
    # Powers of two: a batch between is padded by less than half, and none costs anything until it is asked for.
    batches = sorted({1, batch, *(2**power for power in range(1, batch.bit_length()) if 2**power < batch)})
    return TargetSpec(backend, precision, tuple(batches), float16)


def _provenance(backend: str, support: backends.Support) -> dict[str, Any]:
    tools = {"python": platform.python_version(), backend: support.version}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        if sys.modules.get(name):
            tools[name] = str(sys.modules[name].__version__)
    # What the engine is built and judged with: other instructions may round otherwise.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    machine = {
        "architecture": platform.machine(),
        "device": support.device,
        "instructions": describe()["instructions"],
        **({"max_cpu_isa": limit} if limit else {}),
    }
    return {"tools": tools, "machine": machine}


def _origin(source: Source) -> dict[str, Any]:
    """What later commands ask about the weights: whether scores mean anything, and the images to judge on by default."""
    return {"weights": source.title, "trained": source.trained, "default_dataset": source.default_dataset}


def _describe(source: Source) -> None:
    options = ", ".join(f"{name} {value}" for name, value in source.model.options.items())
    command.say(f"model      {source.model.name}, {len(source.model.labels)} classes, {source.image.size} px; {options}")
    command.say(f"weights    {source.title} (sha256 {source.digest[:12]}…)")
    for warning in source.warnings:
        command.warn(warning)


def _loads(folder: Path) -> dict[str, Any]:
    """The last check of a build: the finished folder loads and answers."""
    import numpy as np

    try:
        engine = Engine.load(folder)
    except EdgeError:
        why = _elsewhere(Bundle.read(folder))
        if not why:
            raise
        command.warn(f"the engine was not tried: {why}. Where it shall run: python -m edge.doctor BUNDLE")
        return {}
    with engine:
        size = engine.bundle.image.size
        engine.infer(np.zeros((1, 3, size, size), np.float32))
    return {}


def _elsewhere(bundle: Bundle) -> str:
    """Why a bundle that was just built is for another machine than this; empty where it is for this one."""
    support = backends.probe(bundle.target.backend)
    return support.reason or backends.backend(bundle.target.backend).elsewhere(bundle.manifest["engine"], support)


def _check_host_packages() -> None:
    """Refuse, in one line, what a build from weights needs and does not find, or finds under our name made by a stranger."""
    home = Path(command.__file__).resolve().parent.parent
    for name in ("export", "calib"):
        found = find_spec(name)
        place = found and (found.origin or next(iter(found.submodule_search_locations or ()), None))
        if place and home / name not in (Path(place).resolve(), Path(place).resolve().parent):
            raise EdgeError(
                "build",
                f"Python finds another package named {name!r}, {place}, before the one that comes with edge, {home / name}",
                "Rename that one, or take its folder off PYTHONPATH and do not start there",
            )
    try:
        for name in ("edge.models.source", "export", "calib.placement", "calib.trials"):
            import_module(name)
    except ImportError as error:
        raise _missing(str(error)) from error
    if find_spec("onnxscript") is None:  # which torch imports when it exports
        raise _missing("no module named 'onnxscript'")
    reference = backends.probe("onnxruntime")
    if reference.reason:
        raise _missing(reference.reason)


def _missing(why: str) -> EdgeError:
    return EdgeError(
        "build",
        f"Building from weights needs torch, torchvision, onnx, onnxscript and onnxruntime: {why}",
        'pip install "mcar-edge[build]", or use --from BUNDLE on a device',
    )


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
