"""``python -m edge.doctor``: what is installed, which backends work and why not, whether a bundle
will load here."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from pathlib import Path

from edge import __version__, backends, command
from edge.bundle import Bundle
from edge.engine import Engine
from edge.errors import EdgeError
from edge.plain import Json

# Distribution → what it is for. The first two are all a device needs beside its vendor runtime.
PACKAGES = {
    "numpy": "everything",
    "pillow": "decoding and resizing",
    "onnx": "building",
    "onnxruntime": "backend onnxruntime; the parity check and the reference for accuracy",
    "openvino": "backend openvino",
    "tensorrt": "backend tensorrt",
    "tensorrt-rtx-cu13": "backend tensorrt-rtx",
    "cuda-bindings": "backends tensorrt and tensorrt-rtx, to reach the GPU",
    "torch": "building and training",
    "torchvision": "building and training",
    "onnxscript": "building",
    "psutil": "memory figures of the bench",
    "tqdm": "progress bars",
}


def arguments() -> argparse.ArgumentParser:
    made = command.parser("doctor", "Report what is installed, which backends work here or why not, and whether a bundle loads here.")
    made.add_argument("bundle", nargs="?", type=Path, help="bundle folder to try")
    return made


def main(args: argparse.Namespace) -> int:
    found = {name: _version(name) for name in PACKAGES}
    support = {name: backends.probe(name) for name in backends.BACKENDS}
    result: dict[str, Json] = {
        "version": __version__,
        "python": platform.python_version(),
        "machine": {"architecture": platform.machine(), "system": platform.platform()},
        "packages": found,
        "backends": {
            name: {
                "works": not one.reason,
                "builds": one.builds,
                "reason": one.reason,
                "fix": one.fix,
                "version": one.version,
                "float16": one.float16,
            }
            for name, one in support.items()
        },
    }
    command.say(f"mcar-edge {__version__} on Python {platform.python_version()}, {platform.platform()}")
    command.say("", "packages")
    for name, purpose in PACKAGES.items():
        command.say(f"  {name:18} {found[name] or 'not installed':14} {purpose}")
    command.say("", "backends")
    for name, one in support.items():
        no_int8 = f"; no int8: {one.no_int8}" if one.no_int8 else ""
        state = (
            f"works on {one.device}; fp16 is {one.float16 or 'not available'}{no_int8}" if not one.reason else f"{one.reason}. {one.fix}"
        )
        command.say(f"  {name:18} {one.version or '-':14} {state}")
    code = 0
    if args.bundle is not None:
        result["bundle"], code = _examine(args.bundle)
    command.write_json(args.json, result)
    return code


def _examine(path: Path) -> tuple[dict[str, Json], int]:
    """Try a bundle the way an application would, and say what it is."""
    command.say("", f"bundle {path}")
    try:
        bundle = Bundle.read(path)
        target = bundle.target
        reduced = f" ({target.float16})" if target.float16 else ""
        command.say(f"  {bundle.model.name}, {len(bundle.model.labels)} classes, {bundle.image.size} px, input {bundle.image.input}")
        command.say(f"  {target.backend}, {target.precision}{reduced}, batches {' '.join(map(str, target.batches))}")
        if bundle.stages is not None:
            command.say(f"  two stages; the second is compiled for {', '.join(map(str, bundle.stages.sizes))} regions")
            rule = bundle.stages.rule
            by = (
                "by rank"
                if rule.kind == "rank"
                else f"where the first stage is unsure (fitted on {rule.fitted_on.get('data', 'unknown images')})"
            )
            command.say(f"  effort {bundle.stages.effort:g}: the share of the regions that the second stage processes, {by}")
        facts = bundle.manifest.get("engine", {})
        said = backends.describe_engine(target.backend, facts)
        for line in said:
            command.say(f"  {line}")
        with Engine.load(path) as engine:
            # An engine built without a GPU shows its layers only where it runs.
            for line in backends.describe_engine(target.backend, {"layers": engine.layers()}):
                if line not in said:
                    command.say(f"  {line}")
    except EdgeError as error:
        command.complain(f"  {error}")
        return {"path": str(path), "loads": False, "reason": str(error)}, error.exit_code
    command.say("  loads here")
    return {"path": str(path), "loads": True, "reason": ""}, 0


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
