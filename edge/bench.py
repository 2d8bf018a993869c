"""``python -m edge.bench``: bundle + images → what the engine costs and what it is worth."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

from edge import backends, command
from edge.atomic import write_atomically
from edge.measure.latency import Plan
from edge.report import gate, page, text
from edge.report.bench import ENGINES, bench
from edge.report.options import STANDARD, BenchOptions

OPTIONS = frozenset(field.name for field in fields(BenchOptions))


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "bench",
        "Measure an engine: latency with a verdict, memory, mAP and its change against FP32, region drift.\n"
        "Without arguments: the newest bundle under engines/, batch 8. Several bundles are measured at one batch and also compared,\n"
        "interleaved; --fail-on then applies to each of them.",
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
    what.add_argument("--streams", type=int, metavar="N", help="also measure N concurrent callers")
    what.add_argument(
        "--duration", type=_duration, metavar="TIME", help="also run for this long (90s, 10m, 2h) and watch latency and memory"
    )
    judge = made.add_argument_group("accuracy")
    judge.add_argument(
        "--dataset",
        metavar="SPEC",
        help="scenes, aerial, csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, mosaic:SPEC, images:DIR (drift only)",
    )
    judge.add_argument("--images", type=int, default=500, help="test images (default 500)")
    judge.add_argument("--no-accuracy", action="store_true", help="latency and memory only")
    judge.add_argument(
        "--score-threshold", type=float, default=0.6, help="score threshold of CF1 and OF1 (default 0.6, as in the official evaluation)"
    )
    judge.add_argument("--effort", type=float, metavar="E", help="effort to measure besides effort 1, 0 to 1 (default: the bundle's own)")
    out = made.add_argument_group("gates and reports")
    out.add_argument("--baseline", type=Path, metavar="FILE", help="JSON of an earlier run to compare with")
    out.add_argument("--fail-on", metavar="CONDITIONS", help='exit 3 if one of these is met, such as "p99>+5%%,map<-0.3"')
    out.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    out.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    return made


def main(args: argparse.Namespace, *, plan: Plan = STANDARD) -> int:
    # Flags and options have one set of names.
    given = {name: value for name, value in vars(args).items() if value is not None and name in OPTIONS}
    options = BenchOptions(**{**given, "bundle": tuple(args.bundle)}, photos=args.html is not None, plan=plan)
    found = bench(options, command.Terminal(args))
    result = found.result.worded(partial(command.with_flags, arguments=args))
    command.say(*text.terminal(result).split("\n"))
    for title, one in zip(text.names(result.each), result.each, strict=True):
        for line in backends.describe_engine(one.backend, {"layers": one.layers}):
            command.say(f"{title}: {line}" if result.engines else line)
    command.write_json(args.json, result.plain())
    if args.markdown:
        write_atomically(args.markdown, text.markdown(result))
    if args.html:
        write_atomically(args.html, page.html(result, found.baseline, found.photos))
        command.say(f"page       {args.html}")
    gate.enforce(result.gates or ())
    return 0


def _batches(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _duration(text: str) -> float:
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(s|m|h|)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"not a time: {text!r} (90s, 10m, 2h)")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


_batches.__name__ = "batch"  # what argparse calls it in its message

if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
