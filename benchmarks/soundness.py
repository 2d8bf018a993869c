"""``python -m benchmarks.soundness BUNDLE``: is the measuring itself sound? Live runs of what the
tests show on a fake clock.

1. An engine against itself must come out as no difference.
2. The same engine made slower by a known share must be found, with that share.
3. An engine that stalls at random must be called invalid.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge import Engine, __version__, command
from edge.measure import latency, machine
from edge.plain import to_plain

SLOWED = 0.05


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.soundness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("bundle", type=Path, help="bundle folder")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result for machines")
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--rounds", type=int, default=11)
    return made


def main(args: argparse.Namespace) -> int:
    before = machine.state()
    with Engine.load(args.bundle) as engine, Engine.load(args.bundle) as again:
        images = np.random.default_rng(0).standard_normal((args.batch, 3, *[engine.bundle.image.size] * 2), np.float32)
        turns = {
            "engine": latency.timed(lambda: engine.infer(images)),
            "itself": latency.timed(lambda: again.infer(images)),
            "slowed": latency.timed(slowed(lambda: engine.infer(images), SLOWED)),
        }
        with command.progress("soundness", "turn") as progress:
            rounds = latency.interleave(turns, rounds=args.rounds, progress=progress)
        steady = latency.measure(lambda: engine.infer(images), images=args.batch)
        shaken = latency.measure(stalling(lambda: engine.infer(images), float(np.median(steady.seconds))), images=args.batch)
    itself, slower = rounds.compare("itself", "engine"), rounds.compare("slowed", "engine")
    verdicts = {"steady": latency.judge(steady), "stalling": latency.judge(shaken)}
    checks = {
        "itself": (itself.verdict == "no difference", f"against itself: {itself}"),
        "slowed": (slower.verdict == "slower", f"slowed by {SLOWED:.0%}: {slower}"),
        "steady": (not verdicts["steady"], f"as it is: {_verdict(verdicts['steady'])}"),
        "stalling": (bool(verdicts["stalling"]), f"with random stalls: {_verdict(verdicts['stalling'])}"),
    }
    for sound, text in checks.values():
        command.say(f"{'ok  ' if sound else 'FAIL'} {text}")
    result = {
        "version": __version__,
        "bundle": args.bundle.name,
        "batch": args.batch,
        "checks": {name: {"sound": sound, "found": text} for name, (sound, text) in checks.items()},
        "ratios": {"itself": list(itself.ratios), "slowed": list(slower.ratios)},
        "machine": to_plain(machine.describe()),
        "disturbance": to_plain(machine.between(before, machine.state())[1]),
    }
    command.write_json(args.json, result)
    return 0 if all(sound for sound, _ in checks.values()) else 3


def _verdict(reasons: tuple[str, ...]) -> str:
    return "INVALID: " + "; ".join(reasons) if reasons else "VALID"


def slowed(call: Callable[[], object], share: float) -> Callable[[], None]:
    """The call, and then as much again of its own time, spent busily: a sleeping core would clock
    down."""

    def run() -> None:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        while time.perf_counter() - end < share * (end - start):
            pass

    return run


def stalling(call: Callable[[], object], usual_s: float) -> Callable[[], None]:
    """The call, followed in a third of the cases by a stall of one to three times its usual
    time."""
    random = np.random.default_rng(0)

    def run() -> None:
        call()
        if random.random() < 1 / 3:
            time.sleep(usual_s * random.uniform(1, 3))

    return run


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
