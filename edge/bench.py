"""``python -m edge.bench``: bundle + images → what the engine costs and what it is worth."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edge import backends, command
from edge.atomic import write_atomically
from edge.bundle import REFERENCE, Bundle, newest
from edge.data import REPORT, Dataset, batches, match_labels, open_dataset
from edge.engine import Engine, check_fit
from edge.errors import EdgeError
from edge.image import preprocess
from edge.measure import energy, gate, latency, load, machine, memory, outputs, page, quality, report, stages
from edge.models import DEFAULT_DATA, DEFAULT_WEIGHTS
from edge.spec import ImageSpec, to_plain

ENGINES = Path("engines")
DEFAULT_BATCH = 8
STAGE_IMAGES = 16
REFERENCE_BATCH = 1  # so that a bench takes no more memory for the reference than one image needs
PLAN = latency.Plan()
ROUNDS, TURN_S = 7, 0.5  # of a comparison


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "bench",
        "Measure an engine: latency with a verdict, memory, mAP and its drop against FP32, region drift.\n"
        "Without arguments: the newest bundle under engines/, batch 8. Several bundles are measured at one batch and also compared\n"
        "turn by turn; --fail-on then holds for each of them.",
        "examples:\n"
        "  python -m edge.bench --batch 8 --html report.html\n"
        "  python -m edge.bench engines/mine --dataset csv:photos --json now.json\n"
        '  python -m edge.bench engines/mine --baseline before.json --fail-on "p99>+5%,map<-0.3"\n'
        "  python -m edge.bench engines/mine-int8 engines/mine-fp32 --no-accuracy",
    )
    made.add_argument("bundle", nargs="*", type=Path, metavar="BUNDLE", help=f"bundle folder (default: the newest under {ENGINES}/)")
    what = made.add_argument_group("latency")
    what.add_argument(
        "--batch",
        type=_batches,
        metavar="N[,N…]",
        help="batch size, or several for a sweep (default 8, or the largest all bundles take)",
    )
    what.add_argument("--streams", type=int, metavar="N", help="also measure N callers at once")
    what.add_argument("--duration", type=_duration, metavar="TIME", help="also run so long (90s, 10m, 2h) and watch latency and memory")
    judge = made.add_argument_group("accuracy")
    judge.add_argument(
        "--dataset", metavar="SPEC", help="scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, images:DIR (drift only)"
    )
    judge.add_argument("--images", type=int, default=500, help="test images (default 500)")
    judge.add_argument("--no-accuracy", action="store_true", help="latency and memory only")
    judge.add_argument("--score-threshold", type=float, default=0.6, help="of CF1 and OF1 (default 0.6, as the official evaluation)")
    out = made.add_argument_group("gates and reports")
    out.add_argument("--baseline", type=Path, metavar="FILE", help="JSON of an earlier run to compare with")
    out.add_argument("--fail-on", metavar="CONDITIONS", help='exit 3 when one is met, such as "p99>+5%%,map<-0.3"')
    out.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    out.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    return made


def main(args: argparse.Namespace) -> int:
    _check(args)
    conditions = gate.parse(args.fail_on) if args.fail_on is not None else ()
    baseline = _read_json(args.baseline) if args.baseline else None
    # What can be refused is refused before the first engine is measured.
    bundles = [Bundle.read(path) for path in args.bundle or [_newest()]]
    sizes = _fitting(args.batch, bundles)
    for bundle in bundles[1:]:  # the first one when it is loaded
        bundle.verify()
        check_fit(bundle)
    opened = cache(partial(_opened, images=args.images))
    judged = [_dataset(args, bundle, opened) for bundle in bundles]
    labelled = all(_labelled(dataset, bundle) for bundle, (dataset, _) in zip(bundles, judged, strict=True))
    gate.check_needs(conditions, accuracy=labelled, baseline=baseline, batch=max(sizes))
    benches = [bench(bundle, sizes, dataset, notes, args) for bundle, (dataset, notes) in zip(bundles, judged, strict=True)]
    results = [result for result, _ in benches]
    result, titles = dict(results[0]), report.names(results)
    several = len(bundles) > 1
    if several:
        result["engines"] = results
        result["comparison"] = _compare([bundle.path for bundle in bundles], max(sizes))
    if baseline is not None:
        result["baseline"] = {"file": str(args.baseline), **report.changes(result, baseline)}
    result["gates"] = [
        {"engine": title, **outcome} if several else outcome
        for title, one in zip(titles, results, strict=True)
        for outcome in gate.check(conditions, one, baseline)
    ]
    command.say(report.terminal(result))
    for title, one in zip(titles, results, strict=True):
        for line in backends.describe_engine(one["backend"], {"layers": one["layers"]}):
            command.say(f"{title}: {line}" if several else line)
    command.write_json(args.json, result)
    if args.markdown:
        write_atomically(args.markdown, report.markdown(result))
    if args.html:
        write_atomically(args.html, page.html(result, baseline, benches[0][1]))
        command.say(f"page       {args.html}")
    gate.enforce(result["gates"])
    return 0


def bench(
    bundle: Bundle, sizes: list[int], dataset: Dataset | None, notes: list[str], args: argparse.Namespace
) -> tuple[dict[str, Any], list[page.Photo]]:
    """Everything about one bundle, as the JSON holds it, and photographs for the page.

    Args:
        sizes: batches to measure, rising.
        dataset: what it is judged on, with its ``notes``; None for latency and memory only.
    """
    memory.reset_peak()
    before_mb, started = memory.resident_mb(), time.perf_counter()
    with Engine.load(bundle.path) as engine:
        load_ms = (time.perf_counter() - started) * 1e3
        images = _noise(bundle.image, max(sizes))
        started = time.perf_counter()
        engine.infer(images)
        first_ms = (time.perf_counter() - started) * 1e3
        sweep = [_latency(engine, images[:batch]) for batch in sizes]
        result = {
            "bundle": str(bundle.path),
            "model": bundle.model.name,
            "weights": bundle.manifest.get("weights"),
            "size": bundle.image.size,
            "backend": bundle.target.backend,
            "precision": bundle.target.precision,
            "float16": bundle.target.float16,
            **sweep[-1],
            "load_ms": load_ms,
            "first_ms": first_ms,
            "layers": engine.layers() or None,
            "sweep": sweep if len(sweep) > 1 else [],
            "machine": machine.describe(),
        }
        engine_mb = memory.resident_mb()
        _under_load(result, engine, images, args)
        result["energy"] = _energy(engine, images)
        result["stages_ms"] = _stages(engine, images, result["latency_ms"]["p50"], dataset)
        photos = _accuracy(result, engine, dataset, args, notes) if dataset is not None else []
    result.setdefault("memory_mb", {"peak_rss": memory.peak_mb()})
    result["memory_mb"] |= {
        "engine": engine_mb - before_mb if engine_mb is not None and before_mb is not None else None,
        "bundle": bundle.bytes / 2**20,
    }
    result["sensitivity"] = _gated(bundle.manifest.get("sensitivity"))
    result["warnings"] = [*result["reasons"], *notes]
    return {"accuracy": None, "regions": None, **result}, photos


def _opened(spec: str, *, images: int) -> Dataset:
    dataset = open_dataset(spec, REPORT)
    return dataset.subset(outputs.sample(len(dataset), images))


def _dataset(args: argparse.Namespace, bundle: Bundle, opened: Callable[[str], Dataset]) -> tuple[Dataset | None, list[str]]:
    """The images to judge on, their columns in the bundle's order, and what the user should know about them."""
    if args.no_accuracy:
        return None, []
    # Older bundles say neither: there the name of the weights tells.
    title = str(bundle.manifest.get("weights"))
    trained = bundle.manifest.get("trained", not title.endswith("-random"))
    default = bundle.manifest.get("default_dataset", DEFAULT_DATA if title == DEFAULT_WEIGHTS or not trained else None)
    spec = args.dataset or default
    if not isinstance(spec, str):
        return None, ["no accuracy: these weights have no default data set, give --dataset"]
    if not trained and args.dataset is None:
        return opened(spec), ["no mAP: the weights are random; drift only"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        matched = match_labels(opened(spec), bundle.model.labels, owner="the bundle")
    return matched, [str(one.message) for one in caught]


def _labelled(dataset: Dataset | None, bundle: Bundle) -> bool:
    return dataset is not None and dataset.labels is not None and tuple(dataset.classes) == tuple(bundle.model.labels)


def _accuracy(result: dict[str, Any], engine: Engine, dataset: Dataset, args: argparse.Namespace, notes: list[str]) -> list[page.Photo]:
    """Accuracy and drift against the FP32 graph, image by image; photographs for the page."""
    bundle, batch = engine.bundle, result["batch"]
    with command.progress("accuracy") as progress:
        mine = outputs.collect(engine.infer, batches(dataset, bundle.image, batch), len(dataset), progress=progress)
    # The engine's own peak: what the reference takes on top is not its cost.
    result["memory_mb"] = {"peak_rss": memory.peak_mb()}
    if mine.waiting_s > mine.inferring_s:
        notes.append(
            f"the accuracy pass was bound by decode: {mine.waiting_s:.1f} s waiting for images, {mine.inferring_s:.1f} s in the engine"
        )
    support = backends.probe("onnxruntime")
    reference = None
    if support.reason:
        notes.append(f"no drop and no drift: the FP32 reference runs on onnxruntime, and {support.reason}. {support.fix}")
    else:
        key = {
            "graph": bundle.manifest["files"][REFERENCE]["sha256"],
            "images": dataset.digest,
            "input": to_plain(bundle.image),
            "onnxruntime": support.version,
        }
        reference = outputs.cached(key, lambda: _reference(bundle, dataset))
    result["accuracy"] = quality.accuracy(mine, reference, dataset, args.score_threshold) if _labelled(dataset, bundle) else None
    if result["accuracy"]:
        result["accuracy"]["causes"] = _causes(bundle, mine, reference, dataset, notes) if reference else None
    drift = quality.drifted(mine, reference)
    result["regions"] = drift.plain() if drift else None
    return page.photos(dataset, mine, reference, drift, bundle) if args.html and reference and drift else []


def _reference(bundle: Bundle, dataset: Dataset) -> outputs.Outputs:
    from edge.backends.onnxruntime import Session

    session = Session(bundle.read_file(REFERENCE))
    with command.progress("reference") as progress:
        return outputs.collect(session, batches(dataset, bundle.image, REFERENCE_BATCH), len(dataset), progress=progress)


def _causes(
    bundle: Bundle, mine: outputs.Outputs, reference: outputs.Outputs, dataset: Dataset, notes: list[str]
) -> dict[str, float] | None:
    """The drop in mAP by what caused it; None for a model without a local stream, or on a device without what it takes."""
    try:
        from calib.causes import causes
    except ImportError as error:
        notes.append(f"the drop is not split into its causes here: {error}. pip install onnx")
        return None
    assert dataset.labels is not None
    with command.progress("causes") as progress:
        found = causes(
            bundle.read_file(REFERENCE),
            lambda indices: batches(dataset.subset(indices), bundle.image, REFERENCE_BATCH),
            mine.values,
            reference.values,
            dataset.labels,
            progress=progress,
        )
    return asdict(found) if found else None


def _gated(found: Any) -> dict[str, Any] | None:
    """What the gate of the build wrote, where it had one; a manifest comes from outside, so anything of another form is left out."""
    gains = ("map_points", "score_error", "class_agreement", "mean_iou")
    try:
        return {
            **{name: float(found[name]) for name in ("map_drop", "map_drop_all_int8")},
            "returned_to_float": [str(unit) for unit in found["returned_to_float"]],
            "ranking": [{"unit": str(one["unit"]), **{name: float(one[name]) for name in gains}} for one in found["ranking"]],
        }
    except (KeyError, TypeError, ValueError):
        return None


def _latency(engine: Engine, images: np.ndarray) -> dict[str, Any]:
    """Latency of one batch size, with its verdict."""
    before = machine.state()
    measured = latency.measure(lambda: engine.infer(images), images=len(images), plan=PLAN)
    disturbed = machine.between(before, machine.state())
    # What happened to the machine comes first: it is the cause of the rest.
    verdict = latency.Verdict(disturbed.reasons).also(*latency.judge(measured, PLAN).reasons)
    low, high = measured.median_interval_ms
    return {
        "batch": len(images),
        "latency_ms": measured.plain(),
        "throughput_images_per_s": measured.throughput,
        "median_interval_ms": [low, high],
        "variation": measured.variation,
        "samples_ms": [round(value * 1e3, 4) for value in measured.seconds.tolist()],
        "warm_up": measured.warm_up,
        "valid": verdict.valid,
        "reasons": list(verdict.reasons),
        "disturbance": disturbed.facts,
    }


def _under_load(result: dict[str, Any], engine: Engine, images: np.ndarray, args: argparse.Namespace) -> None:
    if args.streams:
        result["streams"] = load.streams(lambda: engine.infer(images), args.streams, images=len(images))
    if args.duration:
        with command.progress("soak", "window") as progress:
            soaked = load.soak(lambda: engine.infer(images), args.duration, progress=progress)
        result["soak"] = soaked.plain()
        result["reasons"] = [*result["reasons"], *(f"soak: {reason}" for reason in soaked.reasons)]
        result["valid"] = result["valid"] and not soaked.reasons


def _stages(engine: Engine, images: np.ndarray, p50_ms: float, dataset: Dataset | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if dataset is not None:
        some = outputs.sample(len(dataset), STAGE_IMAGES)
        spec = engine.bundle.image
        found = stages.of_images(lambda index: dataset[index].image, lambda image: preprocess(image, spec), some, len(images))
    # A batch between two exact ones is padded: its nodes would be another batch's.
    if len(images) in engine.bundle.target.batches:
        found |= stages.of_nodes(engine.profile(images), p50_ms)
    return found


def _energy(engine: Engine, images: np.ndarray) -> dict[str, Any]:
    source, reason = energy.find(gpu=backends.backend(engine.bundle.target.backend).on_gpu)
    if source is None:
        return {"source": None, "reason": f"not available here: {reason}"}
    return energy.per_image(lambda: engine.infer(images), len(images), source)


def _compare(paths: list[Path], batch: int) -> list[dict[str, Any]]:
    """The bundles turn by turn, as paired ratios to the first; one named twice is compared with itself."""
    with ExitStack() as opened, command.progress("compare", "turn") as progress:
        turns = {}
        for number, path in enumerate(paths):
            engine = opened.enter_context(Engine.load(path))
            images = _noise(engine.bundle.image, batch)
            turns[str(number)] = latency.timed(partial(engine.infer, images))
        rounds = latency.interleave(turns, rounds=ROUNDS, turn_s=TURN_S, plan=PLAN, progress=progress)
    compared = []
    for number, path in enumerate(paths):
        found = rounds.compare(str(number), "0")
        compared.append(
            {
                "bundle": str(path),
                "p50_ms": rounds.latency(str(number)).percentile_ms(50),
                "ratio": found.ratio,
                "interval": list(found.interval),
                "rounds": len(found.ratios),
                "verdict": found.verdict if number else "the first",
            }
        )
    return compared


def _noise(spec: ImageSpec, batch: int) -> np.ndarray:
    """Seeded noise of the statistics of normalised photographs."""
    return np.random.default_rng(0).standard_normal((batch, 3, spec.size, spec.size), np.float32)


def _fitting(wanted: list[int] | None, bundles: list[Bundle]) -> list[int]:
    """The batches to measure, rising; the same for all bundles, so that they can be compared."""
    least = min(bundles, key=lambda bundle: bundle.target.max_batch)
    most = least.target.max_batch
    batches = sorted(set(wanted or [min(DEFAULT_BATCH, most)]))
    if max(batches) > most:
        problem = f"A batch of {max(batches)} does not fit: at most {most}, the largest of {least.path}"
        raise EdgeError("bench", problem, f"Lower `batch`, or build with one of {max(batches)}")
    return batches


def _check(args: argparse.Namespace) -> None:
    for name, value in (
        ("batch", min(args.batch or [1])),
        ("images", args.images),
        ("streams", 1 if args.streams is None else args.streams),
    ):
        if value < 1:
            raise EdgeError("bench", f"`{name}` is {value}", "Give 1 or more")
    if args.duration is not None and args.duration <= 0:
        raise EdgeError("bench", f"`duration` is {args.duration:g} seconds", "Give a time such as 10m")
    if not 0 <= args.score_threshold <= 1:
        raise EdgeError("bench", f"`score_threshold` is {args.score_threshold:g}", "Give 0 to 1")


def _newest() -> Path:
    found = newest(ENGINES)
    if found is None:
        raise EdgeError("bench", f"There is no bundle under {ENGINES}/", "Build one: python -m edge.build")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    fix = "Give a file that edge.bench --json wrote as `baseline`"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EdgeError("bench", f"Cannot read the baseline {path}: {error}", fix) from error
    if not isinstance(content, dict) or "latency_ms" not in content:
        raise EdgeError("bench", f"The baseline {path} is not the result of a bench", fix)
    return content


def _batches(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _duration(text: str) -> float:
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(s|m|h|)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"not a time: {text!r} (90s, 10m, 2h)")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


_batches.__name__ = "batch"  # what argparse calls it in its message

if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
