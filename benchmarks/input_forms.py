"""``python -m benchmarks.input_forms FLOATS BYTES``: an engine that takes float32 and one that
takes uint8, interleaved.

Both come from the same graph (``edge.build --from FLOATS --input uint8``) and get the same photos
of 640 × 480, at effort 1, so that both process equally many regions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from edge import Engine, __version__, command
from edge.image import preprocess
from edge.measure import latency, machine
from edge.plain import to_plain


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.input_forms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("floats", type=Path, help="bundle with float32 input")
    made.add_argument("bytes", type=Path, help="bundle with uint8 input")
    made.add_argument("--rounds", type=int, default=11)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    return made


def main(args: argparse.Namespace) -> int:
    random = np.random.default_rng(0)
    photos = [np.asarray(Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480))) for _ in range(8)]
    with Engine.load(args.floats, effort=1) as floats, Engine.load(args.bytes, effort=1) as pixels:
        inputs = [np.stack([preprocess(photos[0], engine.bundle.image)]) for engine in (floats, pixels)]
        scores = [np.stack([one.scores for one in engine.predict(photos)]) for engine in (floats, pixels)]
        turns = {
            "infer float32": latency.timed(lambda: floats.infer(inputs[0])),
            "infer uint8": latency.timed(lambda: pixels.infer(inputs[1])),
            "predict float32": latency.timed(lambda: floats.predict(photos[0])),
            "predict uint8": latency.timed(lambda: pixels.predict(photos[0])),
        }
        with command.progress("input forms", "turn") as progress:
            rounds = latency.interleave(turns, rounds=args.rounds, progress=progress)
    difference = float(np.abs(scores[0] - scores[1]).max())
    compared = {call: rounds.compare(f"{call} uint8", f"{call} float32") for call in ("infer", "predict")}
    medians = {name: rounds.latency(name).percentiles.p50 for name in turns}
    command.say(
        f"{floats.bundle.target.backend}: {inputs[0].nbytes} and {inputs[1].nbytes} bytes an image; scores differ by {difference:.1g}"
    )
    for call, comparison in compared.items():
        command.say(f"{call:8} {medians[f'{call} float32']:.2f} and {medians[f'{call} uint8']:.2f} ms  {comparison}")
    result = {"version": __version__, "machine": to_plain(machine.describe()), "p50_ms": medians, "score_difference": difference}
    ratios = {call: {"ratio": comparison.ratio, "interval": comparison.interval} for call, comparison in compared.items()}
    command.write_json(args.json, {**result, "bytes": [each.nbytes for each in inputs], "uint8_to_float32": ratios})
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
