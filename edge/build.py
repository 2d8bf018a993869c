"""``python -m edge.build``: arguments → ``BuildOptions`` → one call of ``edge.pipeline`` → what it
made."""

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
    """No flag has a default of its own: what is not given is None, so that a flag nobody would read
    can be refused."""
    made = command.parser(
        "build",
        "Build an engine bundle: one folder that an application loads with one call.\n"
        "Without arguments: the shipped MobileNetV2, int8, for the best backend found here.",
        "examples:\n"
        "  python -m edge.build --precision int8\n"
        "  python -m edge.build --weights voc2007-resnet50-avg-448-4-0.5.pth.tar --precision fp16\n"
        "  python -m edge.build --weights mine.pth --precision int8 --dataset csv:photos --max-map-drop 0.5\n"
        "  python -m edge.build --tensorrt 8.6                             # for a Jetson; there: mcar_edge_build BUNDLE OUT\n"
        "  python -m edge.build --from engines/copied-from-the-host        # rebuild on the device, without torch or images",
    )
    what = made.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", help="architecture (default: that of the weights)")
    what.add_argument(
        "--weights",
        metavar="SHIPPED|PATH|random",
        help=f"shipped weights, a checkpoint, or random to try the pipeline (default {DEFAULT_WEIGHTS})",
    )
    what.add_argument("--labels", type=Path, metavar="FILE", help="class names, one per line (default: those of the weights)")
    what.add_argument("--size", type=int, help="input side in pixels, a multiple of 32 (default: that of the weights, else 256)")
    what.add_argument("--regions", type=int, help="regions of the second pass (default: that of the weights, else 4)")
    what.add_argument("--threshold", type=float, help="localisation threshold in (0, 1) (default: that of the weights, else 0.5)")
    what.add_argument("--pooling", choices=POOLINGS, help="global pooling (default: that of the weights, else avg)")
    target = made.add_argument_group("engine")
    target.add_argument("--precision", choices=PRECISIONS, help=f"fp16 means the target's 16-bit float (default {DEFAULT.precision})")
    target.add_argument(
        "--backend", choices=(AUTO, *BACKENDS), help=f"default {DEFAULT.backend}: the first that works of tensorrt, openvino, onnxruntime"
    )
    target.add_argument(
        "--tensorrt",
        metavar="VERSION",
        help="prepare a bundle whose engine is built later, on a device with this version of TensorRT (8.5 to 11)",
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
        help="share of the regions that the second pass processes; auto: the cheapest within --max-effort-drop (docs/adaptive.md)",
    )
    target.add_argument(
        "--max-effort-drop",
        type=float,
        metavar="PTS",
        help=f"points of mAP that auto may lose against effort 1 (default {MAX_EFFORT_DROP})",
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
        help="images to calibrate int8 and to choose --effort: scenes, csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, mosaic:SPEC, "
        "images:DIR",
    )
    int8.add_argument(
        "--calib-method",
        choices=METHODS,
        help=f"how ranges are clipped (default {DEFAULT.calib_method})",
    )
    int8.add_argument(
        "--calib-images",
        type=int,
        metavar="N",
        help=f"calibrate on N images, even if there is a shipped table (default {CALIBRATION_IMAGES})",
    )
    int8.add_argument("--calibration", type=Path, metavar="FILE", help="an existing calibration.json, instead of images")
    int8.add_argument(
        "--repair",
        action="append",
        choices=(*REPAIRS, NONE),
        help=f"how to reduce rounding errors; repeatable (default: all; {NONE}: plain rounding)",
    )
    int8.add_argument(
        "--max-map-drop", type=float, metavar="PTS", help="return layers to float until int8 loses at most this many points of mAP"
    )
    out = made.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help=f"bundle folder (default {ENGINES}/<weights>-<size>-<precision>-<backend>)")
    out.add_argument("--force", action="store_true", default=None, help="replace an existing bundle")
    out.add_argument("--seed", type=int, help=f"seed of random weights and image sampling (default {DEFAULT.seed})")
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
            f"{', '.join(unread)} would have no effect with --from, which rebuilds an existing bundle",
            f"Leave it out, or build from the weights; --from accepts {one_of(map(command.flag, (*READ_BY_REBUILD, 'json')))}",
        )


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
