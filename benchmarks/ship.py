"""``python -m benchmarks.ship NAME CHECKPOINT --dataset SPEC``: what the project ships of a model,
made from a checkpoint.

Writes to ``edge/assets/``: ``NAME.pth``, weights as 16-bit floats; ``NAME.calibration.json``,
ranges, equalisation and rounding for int8 from the train split; ``NAME.effort.json``, the second
pass (``benchmarks.effort_tables``). Prints the figures of the model card, of the weights as they
are shipped, on the images that come along.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import effort_tables, streams
from edge import command
from edge.atomic import write_atomically
from edge.bundle import CALIBRATION
from edge.data import REPORT, open_dataset
from edge.models import create
from edge.models.checkpoint import OURS, describe, load_checkpoint, read, save_checkpoint
from edge.models.source import ASSETS, open_source
from edge.pipeline import BuildOptions, build


def arguments() -> argparse.ArgumentParser:
    made = command.parser("ship", __doc__ or "")
    made.prog = "python -m benchmarks.ship"
    made.add_argument("name", metavar="NAME", help="under which the weights are shipped, such as mcar-mobilenetv2-ucmerced")
    made.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pth of edge.train, or the shipped file itself")
    made.add_argument("--dataset", metavar="SPEC", required=True, help="what it was trained on")
    return made


def main(args: argparse.Namespace) -> int:
    if args.checkpoint.resolve() != ASSETS / f"{args.name}.pth":
        _weights(args.checkpoint, args.name)
    _table(args)
    effort_tables.main(effort_tables.arguments().parse_args([args.name, "--dataset", args.dataset]))
    source = open_source(args.name)
    found = streams.judge(source, open_dataset(source.default_dataset or args.dataset, REPORT))
    streams.tell(found)
    command.write_json(args.json, found)
    return 0


def _weights(checkpoint: Path, name: str) -> None:
    content = read(checkpoint)
    about, told = describe(content, checkpoint.name), dict(content[OURS])
    network = load_checkpoint(create(about.model, about.num_classes, **about.options), content)
    own = {"model", "classes", "size", *network.spec_options()}
    save_checkpoint(
        ASSETS / f"{name}.pth", network, name=about.model, classes=about.classes or (), size=told["size"], epoch=int(content["epoch"]),
        best_score=float(content["best_score"]), extra={key: value for key, value in told.items() if key not in own}, dtype=torch.float16,
    )  # fmt: skip
    command.say(f"weights    {ASSETS / f'{name}.pth'}")


def _table(args: argparse.Namespace) -> None:
    """The table of a build that calibrates; its backend and batch do not matter."""
    with tempfile.TemporaryDirectory() as folder:
        options = BuildOptions(weights=args.name, dataset=args.dataset, effort=1, batch=1, output=Path(folder) / "bundle")
        made = build(options, events=command.Terminal(args))
        write_atomically(ASSETS / f"{args.name}.calibration.json", made.read_file(CALIBRATION))
    command.say(f"table      {ASSETS / f'{args.name}.calibration.json'}")


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
