"""``python -m benchmarks.peers``: one model run in every way a user might choose, interleaved on
the same cores and images.

Rows: the original's eager loop in fp32, bf16 and with ``torch.compile``; ONNX Runtime on the
exported graph; the int8 of ONNX Runtime's and NNCF's quantisers with their defaults; our bundles on
every backend, looking at everything and, in int8, only where it pays (``…-adaptive``); and the
floor, an engine's own backbone passes with nothing between them. A row that cannot run says why.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import defaults, participants
from benchmarks.table import FLOORS, REFERENCE_ROW, Peers, Quality, Table, floors, quality, rows, terminal
from benchmarks.workers import Apart, Failed, Worker
from edge import __version__, backends, command
from edge.bundle import CALIBRATION, REFERENCE, Bundle
from edge.data import REPORT, Dataset, batches, calibration_subset, match_labels, open_dataset, validation_split
from edge.errors import EdgeError
from edge.graph import OUTPUTS, Outputs
from edge.measure import latency, machine
from edge.measure.outputs import sample
from edge.ops import OPS
from edge.pipeline import BuildOptions, build
from edge.plain import to_plain
from edge.spec import PRECISIONS, TargetSpec

BOXES = (f"{OPS['RegionBoxes'][1]}/.*",)  # names of the nodes that find boxes
ADAPTIVE_IMAGES = 256  # of the test images, for rows whose time depends on the image
SCENES = "mcar-mobilenetv2-scenes"
NNCF_SLOW, MAX_DROP = "nncf-int8-accuracy-control", 0.2
PAUSE_S = 0.3  # threads of the last participant spin for up to 0.2 s
RATIOS = "median over the rounds of (median of the row / median of the other row in the same round); below 1 is faster"
TOOLS = ("torch", "torchvision", "onnxruntime", "openvino", "nncf", "onnx", "numpy")


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the table for machines")
    made.add_argument("--model", metavar="NAME", help="architecture; default: as the weights say")
    made.add_argument("--weights", default=SCENES, metavar="SHIPPED|PATH|random", help=f"default {SCENES}")
    made.add_argument("--size", type=int, help="input side in pixels; default: as the weights say")
    made.add_argument("--batch", type=int, default=1, help="images per call (default 1)")
    made.add_argument("--dataset", default="scenes", metavar="SPEC", help="calibration and test images (default scenes)")
    made.add_argument("--images", type=int, default=200, help="test images for the accuracy of every row (default 200; 0: none)")
    made.add_argument("--calib-images", type=int, default=256, help="calibration images of every int8 row (default 256)")
    made.add_argument("--rounds", type=int, default=7, help="turns of each participant (default 7)")
    made.add_argument("--turn", type=float, default=1.0, metavar="S", help="seconds of a turn (default 1)")
    made.add_argument("--only", metavar="NAMES", help="only these rows (and the two others are compared with), separated by commas")
    made.add_argument("--work", type=Path, metavar="DIR", help="keep graphs and bundles here, and use those found")
    made.add_argument("--seed", type=int, default=0, help="of random weights (default 0)")
    return made


def main(args: argparse.Namespace) -> int:
    with _folder(args.work) as work:
        table = Table(frozenset({"eager-fp32", REFERENCE_ROW, *args.only.split(",")}) if args.only else frozenset())
        bundles = _build(args, work, table)
        first = next(iter(bundles.values()))
        timing, calibration, test = _images(args, first, work)
        _peers(args, first, calibration, work, table)
        _floors(args, bundles, calibration, work, table)
        result = _run(args, table, timing, test, first)
    command.say(*terminal(result).split("\n"))
    command.write_json(args.json, to_plain(result))
    return 0


def _build(args: argparse.Namespace, work: Path, table: Table) -> dict[str, Bundle]:
    """Our bundle for every backend and precision."""
    bundles: dict[str, Bundle] = {}
    given = BuildOptions(model=args.model, weights=args.weights, size=args.size, seed=args.seed, batch=args.batch)
    # Said even where it is the default: a table that comes with the weights would be of other
    # images than the other rows see.
    calibrated = replace(given, dataset=args.dataset, calib_images=args.calib_images)
    for backend in backends.BACKENDS:
        support = backends.probe(backend)
        for precision in PRECISIONS:
            name, output = f"edge-{precision}-{backend}", work / f"edge-{precision}-{backend}"
            # The first one is needed in any case: it holds the graph of the other rows.
            if bundles and not table.wants(name) and not table.wants(f"floor-{precision}-{backend}"):
                continue
            if support.reason:
                table.fail(name, backend, precision, f"{support.reason}. {support.fix}")
                continue
            if not output.is_dir():
                options = replace(calibrated if precision == "int8" else given, precision=precision, backend=backend, output=output)
                try:
                    with Apart() as process:  # torch and engines leave nothing behind where times are measured
                        process.call(partial(build, options))
                except Failed as error:
                    table.fail(name, backend, precision, command.with_flags(str(error), args))
                    continue
            bundles[name] = Bundle.read(output)
            table.add(name, backend, precision, partial(participants.bundle, output))
            stages = bundles[name].stages
            if precision == "int8" and stages is not None and stages.effort < 1:
                row = f"{name}-adaptive"
                table.add(row, backend, precision, partial(participants.bundle, output, effort=None), adaptive=True)
                table.notes[row] = f"at effort {stages.effort:g}; its times are means over test images, at most {ADAPTIVE_IMAGES}"
            if (output / CALIBRATION).is_file():  # one table serves every backend
                calibrated = replace(given, calibration=output / CALIBRATION)
    if not bundles:
        raise SystemExit("no bundle could be built: " + "; ".join(sorted({str(row.reason) for row in table.failed.values()})))
    return bundles


def _images(args: argparse.Namespace, bundle: Bundle, work: Path) -> tuple[np.ndarray, Path, Dataset | None]:
    """Timing images (T, B, 3, S, S), a file of calibration images, and the test images, where there
    are to be any."""
    calibration = work / "calibration.npy"
    train, test = open_dataset(args.dataset, "train", seed=args.seed), open_dataset(args.dataset, REPORT)
    size = bundle.image.size
    chosen = train.subset(calibration_subset(train, args.calib_images, args.seed))
    if not calibration.is_file():
        # One file on disk: the quantisers read it row by row.
        rows = np.lib.format.open_memmap(calibration, "w+", np.float32, (len(chosen), 3, size, size))  # type: ignore[no-untyped-call]
        start = 0
        for _, images in batches(chosen, bundle.image, 8):
            rows[start : start + len(images)] = images
            start += len(images)
        rows.flush()
    some = test.subset(sample(len(test), max(args.images, args.batch)))
    spread = test.subset(sample(len(test), max(ADAPTIVE_IMAGES, args.batch)))
    whole = [images for _, images in batches(spread, bundle.image, args.batch) if len(images) == args.batch]
    timing = np.stack(whole)
    try:
        some = match_labels(some, bundle.model.labels)
    except EdgeError as error:  # random weights name no class: times and drift are still worth having
        command.warn(f"no mAP: {command.with_flags(str(error), args)}")
    return timing, calibration, some if args.images else None


def _peers(args: argparse.Namespace, bundle: Bundle, calibration: Path, work: Path, table: Table) -> None:
    """What a user would run without us."""
    from edge.models.source import open_source

    source = partial(open_source, args.weights, model=args.model, size=args.size, seed=args.seed)
    table.add("eager-fp32", "torch", "fp32", partial(participants.eager, source))
    table.add("eager-bf16", "torch", "bf16", partial(participants.eager, source, bf16=True))
    table.add("compile-fp32", "torch", "fp32", partial(participants.eager, source, compiled=True))
    reference = bundle.path / REFERENCE
    table.add(REFERENCE_ROW, "onnxruntime", "fp32", partial(participants.session, reference))
    name, quantised = "onnxruntime-int8-default", work / "onnxruntime-int8-default.onnx"
    if _made(defaults.quantize_onnxruntime, reference, calibration, quantised, name, "onnxruntime", table):
        table.add(name, "onnxruntime", "int8", partial(participants.session, quantised))
    _nncf(args, bundle, calibration, work, table)


def _nncf(args: argparse.Namespace, bundle: Bundle, calibration: Path, work: Path, table: Table) -> None:
    """NNCF's default; where OpenVINO does not compile it, the same with the finding of boxes left
    in float, and a note. And its slow one, which takes many minutes, where it is asked for by
    name."""
    name, quantised = "nncf-int8-default", work / "nncf-int8-default.xml"
    reference, target = bundle.path / REFERENCE, TargetSpec("openvino", "fp32", (args.batch,))
    if _made(defaults.quantize_nncf, reference, calibration, quantised, name, "openvino", table):
        try:
            with Apart() as process:
                reason = process.call(partial(defaults.refused_by_openvino, quantised))
        except Failed as error:
            reason = str(error)
        if reason:
            quantised = work / "nncf-int8-boxes-fp32.xml"
            table.notes[name] = f"boxes left in fp32: OpenVINO does not compile the default as it is ({reason[:200]})"
        in_float = partial(defaults.quantize_nncf, in_float=BOXES)
        if not reason or _made(in_float, reference, calibration, quantised, name, "openvino", table):
            table.add(name, "openvino", "int8", partial(participants.openvino, quantised, target))
    if NNCF_SLOW in table.only:
        quantised, validation = work / f"{NNCF_SLOW}.xml", work / "validation.npz"
        if not validation.is_file():
            train = match_labels(open_dataset(args.dataset, "train", seed=args.seed), bundle.model.labels)
            defaults.write_validation(validation_split(train)[1], bundle.image, validation)
        slowly = partial(defaults.quantize_nncf_slowly, validation=validation, max_drop=MAX_DROP, in_float=BOXES)
        if _made(slowly, reference, calibration, quantised, NNCF_SLOW, "openvino", table):
            table.add(NNCF_SLOW, "openvino", "int8", partial(participants.openvino, quantised, target))
            table.notes[NNCF_SLOW] = f"boxes left in fp32; may lose {MAX_DROP:g} points of mAP on images held out of train"


def _floors(args: argparse.Namespace, bundles: Mapping[str, Bundle], calibration: Path, work: Path, table: Table) -> None:
    """Each engine's own backbone passes, and for int8 the same backbone quantised by NNCF."""
    from benchmarks.floor import backbones

    for name, bundle in bundles.items():
        backend, precision = bundle.target.backend, bundle.target.precision
        regions = bundle.model.options.get("regions")
        if backend not in FLOORS or not regions:
            continue
        floor = f"floor-{precision}-{backend}"
        try:
            paths = backbones(bundle.lowered(), bundle.image.size, args.batch, regions, work / floor)
        except LookupError as error:
            table.fail(floor, backend, precision, str(error))
            continue
        target = replace(bundle.target, batches=(args.batch, args.batch * regions))
        opened = partial(participants.openvino, target=target) if backend == "openvino" else participants.session
        both = partial(participants.floor, partial(opened, paths["global"]), partial(opened, paths["local"]), regions)
        table.add(floor, backend, precision, both, scored=False)
        if name == "edge-fp32-openvino":
            quantised, check = work / "nncf-backbone.xml", "floor-int8-nncf"
            if _made(defaults.quantize_nncf, paths["global"], calibration, quantised, check, backend, table):
                both = partial(participants.floor, partial(opened, quantised), partial(opened, quantised), regions)
                table.add(check, backend, "int8", both, scored=False)


def _made(
    quantize: Callable[[Path, Path, Path], None], reference: Path, images: Path, output: Path, name: str, backend: str, table: Table
) -> bool:
    """Quantise for a row that is wanted, in a process of its own; a failure becomes the row's
    reason."""
    if table.wants(name) and not output.is_file():
        try:
            with Apart() as process:
                process.call(partial(quantize, reference, images, output))
        except Failed as error:
            table.fail(name, backend, "int8", str(error))
    return table.wants(name) and name not in table.failed


def _run(args: argparse.Namespace, table: Table, timing: np.ndarray, test: Dataset | None, bundle: Bundle) -> Peers:
    workers: dict[str, Worker] = {}
    try:
        for name, one in table.participants.items():
            try:
                workers[name] = Worker(one, timing if one.adaptive else timing[0])
            except Failed as error:
                table.fail(name, one.backend, one.precision, str(error))
        before, used = machine.state(), _used(workers)
        with command.progress("peers", "turn") as progress:
            turns = {name: partial(_turn, worker) for name, worker in workers.items()}
            rounds = latency.interleave(turns, rounds=args.rounds, turn_s=args.turn, progress=progress)
        disturbed, disturbance = machine.between(before, machine.state(), own_s=_used(workers) - used)
        quality = _quality(workers, test, bundle, args.batch) if test is not None else {}
    finally:
        for worker in workers.values():
            worker.close()
    return Peers(
        version=__version__,
        model=bundle.model.name,
        weights=bundle.manifest.get("weights"),
        size=bundle.image.size,
        batch=args.batch,
        rounds=args.rounds,
        dataset=args.dataset,
        images=len(test) if test is not None else 0,
        calibration_images=args.calib_images,
        ratios=RATIOS,
        rows=rows(table, rounds, quality),
        floors=floors(rounds),
        machine=machine.describe(),
        tools=_tools(),
        valid=not disturbed,
        warnings=disturbed,
        disturbance=disturbance,
    )


def _turn(worker: Worker, count: int) -> list[float]:
    if count > 1:
        time.sleep(PAUSE_S)
    return worker.turn(count)


def _used(workers: Mapping[str, Worker]) -> float:
    return sum(worker.cpu_s for worker in workers.values())


def _quality(workers: Mapping[str, Worker], test: Dataset, bundle: Bundle, batch: int) -> dict[str, Quality]:
    """mAP of every row, its drop and its drift against the exported graph in FP32 on ONNX
    Runtime."""
    answers: dict[str, list[Outputs]] = {name: [] for name, worker in workers.items() if worker.participant.scored}
    with command.progress("accuracy") as progress:
        done = 0
        for _, images in batches(test, bundle.image, batch):
            for name, parts in answers.items():
                parts.append(workers[name].infer(images))
            done += len(images)
            progress(done, len(test))
    outputs = {
        name: {key: np.concatenate([part[key] for part in parts]) for key in OUTPUTS if key in parts[0]} for name, parts in answers.items()
    }
    reference = outputs.get(REFERENCE_ROW)
    labels = test.labels if tuple(test.classes) == tuple(bundle.model.labels) else None
    return {name: quality(mine, reference, labels) for name, mine in outputs.items()}


def _tools() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="peers-") as made:
        yield Path(made)


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
