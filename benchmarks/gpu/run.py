"""The stages of a run on a GPU, by value: what they are, how long each may take, and the loop that
runs them.

Every stage runs in a process of its own, which is ended at the limit; what it found until then
stays. The result is written anew after every stage, as JSON and as Markdown. A stage that lacks
something says what, and the next one goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.gpu import engines, kernels, networks, pack, plans, smallest
from benchmarks.gpu.place import REPOSITORY, SLOWER, Found, Missing, Place, Save, call, gpu_name
from benchmarks.gpu.report import write

BUDGET_S = 590.0
LEAST_S = 8.0  # a stage with less time left than this is not begun


@dataclass(frozen=True)
class Stage:
    """``run(place, found, save)`` puts what it finds into ``found`` and calls ``save`` whenever
    that is worth keeping."""

    name: str
    limit_s: float
    run: Callable[[Place, Found, Save], None]
    asked: bool = False  # runs only where ``--only`` names it


MOBILENETV2, RESNET50 = ("mcar-mobilenetv2", 256), ("mcar-resnet50", 448)
STAGES = (
    Stage("unpack", 60, lambda place, found, save: found.update(place.unpack(60))),
    Stage("kernels", 90, kernels.run),
    Stage("mobilenetv2-int8", 110, partial(plans.run, stage="mobilenetv2-int8", bundle="mobilenetv2-256-int8", batch=1)),
    Stage("resnet50-int8", 120, partial(plans.run, stage="resnet50-int8", bundle="resnet50-448-int8", batch=1)),
    Stage("resnet50-fp16", 150, partial(plans.run, stage="resnet50-fp16", bundle="resnet50-448-fp16", batch=1)),
    Stage("torch", 120, partial(networks.run, model=RESNET50, batch=1, plans=("resnet50-int8", "resnet50-fp16"))),
    Stage("smallest", 120, smallest.run),
    Stage("resnet50-int8-b8", 100, partial(plans.run, stage="resnet50-int8-b8", bundle="resnet50-448-int8", batch=8)),
    Stage("mobilenetv2-fp16", 190, partial(plans.run, stage="mobilenetv2-fp16", bundle="mobilenetv2-256-fp16", batch=1)),
    Stage("torch-mobilenetv2", 90, partial(networks.run, model=MOBILENETV2, batch=1, plans=("mobilenetv2-int8", "mobilenetv2-fp16"))),
    Stage(
        "mobilenetv2-adaptive",
        90,
        partial(plans.run_adaptive, stage="mobilenetv2-adaptive", bundle="mobilenetv2-256-adaptive", whole="mobilenetv2-int8"),
    ),
    Stage("torch-b8", 90, partial(networks.run, model=RESNET50, batch=8, plans=("resnet50-int8-b8",))),
    Stage("python", 60, plans.run_python),
    Stage("tensorrt-rtx", 300, engines.run),
    Stage("sanitizer", 240, kernels.run_sanitizer, asked=True),
    Stage("training", 300, networks.run_training, asked=True),
)


def run_stage(stage: Stage, place: Place) -> int:
    """A stage in this process; its findings go to its file."""
    found: Found = {}
    save = partial(_save, place, stage.name, found)
    try:
        stage.run(place, found, save)
    except Missing as error:
        found["missing"] = str(error)
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    save()
    return 1 if "failed" in found else 0


def run_apart(stage: Stage, place: Place, limit: float, words: list[str]) -> Found:
    """A stage in a process of its own: what it found, how long it took, and what it said if it did
    not go well."""
    file = _file(place, stage.name)
    file.unlink(missing_ok=True)
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))}
    answer = call([sys.executable, "-m", "benchmarks.gpu.run", "--stage", stage.name, *words], limit, environment)
    found: Found = {"seconds": answer.seconds}
    with contextlib.suppress(OSError, ValueError):
        found |= json.loads(file.read_text())
    if answer.code != 0:
        found.setdefault("failed", "cut off" if answer.code == -1 else f"ended with {answer.code}")
        found["log"] = answer.tail
    return found


def main() -> int:
    args = arguments().parse_args()
    place = Place(args.source, args.work.resolve(), args.out.resolve(), args.rehearse, args.tools, args.level)
    by_name = {stage.name: stage for stage in STAGES}
    if args.stage:
        code = run_stage(by_name[args.stage], place)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what it left behind ends with it
    if args.pack:
        return pack.make(args.pack.resolve(), args.tensorrt, args.threads)
    place.out.mkdir(parents=True, exist_ok=True)
    if args.timings:
        place.work.mkdir(parents=True, exist_ok=True)
        shutil.copy(args.timings, place.timings)
    words = ["--work", str(place.work), "--out", str(place.out)]
    words += ["--from", str(place.pack)] if place.pack else []
    words += ["--tools", str(place.tools)] if place.tools else []
    words += ["--rehearse"] if place.rehearse else []
    words += ["--level", str(place.level)]
    ends, gpu = time.monotonic() + args.budget, gpu_name()
    result: Found = {"gpu": gpu, "rehearsal": place.rehearse, "stages": {}}
    if gpu is None and not place.rehearse:
        print("no GPU on this machine: only --rehearse runs here", file=sys.stderr)
        return 1
    wanted = args.only.split(",") if args.only else [stage.name for stage in STAGES if not stage.asked]
    for name in ["unpack", *(each for each in wanted if each != "unpack")]:
        stage, left = by_name[name], ends - time.monotonic()
        if left < LEAST_S:
            result["stages"][name] = {"missing": "time"}
            continue
        print(f"… {name}", file=sys.stderr, flush=True)
        limit = min(stage.limit_s * (SLOWER if place.rehearse else 1), left)
        found = run_apart(stage, place, limit, words)
        result["stages"][name] = found
        said = found.get("failed") or (f"without {found['missing']}" if "missing" in found else "done")
        print(f"  {said} in {found['seconds']} s", file=sys.stderr, flush=True)
        report = write(result, place.out)
        if place.timings.is_file():
            shutil.copy(place.timings, place.out)
    print(report.read_text())
    return 1 if any("failed" in found for found in result["stages"].values()) else 0


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks/gpu/run.sh", description=__doc__)
    made.add_argument("--from", dest="source", type=Path, metavar="DIR", help="the pack: archives in parts")
    made.add_argument("--only", metavar="STAGE,STAGE", help=", ".join(stage.name for stage in STAGES))
    made.add_argument("--rehearse", action="store_true", help="every stage on the CPU, as far as it goes, with stand-ins")
    made.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help="for all stages together")
    made.add_argument("--work", type=Path, default=Path("/tmp/mcar-edge-gpu"), metavar="DIR", help="kept between calls")
    made.add_argument("--out", type=Path, default=os.environ.get("OUT") or REPOSITORY / "benchmarks" / "results", metavar="DIR")
    made.add_argument("--tools", type=Path, metavar="DIR", help="mcar_edge_build and mcar_edge_bench; default: the pack's")
    made.add_argument(
        "--timings", type=Path, metavar="FILE", help="timings.cache of an earlier run on the same card: plans are built sooner"
    )
    made.add_argument("--level", type=int, choices=range(6), default=2, help="of TensorRT's builder (default 2); higher ones take minutes")
    made.add_argument("--pack", type=Path, metavar="DIR", help="make the pack instead, on a host with network")
    made.add_argument("--tensorrt", type=Path, metavar="DIR", help="--pack: folder of the Python module tensorrt 8.6; default: looked for")
    made.add_argument("--threads", type=int, default=0, metavar="N", help="--pack: of xz; default: all cores")
    made.add_argument("--stage", choices=[stage.name for stage in STAGES], help=argparse.SUPPRESS)
    return made


def _file(place: Place, stage: str) -> Path:
    return place.work / "found" / f"{stage}.json"


def _save(place: Place, stage: str, found: Found) -> None:
    file = _file(place, stage)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(found))
    beside.replace(file)


if __name__ == "__main__":
    sys.exit(main())
