"""``python -m edge.train``: images with labels → weights, resumable at any moment."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from edge import command
from edge.errors import EdgeError, one_of
from edge.models import DEFAULT_MODEL, FAMILIES, Option, options_of
from edge.models.recipe import RECIPES

RUNS = Path("runs")


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "train",
        "Train a multi-label classifier. The best epoch is chosen on a part of the train split; test is only reported.\n"
        + "\n".join(f"  {family}-*: {line}" for family, line in FAMILIES.items()),
        "examples:\n"
        "  python -m edge.train --dataset scenes                           # MobileNetV2 on the generated scenes, from scratch\n"
        "  python -m edge.train --dataset csv:photos --epochs 60           # your images, from scratch\n"
        "  python -m edge.train --dataset voc2007:VOCdevkit/VOC2007 --model mcar-resnet50 --weights resnet50.pth --size 448\n"
        "  python -m edge.train --dataset csv:photos --model aamn-mobilenetv2 --option channel=false\n"
        "  python -m edge.train --dataset scenes --resume                  # after a kill: the same arguments plus --resume",
    )
    what = made.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", default=DEFAULT_MODEL, help=f"architecture (default {DEFAULT_MODEL})")
    what.add_argument(
        "--weights",
        metavar="imagenet|SHIPPED|PATH",
        help="weights to start from: torchvision's for ImageNet, shipped ones, or a checkpoint (also torchvision's, with any head); "
        "default: random, from the seed",
    )
    what.add_argument("--size", type=int, default=256, help="input side in pixels, a multiple of 32 (default 256)")
    what.add_argument("--regions", type=int, help="number of regions; default: the architecture's own")
    what.add_argument("--threshold", type=float, help="localisation threshold in (0, 1); default: the architecture's own")
    what.add_argument("--pooling", choices=("avg", "gwp", "max"), help="pooling of the feature map; default: the architecture's own")
    what.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of the architecture (docs/models.md); repeatable",
    )
    how = made.add_argument_group("training")
    how.add_argument(
        "--dataset",
        metavar="SPEC",
        help="labelled images with a train split: scenes (generated), csv:DIR, voc2007:ROOT, voc2012:ROOT, coco2014:ROOT, mosaic:SPEC",
    )
    how.add_argument("--recipe", choices=("auto", *RECIPES), default="auto", help="auto: finetune with --weights, else scratch")
    how.add_argument("--epochs", type=int, help="default " + ", ".join(f"{epochs} for {name}" for name, epochs in RECIPES.items()))
    how.add_argument(
        "--qat",
        dest="recipe",
        action="store_const",
        const="qat",
        help="train --weights for INT8: some epochs in which both streams compute as an INT8 engine will",
    )
    how.add_argument("--overhead", action="store_true", help="also rotate by quarter turns: for images without an upright direction")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    how.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order and augmentation; the held-out part is always the same (default 0)"
    )
    out = made.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help=f"default {RUNS}/<model>-<data set>-<size>")
    out.add_argument("--resume", action="store_true", help="continue the run in --output")
    return made


def main(args: argparse.Namespace) -> int:
    try:
        from edge.models import create
        from edge.models.pretrained import IMAGENET
        from edge.models.source import weights_file
        from edge.training.folder import BEST, PIXELS, STATE, check_folder
        from edge.training.qat import prepare, rounding
        from edge.training.recipes import choose
        from edge.training.scores import score
        from edge.training.start import choose_device, start
        from edge.training.trainer import About, Part, Trainer
    except ImportError as error:
        raise EdgeError(
            "train", f"Training needs torch and torchvision: {error}", "Install them: pip install 'mcar-edge[train]'"
        ) from error
    from edge.data import REPORT, TRAINABLE, Dataset, open_dataset, validation_split
    from edge.data.pixels import cached_pixels, remove_pixels
    from edge.measure.accuracy import evaluate
    from edge.options import MAX_SEED, check_size
    from edge.spec import ImageSpec, ModelSpec

    if not 0 <= args.seed <= MAX_SEED:
        raise EdgeError("train", f"`seed` is {args.seed}", "Use a number from 0 to 2^63 − 1")
    image = ImageSpec(args.size)
    check_size(args.size)
    recipe = choose(args.recipe, args.size, args.epochs, pretrained=args.weights is not None, overhead=args.overhead)
    qat, device = recipe.name == "qat", choose_device(args.device)
    if args.dataset is None:
        raise EdgeError("train", "Training needs labelled images, and `dataset` is not set", f"Set `dataset` to {one_of(TRAINABLE)}")
    # Both splits before anything is trained: what cannot be reported at the end is told at once.
    dataset, reported = open_dataset(args.dataset, "train"), open_dataset(args.dataset, REPORT)
    if dataset.labels is None or reported.labels is None:
        raise EdgeError("train", f"{args.dataset} has no labels to train on", "Choose a labelled data set: --dataset")
    folder = args.output or RUNS / f"{args.model}-{dataset.name}-{args.size}"
    check_folder(folder, resume=args.resume)
    weights = args.weights if args.weights in (None, IMAGENET) else weights_file(args.weights)
    network = start(create(args.model, len(dataset.classes), **_options(args)), args.seed, weights)

    def part(images: Dataset, title: str) -> Part:
        assert images.labels is not None
        with command.progress(title) as report:
            pixels = cached_pixels(images, image.size, folder / PIXELS, progress=report)
            return Part(pixels, images.labels, images.digest)

    # Not by --seed: edge.build judges int8 on the same part, which it must find again, and no
    # trained image may be in it.
    kept, held_out = validation_split(dataset)
    about = About(args.model, dataset.classes, image.size, dataset.name)
    trained, validated = part(kept, "decode train"), part(held_out, "decode validation")
    # Through a copy: what is reported in the end is the network in float.
    if not qat:
        learning = network
    elif args.resume and (folder / STATE).is_file():
        learning = rounding(network)  # its weights are in the state
    else:
        learning = prepare(network, ModelSpec(args.model, dataset.classes, network.spec_options()), image, trained.images)
    trainer = Trainer(
        learning, trained, validated, recipe,
        lambda scores, labels: evaluate(scores, labels).map, folder, about, seed=args.seed, device=device,
    )  # fmt: skip
    if args.resume and trainer.resume():
        command.say(f"resumed    in epoch {trainer.state.epoch + 1} of {recipe.epochs}, step {trainer.state.step}")
    with command.progress("train", unit="step") as report:
        outcome = trainer.run(report)
    best = folder / BEST
    command.say(f"best       epoch {outcome.best_epoch}: validation mAP {outcome.best_map:.2f} ({len(held_out)} images cut from train)")
    points = {}
    test = part(reported, f"decode {reported.split}")
    for stream, scores in score(network, best, test.images, image.size, device).items():
        points[stream] = accuracy = evaluate(scores, test.labels)
        command.say(f"{reported.split:10} {stream:6} mAP {accuracy.map:.2f}  CF1 {accuracy.cf1:.2f}  OF1 {accuracy.of1:.2f}")
    command.say(f"           {points[network.streams[-1]].convention}")
    command.say(f"weights    {best} ({outcome.seconds / 60:.0f} minutes of training)")
    if qat:
        command.say("next       edge.build with --repair none: these weights have learned to be rounded as they are")
    remove_pixels(folder / PIXELS)
    command.write_json(
        args.json,
        {
            "weights": str(best), "best_epoch": outcome.best_epoch, "validation_map": outcome.best_map, "seconds": outcome.seconds,
            "recipe": asdict(trainer.recipe), "options": network.spec_options(), "log": list(outcome.rows),
            reported.split: {stream: {"map": value.map, "cf1": value.cf1, "of1": value.of1} for stream, value in points.items()},
        },
    )  # fmt: skip
    return 0


def _options(args: argparse.Namespace) -> dict[str, Option]:
    """The architecture's options that were given; a value is JSON where it can be, else a word."""
    options = {name: value for name, value in vars(args).items() if name in ("pooling", "regions", "threshold") and value is not None}
    known = options_of(args.model)
    for given in args.option:
        name, separator, value = given.partition("=")
        if not (name and separator and value):
            raise EdgeError("train", f"The option {given!r} is not of the form NAME=VALUE", "Write --option NAME=VALUE")
        if name not in known:
            raise EdgeError("train", f"{args.model} has no option {name!r}", f"Use --option with {one_of(known)}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
