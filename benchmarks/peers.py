"""``python -m benchmarks.peers``: one model run in every way a user might choose, turn by turn on the same cores and images.

Rows: the original's eager loop in fp32, bf16 and with ``torch.compile``; ONNX Runtime on the exported graph; the int8 of
ONNX Runtime's and NNCF's quantisers with their defaults; our bundles on every backend; and the floor, an engine's own backbone
passes with nothing between them. A row that cannot run says why.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import defaults
from benchmarks.participants import Participant
from benchmarks.workers import Failed, Worker
from edge import __version__, backends, command
from edge.bundle import CALIBRATION, LOWERED, REFERENCE, Bundle
from edge.errors import EdgeError
from edge.measure import latency, machine
from edge.measure.outputs import KEPT, Outputs
from edge.ops import OPS
from edge.pipeline import BuildOptions, build
from edge.report import text
from edge.spec import PRECISIONS, to_plain

FLOORS = ("openvino", "onnxruntime")  # the backends that run on these cores
BOXES = (f"{OPS['RegionBoxes'][1]}/.*",)  # names of the nodes that find boxes
REFERENCE_ROW = "onnxruntime-fp32"  # whose scores every drop is against
PAUSE_S = 0.3  # threads of the last participant spin for up to 0.2 s


@dataclass
class Table:
    """What is known about each row, filled as the run goes on."""

    only: frozenset[str] = frozenset()
    participants: dict[str, Participant] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether a row was asked for: by its name, or a floor by its precision."""
        return not self.only or name in self.only or any(name.startswith(f"{floor}-") for floor in self.only if floor.startswith("floor-"))

    def add(self, participant: Participant) -> None:
        if self.wants(participant.name):
            self.participants[participant.name] = participant

    def fail(self, name: str, reason: str) -> None:
        if self.wants(name):
            self.reasons[name] = reason
            command.warn(f"{name}: {reason}")


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the table for machines")
    made.add_argument("--model", metavar="NAME", help="architecture; default: as the weights say")
    made.add_argument("--weights", metavar="SHIPPED|PATH|random", help="default: as edge.build")
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
    command.say(terminal(result))
    command.write_json(args.json, result)
    return 0


def _build(args: argparse.Namespace, work: Path, table: Table) -> dict[str, Bundle]:
    """Our bundle for every backend and precision."""
    bundles: dict[str, Bundle] = {}
    given = BuildOptions(model=args.model, weights=args.weights, size=args.size, seed=args.seed, batch=args.batch)
    # Said even where it is the default: a table that comes with the weights would be of other images than the other rows see.
    calibrated = replace(given, dataset=args.dataset, calib_images=args.calib_images)
    for backend in backends.BACKENDS:
        support = backends.probe(backend)
        for precision in PRECISIONS:
            name, output = f"edge-{precision}-{backend}", work / f"edge-{precision}-{backend}"
            # The first one is needed in any case: it holds the graph of the other rows.
            if bundles and not table.wants(name) and not table.wants(f"floor-{precision}-{backend}"):
                continue
            if support.reason:
                table.fail(name, f"{support.reason}. {support.fix}")
                continue
            if not output.is_dir():
                options = calibrated if precision == "int8" else given
                try:
                    with _process() as process:  # its own: torch and engines leave nothing behind where times are measured
                        process.submit(build, replace(options, precision=precision, backend=backend, output=output)).result()
                except EdgeError as error:
                    table.fail(name, command.with_flags(str(error), args))
                    continue
                except Exception as error:
                    table.fail(name, _reason(error))
                    continue
            bundles[name] = Bundle.read(output)
            table.add(Participant(name, backend, precision, "bundle", {"path": str(output)}))
            if (output / CALIBRATION).is_file():  # one table serves every backend
                calibrated = replace(given, calibration=output / CALIBRATION)
    if not bundles:
        raise SystemExit("no bundle could be built: " + "; ".join(sorted(set(table.reasons.values()))))
    return bundles


def _images(args: argparse.Namespace, bundle: Bundle, work: Path) -> tuple[np.ndarray, Path, Any]:
    """Timing images (B, 3, S, S), a file of calibration images, and the test images or None."""
    from edge.data import REPORT, batches, calibration_subset, match_labels, open_dataset
    from edge.measure.outputs import sample

    calibration = work / "calibration.npy"
    train, test = open_dataset(args.dataset, "train", seed=args.seed), open_dataset(args.dataset, REPORT)
    size = bundle.image.size
    chosen = train.subset(calibration_subset(train, args.calib_images, args.seed))
    if not calibration.is_file():
        # One file on disk: the quantisers read it row by row.
        rows = np.lib.format.open_memmap(calibration, "w+", np.float32, (len(chosen), 3, size, size))
        start = 0
        for _, images in batches(chosen, bundle.image, 8):
            rows[start : start + len(images)] = images
            start += len(images)
        rows.flush()
    some = test.subset(sample(len(test), max(args.images, args.batch)))
    _, timing = next(iter(batches(some, bundle.image, args.batch)))
    try:
        some = match_labels(some, bundle.model.labels)
    except EdgeError as error:  # random weights name no class: times and drift are still worth having
        command.warn(f"no mAP: {command.with_flags(str(error), args)}")
    return np.ascontiguousarray(timing), calibration, some if args.images else None


def _peers(args: argparse.Namespace, bundle: Bundle, calibration: Path, work: Path, table: Table) -> None:
    """What a user would run without us."""
    source = {"weights": args.weights, "model": args.model, "size": args.size, "seed": args.seed}
    table.add(Participant("eager-fp32", "torch", "fp32", "eager", {"source": source}))
    table.add(Participant("eager-bf16", "torch", "bf16", "eager", {"source": source, "bf16": True}))
    table.add(Participant("compile-fp32", "torch", "fp32", "eager", {"source": source, "compiled": True}))
    reference = bundle.path / REFERENCE
    table.add(Participant("onnxruntime-fp32", "onnxruntime", "fp32", "session", {"path": str(reference)}))
    quantised = work / "onnxruntime-int8-default.onnx"
    if table.wants("onnxruntime-int8-default") and _made(
        defaults.quantize_onnxruntime, reference, calibration, quantised, "onnxruntime-int8-default", table
    ):
        table.add(Participant("onnxruntime-int8-default", "onnxruntime", "int8", "session", {"path": str(quantised)}))
    if table.wants("nncf-int8-default"):
        _nncf(args.batch, reference, calibration, work, table)


def _floors(args: argparse.Namespace, bundles: Mapping[str, Bundle], calibration: Path, work: Path, table: Table) -> None:
    """Each engine's own backbone passes, and for int8 the same backbone quantised by NNCF."""
    import onnx

    from benchmarks.floor import backbones

    for name, bundle in bundles.items():
        backend, precision = bundle.target.backend, bundle.target.precision
        regions = bundle.model.options.get("regions")
        if backend not in FLOORS or not regions:
            continue
        folder = work / f"floor-{precision}-{backend}"
        try:
            paths = backbones(onnx.load_from_string(bundle.read_file(LOWERED)), bundle.image.size, args.batch, regions, folder)
        except LookupError as error:
            table.fail(f"floor-{precision}-{backend}", str(error))
            continue
        target = {**to_plain(bundle.target), "batches": [args.batch, args.batch * regions]}
        options = {"backend": backend, "first": str(paths["global"]), "second": str(paths["local"]), "target": target, "regions": regions}
        table.add(Participant(f"floor-{precision}-{backend}", backend, precision, "floor", options, scored=False))
        if name == "edge-fp32-openvino":
            quantised, check = work / "nncf-backbone.xml", "floor-int8-nncf"
            if table.wants(check) and _made(defaults.quantize_nncf, paths["global"], calibration, quantised, check, table):
                options = {**options, "first": str(quantised), "second": str(quantised)}
                table.add(Participant(check, backend, "int8", "floor", options, scored=False))


def _nncf(batch: int, reference: Path, calibration: Path, work: Path, table: Table) -> None:
    """NNCF's default; where OpenVINO does not compile it, the same with the finding of boxes left in float, and a note."""
    name, quantised = "nncf-int8-default", work / "nncf-int8-default.xml"
    if not _made(defaults.quantize_nncf, reference, calibration, quantised, name, table):
        return
    try:
        with _process() as process:
            reason = process.submit(defaults.refused_by_openvino, quantised).result()
    except BrokenProcessPool:
        reason = "its process died"
    if reason:
        quantised = work / "nncf-int8-boxes-fp32.xml"
        if not _made(partial(defaults.quantize_nncf, in_float=BOXES), reference, calibration, quantised, name, table):
            return
        table.notes[name] = f"boxes left in fp32: OpenVINO does not compile the default as it is ({reason[:200]})"
    table.add(Participant(name, "openvino", "int8", "openvino", {"path": str(quantised), "batches": (batch,)}))


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _made(quantize: Callable[[Path, Path, Path], None], reference: Path, images: Path, output: Path, name: str, table: Table) -> bool:
    """Quantise in a process of its own; a failure becomes the row's reason."""
    if output.is_file():
        return True
    try:
        with _process() as process:
            process.submit(quantize, reference, images, output).result()
    except Exception as error:
        table.fail(name, _reason(error))
        return False
    return True


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _run(args: argparse.Namespace, table: Table, timing: np.ndarray, test: Any, bundle: Bundle) -> dict[str, Any]:
    workers: dict[str, Worker] = {}
    try:
        for name, participant in table.participants.items():
            try:
                workers[name] = Worker(participant, timing)
            except Failed as error:
                table.fail(name, str(error))
        before, used = machine.state(), _used(workers)
        with command.progress("peers", "turn") as progress:
            turns = {name: partial(_turn, worker) for name, worker in workers.items()}
            rounds = latency.interleave(turns, rounds=args.rounds, turn_s=args.turn, progress=progress)
        disturbed = machine.between(before, machine.state(), own_s=_used(workers) - used)
        quality = _quality(workers, test, bundle, args.batch) if test is not None else {}
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "version": __version__,
        "model": bundle.model.name,
        "weights": bundle.manifest.get("weights"),
        "size": bundle.image.size,
        "batch": args.batch,
        "rounds": args.rounds,
        "dataset": args.dataset,
        "images": len(test) if test is not None else 0,
        "calibration_images": args.calib_images,
        "ratios": "median over the rounds of (median of the row / median of the other row in the same round); below 1 is faster",
        "rows": rows(table, rounds, quality),
        "floors": _floor_rows(rounds),
        "machine": machine.describe(),
        "tools": _tools(),
        "valid": not disturbed.reasons,
        "warnings": list(disturbed.reasons),
        "disturbance": disturbed.facts,
    }


def _turn(worker: Worker, count: int) -> list[float]:
    if count > 1:
        time.sleep(PAUSE_S)
    return worker.turn(count)


def _used(workers: Mapping[str, Worker]) -> float:
    return sum(worker.cpu_s for worker in workers.values())


def _quality(workers: Mapping[str, Worker], test: Any, bundle: Bundle, batch: int) -> dict[str, dict[str, Any]]:
    """mAP of every row, its drop and its drift against the exported graph in FP32 on ONNX Runtime."""
    from edge.data import batches
    from edge.measure import quality
    from edge.measure.accuracy import evaluate, map_drop_interval

    answers: dict[str, list[Mapping[str, np.ndarray]]] = {name: [] for name, worker in workers.items() if worker.participant.scored}
    with command.progress("accuracy") as progress:
        done = 0
        for _, images in batches(test, bundle.image, batch):
            for name, parts in answers.items():
                parts.append(workers[name].infer(images))
            done += len(images)
            progress(done, len(test))
    outputs = {
        name: Outputs({key: np.concatenate([part[key] for part in parts]) for key in KEPT if key in parts[0]})
        for name, parts in answers.items()
    }
    reference = outputs.get(REFERENCE_ROW)
    labelled = test.labels is not None and tuple(test.classes) == tuple(bundle.model.labels)
    found: dict[str, dict[str, Any]] = {}
    for name, mine in outputs.items():
        drift = quality.drifted(mine, reference)
        found[name] = drift.plain() if drift else {}
        if labelled:
            found[name]["map"] = evaluate(mine.scores, test.labels).map
        if labelled and reference is not None:
            found[name]["map_drop"] = evaluate(reference.scores, test.labels).map - found[name]["map"]
            found[name]["map_drop_interval"] = list(map_drop_interval(reference.scores, mine.scores, test.labels, resamples=300))
    return found


def rows(table: Table, rounds: latency.Rounds, quality: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table: peers, our engines, then per precision the fastest floor; rows that could not run give their reason."""
    fastest = {
        precision: min(names, key=lambda name: rounds.latency(name).percentile_ms(50))
        for precision in PRECISIONS
        if (names := [name for name in rounds.seconds if name in {f"floor-{precision}-{backend}" for backend in FLOORS}])
    }
    made = []
    for name, participant in table.participants.items():
        if not name.startswith("floor-") and name in rounds.seconds:
            noted = {"note": table.notes[name]} if name in table.notes else {}
            made.append(_row(participant, name, rounds, fastest, quality.get(name, {})) | noted)
    for precision, name in fastest.items():
        made.append({**_row(table.participants[name], name, rounds, fastest, {}), "name": f"floor-{precision}"})
    for name, reason in table.reasons.items():
        if not name.startswith("floor-"):
            made.append(
                {**dict.fromkeys(_KEYS), "name": name, "backend": _backend(name, table), "precision": _precision(name), "reason": reason}
            )
    return made


_KEYS = ("name", "backend", "precision", "p50_ms", "p99_ms", "ratio_to_eager", "ratio_to_floor", "map", "map_drop")


def _row(
    participant: Participant, name: str, rounds: latency.Rounds, fastest: Mapping[str, str], quality: Mapping[str, Any]
) -> dict[str, Any]:
    measured = rounds.latency(name)
    row: dict[str, Any] = {
        "name": name,
        "backend": participant.backend,
        "precision": participant.precision,
        "p50_ms": measured.percentile_ms(50),
        "p99_ms": measured.percentile_ms(99),
        "ratio_to_eager": None,
        "ratio_to_floor": None,
        **{key: quality.get(key) for key in ("map", "map_drop", "map_drop_interval", "class_agreement", "mean_iou")},
        "samples": len(measured.seconds),
    }
    precision = {"bf16": "fp16"}.get(participant.precision, participant.precision)
    bases = {"eager": "eager-fp32", "floor": fastest.get(precision), "own_floor": f"floor-{precision}-{participant.backend}"}
    for key, base in bases.items():
        if base is not None and base in rounds.seconds:
            found = rounds.compare(name, base)
            row[f"ratio_to_{key}"], row[f"ratio_to_{key}_interval"] = found.ratio, list(found.interval)
    return row


def _floor_rows(rounds: latency.Rounds) -> list[dict[str, Any]]:
    """Every floor that was measured; ``floor-int8-nncf`` shows that our int8 backbone is no slower than NNCF's."""
    made = []
    for name in (name for name in rounds.seconds if name.startswith("floor-")):
        row = {"name": name, "p50_ms": rounds.latency(name).percentile_ms(50)}
        if name == "floor-int8-openvino" and "floor-int8-nncf" in rounds.seconds:
            found = rounds.compare(name, "floor-int8-nncf")
            row |= {"ratio_to_nncf": found.ratio, "ratio_to_nncf_interval": list(found.interval)}
        made.append(row)
    return made


def terminal(result: Mapping[str, Any]) -> str:
    """The table for a terminal, at most 120 columns."""
    columns = ("row", "backend", "p50 ms", "p99 ms", "× eager", "faster", "× floor", "× own floor", "mAP", "drop")
    cells, reasons = [], []
    for row in result["rows"]:
        if row.get("reason"):
            reasons.append(f"{row['name']}: {row['reason']}"[: text.WIDTH])
            continue
        to_eager = row["ratio_to_eager"]
        cells.append(
            [
                row["name"],
                row["backend"],
                text.number(row["p50_ms"], 2),
                text.number(row["p99_ms"], 2),
                text.number(to_eager, 3),
                "–" if not to_eager else f"{1 / to_eager:.1f}×",
                text.number(row["ratio_to_floor"], 3),
                text.number(row.get("ratio_to_own_floor"), 3),
                text.number(row["map"], 2),
                text.signed(row["map_drop"]),
            ]
        )
    head = (
        f"{result['model']} {result['size']} px, batch {result['batch']}, {result['rounds']} rounds; {machine.sentence(result['machine'])}"
    )
    verdict = "VALID" if result["valid"] else "INVALID: " + "; ".join(result["warnings"])
    checks = [
        f"int8 backbone: {row['ratio_to_nncf']:.3f} × of the one quantised by NNCF" for row in result["floors"] if "ratio_to_nncf" in row
    ]
    notes = [f"{row['name']}: {row['note']}"[: text.WIDTH] for row in result["rows"] if row.get("note")]
    where = machine.sentence(result["machine"])
    return "\n".join([head, where, "", *text.text_table(columns, cells, frozenset(columns[2:])), "", *checks, *notes, *reasons, verdict])


def _precision(name: str) -> str:
    return next((precision for precision in ("bf16", *PRECISIONS) if precision in name.split("-")), "")


def _backend(name: str, table: Table) -> str:
    if name in table.participants:
        return table.participants[name].backend
    if name.startswith("edge-"):
        return name.split("-", 2)[2]
    return "openvino" if name.startswith("nncf") else name.split("-")[0]


def _tools() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("torch", "torchvision", "onnxruntime", "openvino", "nncf", "onnx", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
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
