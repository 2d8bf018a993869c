"""``python -m edge.build``: arguments → ``BuildOptions`` → one call of ``edge.pipeline`` → what it made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from edge import command
from edge.backends import BACKENDS
from edge.errors import EdgeError, one_of
from edge.models import DEFAULT_WEIGHTS
from edge.options import AUTO, BATCH, CALIBRATION_IMAGES, MAX_EFFORT_DROP, METHODS, POOLINGS, READ_BY_REBUILD, REPAIRS
from edge.pipeline import ENGINES, BuildOptions, build, rebuild
from edge.spec import INPUTS, PRECISIONS

DEFAULT = BuildOptions()
NONE = "none"
OPTIONS = frozenset(field.name for field in fields(BuildOptions))


def arguments() -> argparse.ArgumentParser:
    """No flag has a default of its own: what is not given is None, so that a flag nobody would read can be refused."""
    made = command.parser(
        "build",
        "Build an engine bundle: one folder that an application loads with one call.\n"
        "Without arguments: the shipped MobileNetV2, int8, for the fastest backend found here.",
        "examples:\n"
        "  python -m edge.build --precision int8\n"
        "  python -m edge.build --weights voc2007-resnet50-avg-448-4-0.5.pth.tar --precision fp16\n"
        "  python -m edge.build --weights mine.pth --precision int8 --dataset csv:photos --max-map-drop 0.5\n"
        "  python -m edge.build --tensorrt 8.6                             # for a Jetson; there: mcar_edge_build BUNDLE OUT\n"
        "  python -m edge.build --from engines/copied-from-the-host        # rebuild on the device, without torch or images",
    )
    what = made.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", help="architecture; default: as the weights say")
    what.add_argument("--weights", metavar="SHIPPED|PATH|random", help=f"default {DEFAULT_WEIGHTS}; random is seeded and for trying out")
    what.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line; default: as the weights say")
    what.add_argument("--size", type=int, help="input side in pixels, a multiple of 32; default: as the weights say, else 256")
    what.add_argument("--regions", type=int, help="regions of the second pass; default: as the weights say, else 4")
    what.add_argument("--threshold", type=float, help="localisation threshold in (0, 1); default: as the weights say, else 0.5")
    what.add_argument("--pooling", choices=POOLINGS, help="global pooling; default: as the weights say, else avg")
    target = made.add_argument_group("engine")
    target.add_argument("--precision", choices=PRECISIONS, help=f"fp16 means the target's 16-bit float (default {DEFAULT.precision})")
    target.add_argument("--backend", choices=(AUTO, *BACKENDS), help=f"default {DEFAULT.backend}: tensorrt, openvino, onnxruntime")
    target.add_argument(
        "--tensorrt",
        metavar="VERSION",
        help="build no engine here, only what a device with that version of TensorRT (8.5 to 11) builds its plans from",
    )
    target.add_argument(
        "--input",
        choices=INPUTS,
        help=f"what the engine takes: normalised images, or resized pixels (default {INPUTS[0]}; with --from that of the bundle)",
    )
    target.add_argument("--batch", type=int, help=f"largest batch (default {BATCH}; with --from that of the bundle)")
    target.add_argument(
        "--compute-capability",
        type=lambda text: tuple(text.replace(" ", "").split(",")),
        metavar="LIST",
        help="tensorrt-rtx: GPUs to build for, such as 8.6,8.9 (default: all it knows)",
    )
    target.add_argument(
        "--effort",
        type=_effort,
        metavar="auto|0..1",
        help="share of the regions that the second pass looks at; auto: the cheapest that keeps the mAP (docs/adaptive.md)",
    )
    target.add_argument(
        "--max-effort-drop", type=float, metavar="PTS", help=f"mAP that auto may cost against effort 1 (default {MAX_EFFORT_DROP})"
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
        "--dataset",
        metavar="SPEC",
        help="images to calibrate int8 and to judge --effort on: scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, mosaic:SPEC, "
        "images:DIR",
    )
    int8.add_argument(
        "--calib-method",
        choices=METHODS,
        help=f"how a range is cut (default {DEFAULT.calib_method})",
    )
    int8.add_argument(
        "--calib-images", type=int, metavar="N", help=f"calibrate on N images, also where a table is shipped (default {CALIBRATION_IMAGES})"
    )
    int8.add_argument("--calibration", type=Path, metavar="FILE", help="a calibration.json made before, instead of images")
    int8.add_argument(
        "--repair",
        action="append",
        choices=(*REPAIRS, NONE),
        help=f"what is done about the error of rounding; may be given more than once (default: all; {NONE}: plain rounding)",
    )
    int8.add_argument("--max-map-drop", type=float, metavar="PTS", help="return layers to float until the mAP drop is at most this")
    out = made.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help=f"bundle folder (default {ENGINES}/<weights>-<size>-<precision>-<backend>)")
    out.add_argument("--force", action="store_true", default=None, help="replace an existing bundle")
    out.add_argument("--seed", type=int, help=f"of random weights and of image sampling (default {DEFAULT.seed})")
    return made


def _effort(text: str) -> float | str:
    return text if text == AUTO else float(text)


_effort.__name__ = "effort"  # what argparse calls it in its message


def main(args: argparse.Namespace) -> int:
    # Flags and options have one set of names.
    given = {name: value for name, value in vars(args).items() if value is not None and name in OPTIONS}
    if args.source is not None:
        _refuse_unread(given)
    if "repair" in given:
        given["repair"] = tuple(name for name in given["repair"] if name != NONE)
    options, events = BuildOptions(**given), command.Terminal(args)
    bundle = build(options, events=events) if args.source is None else rebuild(args.source, options, events=events)
    command.say(f"bundle     {bundle.path} ({bundle.bytes / 1e6:.1f} MB engine)")
    on_device = f"on the device: mcar_edge_build {bundle.path.name} OUT, or python -m edge.build --from {bundle.path.name}"
    command.say(f"next       {f'python -m edge.bench {bundle.path}' if options.tensorrt is None else on_device}")
    command.write_json(args.json, {"bundle": str(bundle.path), "manifest": dict(bundle.manifest)})
    return 0


def _refuse_unread(given: Collection[str]) -> None:
    """Refuse flags that a rebuild would not read, also where they are given what is the default."""
    unread = [command.flag(name) for name in sorted(set(given) - set(READ_BY_REBUILD))]
    if unread:
        raise EdgeError(
            "build",
            f"{', '.join(unread)} would change nothing with --from, which rebuilds what the bundle holds",
            f"Leave it out, or build from the weights; --from goes with {one_of(map(command.flag, (*READ_BY_REBUILD, 'json')))}",
        )


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
