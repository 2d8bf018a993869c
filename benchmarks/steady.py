"""``python -m benchmarks.steady``: what steady labels do to flicker, and how much later they are.

A synthetic stream of known truth: a label appears or disappears every ten seconds, its score is
0.35 or 0.65 plus noise (standard deviation 0.15, new in every frame), 25 frames per second, 40
minutes. Delay: from a change of the truth to the first frame that shows it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge import command
from edge.video.steady import Steady, SteadyLabels

RATE, HOLD_S, PERIODS = 25, 10, 240
Labels = NDArray[np.bool_]


def main(args: argparse.Namespace) -> int:
    truth = np.repeat(np.arange(PERIODS) % 2 == 1, RATE * HOLD_S)
    noise = np.random.default_rng(0).normal(0, 0.15, truth.size)
    scores = np.clip(np.where(truth, 0.65, 0.35) + noise, 0, 1).astype(np.float32)
    minutes = truth.size / RATE / 60
    for name, labels in (("as they are", scores >= 0.5), *((f"steady, hold {hold} s", steady(scores, hold)) for hold in args.hold)):
        flips = int(np.abs(np.diff(labels.astype(int))).sum())
        wrong, delay = float((labels != truth).mean()), delay_s(labels, truth)
        command.say(
            f"{name:20} {flips / minutes:7.1f} flips a minute (truth {60 / HOLD_S:g})  delay {delay:.2f} s  wrong {wrong:.1%} of frames"
        )
    return 0


def steady(scores: NDArray[np.float32], hold_s: float) -> Labels:
    state = SteadyLabels(np.array([0.5], np.float32), Steady(hold_s=hold_s))
    return np.array([state.update(score[None], index / RATE)[0] for index, score in enumerate(scores)])


def delay_s(labels: Labels, truth: Labels) -> float:
    """Median seconds from a change of the truth to the first frame that shows it."""
    found: Sequence[float] = [
        float(np.argmax(labels[at : at + RATE * HOLD_S] == truth[at])) / RATE for at in np.flatnonzero(np.diff(truth.astype(int))) + 1
    ]
    return float(np.median(found))


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.steady", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--hold", type=float, nargs="+", default=[0.1, 0.5], help="seconds (default 0.1 0.5)")
    return made


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
