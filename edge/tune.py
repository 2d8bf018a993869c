"""``python -m edge.tune``: arguments → a budget and what may be tried → one call of ``edge.tuning``
→ the engine that meets it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from edge import command
from edge.atomic import write_atomically
from edge.backends import BACKENDS
from edge.errors import GateError
from edge.options import BuildOptions
from edge.spec import PRECISIONS
from edge.tuning import TuneOptions, report, tune
from edge.tuning.budget import OBJECTIVES, UNITS

DEFAULT = TuneOptions()


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "tune",
        "Find the engine that meets a budget, by backend, precision, input size, regions and effort.\n"
        "Trials are kept in OUTPUT.trials/, so a killed search resumes and another budget reuses them.",
        "examples:\n"
        '  python -m edge.tune --budget "p99<25ms, map_drop<0.3" --weights mcar-mobilenetv2-scenes --output engines/mine\n'
        '  python -m edge.tune --budget "size<5MB, map>90" --weights mine.pth --dataset csv:photos --minimise p99 --output engines/mine',
    )
    made.add_argument(
        "--budget", required=True, metavar="CONDITIONS", help=f'what must hold, such as "p99<25ms, map_drop<0.3", over {", ".join(UNITS)}'
    )
    made.add_argument("--output", required=True, type=Path, metavar="DIR", help="bundle folder; trials are kept in DIR.trials/")
    made.add_argument("--force", action="store_true", default=None, help="replace an existing bundle")
    what = made.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", help="architecture (default: that of the weights)")
    what.add_argument("--weights", metavar="SHIPPED|PATH|random", help="as for edge.build")
    what.add_argument("--labels", type=Path, metavar="FILE", help="class names, one per line (default: those of the weights)")
    what.add_argument("--dataset", metavar="SPEC", help="images to calibrate and to decide with: scenes, csv:DIR, voc2007:ROOT …")
    what.add_argument("--calib-images", type=int, metavar="N", help="calibrate on N images")
    what.add_argument("--seed", type=int, help="seed of random weights and image sampling (default 0)")
    space = made.add_argument_group("what may be tried")
    space.add_argument("--batch", type=int, help=f"images per call (default {DEFAULT.batch})")
    space.add_argument("--sizes", type=_numbers, metavar="N,N", help="input sides in pixels (default: the model's own, and three smaller)")
    space.add_argument(
        "--regions", type=_numbers, metavar="N,N", help="regions of the second pass (default: the model's own, and half of it)"
    )
    space.add_argument("--precisions", type=_names, metavar="LIST", help=f"some of {', '.join(PRECISIONS)} (default all)")
    space.add_argument("--backends", type=_names, metavar="LIST", help=f"some of {', '.join(BACKENDS)} (default all that work here)")
    space.add_argument("--minutes", type=float, help=f"no trial starts after this time (default {DEFAULT.minutes:g})")
    space.add_argument(
        "--minimise",
        choices=OBJECTIVES,
        help="what to minimise among the engines that fit (default mean; map_drop if the budget does not mention mAP)",
    )
    out = made.add_argument_group("report")
    out.add_argument("--images", type=int, help="test images of the report (default: 500, or as many as the choice was judged on)")
    out.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    return made


def main(args: argparse.Namespace, asked: TuneOptions | None = None) -> int:
    # Flags and options have one set of names; what both have is the search's.
    given = {name: value for name, value in vars(args).items() if value is not None}
    searched = {field.name for field in fields(TuneOptions)}
    built = {field.name for field in fields(BuildOptions)} - searched
    options = BuildOptions(**{name: value for name, value in given.items() if name in built})
    asked = asked or TuneOptions(**{name: value for name, value in given.items() if name in searched})
    tuned = tune(options, args.budget, asked, events=command.Terminal(args))
    if tuned.result is not None:
        tuned = replace(tuned, result=tuned.result.worded(partial(command.with_flags, arguments=args)))
    command.say(*report.terminal(tuned).split("\n"))
    command.write_json(args.json, tuned.plain())
    if args.html:
        write_atomically(args.html, report.html(tuned))
        command.say(f"page       {args.html}")
    if tuned.bundle is None:
        raise GateError("tune", f"No engine that was tried meets the `budget` {args.budget}", report.advice(tuned))
    command.say(f"next       python -m edge.bench {tuned.bundle.path} --batch {tuned.batch}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


_numbers.__name__ = "list of numbers"  # what argparse calls it in its message

if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
