"""What every command shares: common flags, one-line errors with exit codes, JSON results, progress
bars."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from edge import __version__
from edge.atomic import check_writable, write_atomically
from edge.errors import EdgeError
from edge.events import Progress
from edge.shown import plain

WRITTEN = ("json", "html", "markdown")  # flags that name a file a command writes at its end
_lost: list[EdgeError] = []  # what this command could not print


def parser(name: str, description: str, epilog: str = "", *, json: bool = True) -> argparse.ArgumentParser:
    """An argument parser with the flags all commands have; without ``json`` where a command has its
    own."""
    made = argparse.ArgumentParser(
        prog=f"python -m edge.{name}", description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if json:
        made.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON to FILE")
    made.add_argument("--version", action="version", version=f"mcar-edge {__version__}")
    return made


def add_approximate_pixels(made: argparse.ArgumentParser) -> None:
    """The flag of commands that read photographs."""
    made.add_argument(
        "--approximate-pixels", action="store_true", help="decode and resize large images faster, to slightly different pixels"
    )


def run(main: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Run a command's body; an ``EdgeError`` becomes its one line on stderr and its exit code.

    The files it is to write are tried first: nobody waits for a result that has no place.
    """
    _lost.clear()
    try:
        for name in WRITTEN:
            path = vars(arguments).get(name)
            if path is not None:
                check_writable(path)
        code = main(arguments) or 0
    except EdgeError as error:
        tell(error, arguments)
        return error.exit_code
    except KeyboardInterrupt:
        _print("interrupted", sys.stderr)
        return 130
    except (OSError, MemoryError) as error:  # what a machine does to any code; all that has one name is told by its own line
        why, where = (error.strerror or str(error), error.filename) if isinstance(error, OSError) else ("out of memory", None)
        problem = f"The operating system reported: {why}" + (f" ({where})" if where else "")
        tell(EdgeError("system", problem, "Free some memory or disk space, or use another folder or a smaller `batch`"), arguments)
        return 1
    for lost in _lost:
        tell(lost, arguments)
    return code or (1 if _lost else 0)


def tell(error: EdgeError, arguments: argparse.Namespace) -> None:
    """The one line of an error, on stderr."""
    _print(with_flags(str(error), arguments), sys.stderr)


def with_flags(message: str, arguments: argparse.Namespace) -> str:
    """A message with the parameters it names in backticks turned into this command's flags."""
    return re.sub(r"`(\w+)`", lambda name: flag(name[1]) if name[1] in vars(arguments) else name[0], message)


def flag(name: str) -> str:
    """A parameter as it is given on a command line."""
    return "--" + name.replace("_", "-")


def write_json(path: Path | None, value: Any) -> None:
    """Write a command's result for machines, if it was asked for."""
    if path is not None:
        write_atomically(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(title: str, unit: str = "image") -> Iterator[Progress]:
    """A progress bar on stderr (silent when stderr is no terminal), as the callback the stages
    take."""
    try:
        from tqdm import tqdm
    except ImportError:  # a device needs no progress bars
        yield lambda done, total: None
        return
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed by the caller
    with tqdm(desc=title, unit=unit, file=sys.stderr, disable=not terminal, leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def say(*lines: str) -> None:
    """Lines for the person at the terminal."""
    for line in lines:
        _print(line, sys.stdout)


def complain(text: str, end: str = "\n") -> None:
    """A line for the person at the terminal that is no result; with ``end`` as a carriage return
    the next one takes its place."""
    _print(text, sys.stderr, end)


def warn(text: str) -> None:
    """A warning for the person at the terminal; results go to stdout, this to stderr."""
    _print(f"warning: {text}", sys.stderr)


class Terminal:
    """Tells the person at the terminal what a long call tells: ``edge.events.Events`` for the
    command with these arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def say(self, name: str, text: str) -> None:
        say(f"{name:10} {with_flags(text, self._arguments)}")

    def warn(self, text: str) -> None:
        warn(with_flags(text, self._arguments))

    progress = staticmethod(progress)


def _print(text: str, stream: TextIO | None, end: str = "\n") -> None:
    """Print a line. Who stops reading (``| head``) still gets the files and the gates that were
    asked for.

    Control characters, and what a stream's encoding lacks, are printed as escapes. A stream that
    cannot be written costs the command its exit code only.
    """
    if stream is None:  # closed by the caller
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(plain(text).encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)
    except OSError as error:
        # What is still buffered, and every later line, goes nowhere: the interpreter would fail on
        # it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            name = "standard output" if stream is sys.stdout else "standard error"
            _lost.append(EdgeError("write", f"Cannot write {name}: {error.strerror}", "Free some space, or write it elsewhere"))
