"""``python -m edge.watch``: what a camera, a stream, a film or a folder that fills shows, frame by
frame."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from edge import command
from edge.atomic import check_writable, refusing_unwritable
from edge.engine import Engine
from edge.errors import EdgeError
from edge.video.film import film
from edge.video.frames import Frame, stream
from edge.video.http import Watched, served
from edge.video.sources import without_password

RECENT = 60  # frames that the status line is about


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "watch",
        "Run an engine on a video source until it ends, or until an interrupt or SIGTERM. Streams and cameras: the newest frame is taken,\n"
        "the others are dropped and counted, and a lost stream is reopened. Files and folders: every frame is processed.",
        "examples:\n  python -m edge.watch engines/demo-int8 rtsp://camera/stream --steady --json -\n"
        "  python -m edge.watch engines/demo-int8 clip.mp4 --draw seen.mp4",
        json=False,
    )
    made.add_argument("bundle", type=Path, help="bundle folder made by edge.build")
    made.add_argument("source", help="video file, rtsp://… or another address, camera (/dev/video0 or 0), folder that fills")
    made.add_argument("--all", action="store_true", help="every frame of a stream or camera, even if results fall behind")
    made.add_argument("--steady", action="store_true", help="labels that do not flicker: two thresholds and a hold time")
    made.add_argument(
        "--effort", type=float, metavar="E", help="share of regions the second pass processes, 0..1; default: the bundle's own"
    )
    made.add_argument("--budget-ms", type=float, metavar="MS", help="time per frame; regions that do not fit are skipped")
    made.add_argument(
        "--score-threshold", type=float, metavar="T", help="labels at or above this score; default: the bundle's own, else 0.5"
    )
    command.add_approximate_pixels(made)
    made.add_argument("--json", dest="lines", metavar="FILE", help="write JSON Lines to FILE, one object per frame; - is standard output")
    made.add_argument("--draw", type=Path, metavar="OUT.mp4", help="write a video of the annotated frames")
    made.add_argument("--frames", type=int, metavar="N", help="end after N frames")
    made.add_argument(
        "--http", type=int, metavar="PORT", help="serve a page with the image, labels, frames per second, latency and processed regions"
    )
    made.add_argument("--token", metavar="T", help="also serve the page to other machines, at /?token=T; default: this machine only")
    made.add_argument("--duration", type=float, metavar="S", help="end after S seconds")
    return made


def main(args: argparse.Namespace) -> int:
    _check(args)
    for path in (args.draw, args.lines):
        if path not in (None, "-"):
            check_writable(path)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        lines = stack.enter_context(_lines(args.lines))
        engine = stack.enter_context(Engine.load(args.bundle))
        drawn = stack.enter_context(film(args.draw)) if args.draw is not None else None
        page = stack.enter_context(_page(args)) if args.http is not None else None
        status = Status(quiet=args.lines == "-")
        frames = stream(
            engine,
            args.source,
            every=args.all,
            steady=args.steady,
            score_threshold=args.score_threshold,
            effort=args.effort,
            budget_ms=args.budget_ms,
            approximate_pixels=args.approximate_pixels,
            frames=args.frames,
            duration_s=args.duration,
            stop=stop,
            events=command.Terminal(args),
        )
        stack.enter_context(contextlib.closing(frames))  # type: ignore[type-var]  # a generator
        for frame in frames:
            if lines is not None and not _write(lines, json.dumps(plain(frame), allow_nan=False)):
                break
            if drawn is not None:
                drawn.add(frame)
            if page is not None:
                page.add(frame)
            status.add(frame)
        status.end()
    return 0


def plain(frame: Frame) -> dict[str, Any]:
    """A frame as its JSON object."""
    return {
        "frame": frame.frame,
        "time_s": round(frame.time_s, 6),
        "labels": [{"name": name, "score": score} for name, score in frame.labels],
        "regions": [asdict(region) for region in frame.regions],
        "looks": frame.looks,
        "latency_ms": round(frame.latency_ms, 3),
        "dropped": frame.dropped,
    }


class Status:
    """For the person at the terminal: a line that changes on stderr, and on stdout a line whenever
    the labels change.

    Args:
        quiet: nothing on stdout, which is for machines.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._begin = time.perf_counter()
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._frames = self._dropped = self._width = 0
        self._names: list[str] | None = None

    def add(self, frame: Frame) -> None:
        self._ends.append(time.perf_counter())
        self._latencies.append(frame.latency_ms)
        self._frames += 1
        self._dropped += frame.dropped
        names = sorted(name for name, _ in frame.labels)
        if names != self._names and not self._quiet:
            self._clear()
            command.say(f"{frame.time_s:9.2f} s  " + (", ".join(f"{name} {score:.2f}" for name, score in frame.labels) or "nothing"))
        self._names = names
        if self._terminal:
            rate = (len(self._ends) - 1) / (self._ends[-1] - self._ends[0]) if len(self._ends) > 1 else math.nan
            text = f"frame {frame.frame}  {rate:.1f} frames/s  {self._median():.1f} ms  looks {frame.looks}  dropped {self._dropped}"
            self._width = max(self._width, len(text))
            command.complain(f"{text:{self._width}}", end="\r")

    def end(self) -> None:
        self._clear()
        seconds = time.perf_counter() - self._begin
        took = f", {self._median():.1f} ms a frame" if self._frames else ""
        command.complain(f"{self._frames} frames in {seconds:.1f} s{took}; {self._dropped} dropped")

    def _median(self) -> float:
        return sorted(self._latencies)[len(self._latencies) // 2]

    def _clear(self) -> None:
        if self._width:
            command.complain(" " * self._width, end="\r")
            self._width = 0


def _check(args: argparse.Namespace) -> None:
    for name, least, most in (("score_threshold", 0.0, 1.0), ("frames", 1, math.inf), ("duration", 0.0, math.inf), ("http", 0, 65535)):
        value = vars(args)[name]
        if value is not None and not least <= value <= most:
            allowed = f"a value from {least:g} to {most:g}" if most < math.inf else f"{least:g} or more"
            raise EdgeError("watch", f"`{name}` is {value:g}", f"Use {allowed}")
    if args.token is not None and args.http is None:
        raise EdgeError("watch", "`token` is given but no page is served", "Set `http` to a port, or leave out `token`")
    if args.token == "":
        raise EdgeError("watch", "`token` is empty", "Use a word that nobody can guess")
    same = args.draw is not None and os.path.exists(args.source) and os.path.exists(args.draw) and os.path.samefile(args.draw, args.source)
    if same:
        raise EdgeError("watch", f"{args.draw} is the source itself", "Write the --draw film to another file")


@contextlib.contextmanager
def _page(args: argparse.Namespace) -> Iterator[Watched]:
    """What the page shows; its address is told."""
    watched = Watched()
    shown = without_password(args.source)
    with served(watched, args.http, bundle=args.bundle.resolve().name, source=shown, token=args.token) as address:
        command.complain(f"page       {address}")
        yield watched


@contextlib.contextmanager
def _lines(name: str | None) -> Iterator[TextIO | None]:
    """Where JSON Lines go."""
    if name is None or name == "-":
        yield None if name is None else sys.stdout
        return
    with contextlib.ExitStack() as stack:
        with refusing_unwritable(Path(name)):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(name, "w", encoding="utf-8"))
        yield file


def _write(lines: TextIO, text: str) -> bool:
    """Write a line at once; False if nobody reads any more (``| head``)."""
    try:
        lines.write(text + "\n")
        lines.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), lines.fileno())  # the interpreter flushes it when it ends
        return False
    except OSError as error:
        raise EdgeError("write", f"Cannot write the results: {error.strerror}", "Free some space, or write them elsewhere") from error
    return True


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that an interrupt or SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
