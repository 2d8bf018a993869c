"""Every system call that changes something beside an output, killed or refused: is the old result
there or the new one, and no other?

    python tests/faults/harness.py --record FILE [--only COMMAND …] [--faults FAULT …] [--random N]
    [--few N] [--bundle DIR] [--table]

A process that has imported everything forks a child for each fault; strace injects it into the
child at one system call. What a run of the command calls is listed first, by a run without a fault.
Every outcome is a line of FILE, and what stands there is not run again.

1. After a kill, what has the output's name is whole: the old or the new. A second run of the same
   command then succeeds, and leaves nothing but the output.
2. A call that the system refuses (ENOSPC, EIO, EACCES) ends in one line and exit code 1, or costs
   nothing and ends in 0. Then as above.

The network has the backbone of ``small_backbone`` and 64 pixels; it is exported once. Which calls
write what does not depend on the network.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from edge import bench, build, command, pipeline, predict, tune
from edge.bundle import Bundle
from edge.image import decode
from edge.manifest import NAME
from edge.measure.latency import Plan
from edge.tuning import TuneOptions, timing

CALLS = (
    *("open", "openat", "creat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "fsync", "chmod", "fchmod", "fchmodat"),
)
KILL = "KILL"
FAULTS = (KILL, "ENOSPC", "EIO", "EACCES")
LIMIT = 300  # seconds of a run
QUICK = Plan(samples=3, least_s=0, limit_s=0.2, warm_calls=1, warm_s=0.1, enough=1, interval=9, spread=9, drift=9, rounds=1, turn_s=0.01)
SEARCHED = TuneOptions(sizes=(64,), regions=(1,), precisions=("fp32",), backends=("onnxruntime",), images=2, plan=QUICK)
NETWORK = ("--batch", 1, "--precision", "fp32", "--backend", "onnxruntime", "--output")
TRIES = 6  # to meet a call that comes under another number than when it was listed


class Call(NamedTuple):
    """A system call: its name, which of that name in its thread, the file or folder, and which of
    that name there."""

    kind: str
    number: int
    where: str
    nth: int


@dataclass(frozen=True)
class Command:
    """A command under test.

    Attributes:
        main: what runs, given words.
        words: of the first run and of the second, in a folder.
        whole: raises where something in the folder is neither absent nor whole.
        names: what lies in the folder after a good run.
        old: whether the output is there before.
    """

    main: Callable[[Iterable[object]], int]
    words: Callable[[Path], tuple[list[object], list[object]]]
    whole: Callable[[Path], None]
    names: frozenset[str]
    old: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one fault."""

    command: str
    call: str
    number: int
    what: str
    fault: str
    code: int
    said: str
    wrong: str


def runs(module: ModuleType) -> Callable[[Iterable[object]], int]:
    """The command of a module, as its own process would run it."""
    more = {bench: {"plan": QUICK}, tune: {"asked": SEARCHED}}.get(module, {})
    main = partial(module.main, **more)
    return lambda words: command.run(main, module.arguments().parse_args([str(word) for word in words]))


def import_everything() -> None:
    """What the commands import when they are asked to work, so that no child has to."""
    for module in (
        "torch",
        "torchvision",
        "onnxscript",
        "onnxruntime",
        "openvino",
        "edge.pipeline",
        "edge.quantisation",
        "edge.adaptive",
        "edge.data",
        "edge.data.pixels",
        "edge.train",
        "edge.training.qat",
        "edge.training.recipes",
        "edge.training.start",
        "edge.training.trainer",
        "calib.effort",
        "calib.trials",
        "export.exporter",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def small_backbone() -> Any:
    """(B, 3, S, S) → (B, 16, S/32, S/32), in a hundredth of MobileNetV2's time."""
    from torch import nn

    first, last = ((nn.Conv2d(*sides, bias=False), nn.BatchNorm2d(sides[1]), nn.ReLU6()) for sides in ((3, 8, 8, 8), (8, 16, 4, 4)))
    return nn.Sequential(*first, *last)


_given: list[Path] = []  # a bundle to begin with, where there is one


@cache
def material() -> Path:
    """A photograph, a data set, weights and a bundle of them to begin with."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    splits = ["train"] * 10 + ["validation"] * 6 + ["test"] * 2
    pixels = np.random.default_rng(0).integers(0, 255, (len(splits), 64, 64, 3), np.uint8)
    (folder / "data" / "images").mkdir(parents=True)
    rows = ["image,split,labels"]
    for index, (one, split) in enumerate(zip(pixels, splits, strict=True)):
        Image.fromarray(one).save(folder / "data" / "images" / f"{index}.png")
        rows.append(f"{index}.png,{split},{'ab'[index % 2]}")
    (folder / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    decode(folder / "data" / "images" / "0.png")  # for what Pillow imports, so that no thread of a child has to
    if _given:
        shutil.copytree(_given[0], folder / "bundle")
        return folder
    from edge.models.backbones import BACKBONES

    BACKBONES["mobilenetv2"] = (small_backbone, 16, {})
    timing.LIMIT_S, timing.CALLS, timing.ROUNDS = 0.2, 4, 2
    pid = forked(partial(_prepare, folder), folder / "said")
    assert ended(pid) == 0, (folder / "said").read_text()
    exported = (folder / "exported").read_bytes()
    pipeline._export = lambda source, events: pickle.loads(exported)
    return folder


def _prepare(folder: Path) -> int:
    """Write weights and build their bundle, and keep the exported network: nothing is written
    before it is there, and no other run need export it again."""
    from edge.models.checkpoint import save_checkpoint
    from edge.models.source import open_source

    (folder / "classes").write_text("a\nb\n")
    made = open_source("random", labels=folder / "classes", size=64, options={"regions": 1})
    save_checkpoint(folder / "weights.pth", made.network, name=made.model.name, classes=made.model.labels, size=64)
    export = pipeline._export

    def kept(*given: Any) -> Any:
        exported = export(*given)
        (folder / "exported").write_bytes(pickle.dumps(exported))
        return exported

    pipeline._export = kept
    return runs(build)(["--weights", folder / "weights.pth", *NETWORK, folder / "bundle"])


def _train(words: Iterable[object]) -> int:
    from edge import train

    return runs(train)(words)


def _whole_bundle(folder: Path, *, there: bool) -> None:
    if there or (folder / "out").exists():
        Bundle.load(folder / "out")


def _whole_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.name.startswith(".") or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name == NAME:
            Bundle.load(path.parent)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as stored:
                assert [stored[name] for name in stored.files]
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.suffix == ".md":
            assert path.read_text().endswith("\n"), path
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix in (".pth", ".pt"):
            import torch

            torch.load(path, weights_only=True)


def _training(folder: Path) -> list[object]:
    data = f"csv:{material() / 'data'}"
    words = ["--dataset", data, "--size", 64, "--epochs", 1, "--device", "cpu", "--output", folder / "run", "--json", folder / "out.json"]
    return [*words, "--option", "regions=1"]


def _search(folder: Path) -> list[object]:
    data = f"csv:{material() / 'data'}"
    words = ["--weights", material() / "weights.pth", "--dataset", data, "--budget", "p99<10000ms", "--minimise", "p99"]
    return [*words, "--force", "--output", folder / "out", "--json", folder / "out.json"]


def _network() -> tuple[object, ...]:
    return ("--weights", material() / "weights.pth", *NETWORK)


_BENCH = ("--no-accuracy", "--batch", 1)
COMMANDS: Mapping[str, Command] = {
    "rebuild": Command(
        runs(build),
        lambda folder: (["--from", folder / "out", "--output", folder / "out", "--force"],) * 2,
        partial(_whole_bundle, there=True),
        frozenset({"out"}),
        old=True,
    ),
    "predict": Command(
        runs(predict),
        lambda folder: (
            ([material() / "bundle", material() / "data" / "images" / "0.png", "--draw", folder / "drawn", "--json", folder / "out.json"],)
            * 2
        ),
        _whole_files,
        frozenset({"drawn", "drawn/0.png", "out.json"}),
    ),
    "bench": Command(
        runs(bench),
        lambda folder: (
            ([material() / "bundle", *_BENCH, "--json", folder / "a.json", "--html", folder / "a.html", "--markdown", folder / "a.md"],) * 2
        ),
        _whole_files,
        frozenset({"a.json", "a.html", "a.md"}),
    ),
    "build": Command(
        runs(build),
        lambda folder: ([*_network(), folder / "out"], ["--from", material() / "bundle", "--output", folder / "out", "--force"]),
        partial(_whole_bundle, there=False),
        frozenset({"out"}),
    ),
    "build --force": Command(
        runs(build),
        lambda folder: ([*_network(), folder / "out", "--force"], ["--from", folder / "out", "--output", folder / "out", "--force"]),
        partial(_whole_bundle, there=True),
        frozenset({"out"}),
        old=True,
    ),
    "train": Command(
        _train,
        lambda folder: (_training(folder), [*_training(folder), "--resume"]),
        _whole_files,
        frozenset({"out.json", "run", "run/best.pth", "run/curve.png", "run/log.csv", "run/state.pt"}),
    ),
    "tune": Command(
        runs(tune),
        lambda folder: (_search(folder),) * 2,
        _whole_files,
        frozenset({"out", "out.json", "out.trials"}),
    ),
}


# ---- processes -----------------------------------------------------------------------------------


def forked(run: Callable[[], int], said: Path, *, stopped: bool = False) -> int:
    """The number of a child that runs this; what it prints goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = run()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """How a child ended, as ``subprocess`` tells it."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def traced(run: Callable[[], int], said: Path, log: Path, *inject: str) -> int:
    """Run it in a child under strace; how it ended. The calls are in ``log``."""
    pid = forked(run, said, stopped=True)
    os.waitpid(pid, os.WUNTRACED)
    words = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={','.join(CALLS)}", *inject, "-o", str(log), "-p", str(pid)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as tracer:
        while tracer.poll() is None and "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.005)
        os.kill(pid, signal.SIGCONT)
        return ended(pid)


@contextlib.contextmanager
def fresh(one: Command) -> Iterator[tuple[Path, Path]]:
    """A folder to write in, as it is before the command, and one for notes."""
    with tempfile.TemporaryDirectory(prefix="fault-") as temporary:
        folder, notes = Path(temporary, "work"), Path(temporary, "notes")
        folder.mkdir()
        notes.mkdir()
        (notes / "said").touch()  # a kill may come before anything is said
        if one.old:
            shutil.copytree(material() / "bundle", folder / "out")
        yield folder, notes


# ---- faults --------------------------------------------------------------------------------------

_LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)")


def listed(log: Path, folder: Path) -> list[Call]:
    """The calls that change something in the folder."""
    found: list[Call] = []
    seen: Counter[tuple[str, ...]] = Counter()
    lines = log.read_text(errors="replace").splitlines()
    for thread, name, rest in (match.groups() for match in map(_LINE.match, lines) if match):
        seen[thread, name] += 1
        reads = name in ("open", "openat") and not re.search("O_(WRONLY|RDWR|CREAT)", rest)
        if str(folder) in rest and not reads and "resumed" not in rest[:20]:
            where = re.sub(rf"{re.escape(str(folder))}/?", "", re.findall(rf"{re.escape(str(folder))}[^\">]*", rest)[-1])
            where = re.sub(r"partial-[0-9a-f]+", "partial-N", where)
            found.append(Call(name, seen[thread, name], where, sum(each[::2] == (name, where) for each in found)))
    return found


def called(one: Command) -> list[Call]:
    """What a run without a fault calls."""
    with fresh(one) as (folder, notes):
        code = traced(lambda: one.main(one.words(folder)[0]), notes / "said", notes / "log")
        assert code == 0, (notes / "said").read_text()
        return listed(notes / "log", folder)


def calls(one: Command) -> list[Call]:
    """Of many writes in a row to one file the first, the second and the last."""
    found: list[Call] = []
    for call in called(one):
        before = found[-3:] if call.kind in ("write", "pwrite64", "writev") else []
        if len(before) == 3 and all(each[::2] == call[::2] for each in before):
            found.pop()
        found.append(call)
    return found


def judge(one: Command, folder: Path, notes: Path, fault: str, code: int) -> str:
    """What is wrong after a fault; empty where nothing is."""
    said = (notes / "said").read_text(errors="replace")
    if "Traceback" in said:
        return "traceback: " + said.strip().splitlines()[-1][:200]
    if code == 124:
        return "it hangs"
    if fault != KILL and code not in (0, 1):
        return f"exit code {code}"
    if code == 1 and not re.search(r"^\s*\[\w+\] .*\.$", said, re.MULTILINE):
        return "no line says why"
    try:
        one.whole(folder)
    except Exception as error:
        return f"neither old nor new: {type(error).__name__} {error}"[:300]
    again = ended(forked(lambda: one.main(one.words(folder)[1]), notes / "again"))
    if again:
        return f"the next run ends with {again}: {(notes / 'again').read_text(errors='replace').strip()[-300:]}"
    try:
        one.whole(folder)
    except Exception as error:
        return f"the next run leaves what is not whole: {error}"[:300]
    inside = [path.relative_to(folder) for path in folder.rglob("*")]
    # A bundle and the trials have names of their own, none of them hidden.
    names = {str(path) for path in inside if path.name.startswith(".") or not {"out", "out.trials"} & {*path.parts[:-1]}}
    if names != one.names:
        return f"left: {sorted(names ^ one.names)}"
    return ""


def injected(name: str, call: Call, fault: str) -> Outcome:
    """One fault at one call, and what came of it."""
    one, number, code, said, wrong = COMMANDS[name], call.number, 0, "", ""
    for _ in range(TRIES):
        with fresh(one) as (folder, notes):
            how = "signal=KILL" if fault == KILL else f"error={fault}"
            run = partial(one.main, one.words(folder)[0])
            code = traced(run, notes / "said", notes / "log", "-e", f"inject={call.kind}:{how}:when={number}")
            said = (notes / "said").read_text(errors="replace").strip()[-200:]
            came = {each[2:]: each.number for each in listed(notes / "log", folder) if each.kind == call.kind}
            if came.get(call[2:]) == number and _hit(notes / "log"):
                return Outcome(name, call.kind, call.number, call.where, fault, code, said, judge(one, folder, notes, fault, code))
        if call[2:] not in came:  # what was hit stood before it
            came = {each[2:]: each.number for each in called(one) if each.kind == call.kind}
        number, wrong = came.get(call[2:], number), f"missed: the call came as number {came.get(call[2:])}"
    return Outcome(name, call.kind, call.number, call.where, fault, code, said, wrong)


def _hit(log: Path) -> bool:
    return any("INJECTED" in line or "killed by" in line for line in log.read_text(errors="replace").splitlines())


def at_random(name: str, number: int) -> Outcome:
    """One kill at a random moment."""
    one = COMMANDS[name]
    with fresh(one) as (folder, notes):
        begun = time.monotonic()
        if number == 0 or name not in _took:
            assert ended(forked(partial(one.main, one.words(folder)[0]), notes / "said")) == 0, (notes / "said").read_text()
            _took[name] = time.monotonic() - begun
    with fresh(one) as (folder, notes):
        pid = forked(partial(one.main, one.words(folder)[0]), notes / "said")
        time.sleep(random.Random(number).uniform(0, _took[name]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        return Outcome(name, "", number, "", "random", code, "", judge(one, folder, notes, KILL, code))


_took: dict[str, float] = {}


def points(name: str) -> list[tuple[Call, str]]:
    """Every fault at every call of a command."""
    return [(call, fault) for call in calls(COMMANDS[name]) for fault in FAULTS]


def read(record: Path) -> list[Outcome]:
    """The outcomes so far; a line that a kill cut is left out."""
    lines = record.read_text().split("\n")[:-1] if record.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def table(outcomes: Iterable[Outcome]) -> str:
    """Command × call: how many of each fault, how they ended, and what is wrong."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        rows.setdefault((one.command, one.call or "at random"), []).append(one)
    heads = ["command", "call", *FAULTS, "exit 0", "exit 1", "killed", "wrong"]
    lines = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2)]
    for names, found in sorted(rows.items()):
        faults, codes = Counter(one.fault for one in found), Counter(one.code for one in found)
        killed = sum(count for code, count in codes.items() if code < 0)
        given = [faults[fault] or (faults["random"] if fault == KILL else 0) for fault in FAULTS]
        lines.append([*names, *map(str, [*given, codes[0], codes[1], killed, sum(bool(one.wrong) for one in found)])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--record", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", choices=tuple(COMMANDS), default=tuple(COMMANDS))
    arguments.add_argument("--faults", nargs="*", choices=FAULTS, default=FAULTS)
    arguments.add_argument("--random", type=int, default=0)
    arguments.add_argument("--few", type=int, help="only so many of a command, at even distances")
    arguments.add_argument("--bundle", type=Path, help="a small bundle of onnxruntime to begin with, not built first")
    arguments.add_argument("--table", action="store_true")
    given = arguments.parse_args()
    known = read(given.record)
    _given.extend([given.bundle] if given.bundle else [])
    if given.table:
        print(table(known))
        return
    if given.bundle is None:
        import_everything()
    material()
    done = {(one.command, one.call, one.number, one.fault) for one in known}
    with open(given.record, "a") as record:

        def note(outcome: Outcome) -> None:
            record.write(json.dumps(asdict(outcome)) + "\n")
            record.flush()

        for name in given.only:
            every = points(name)
            chosen = every if given.few is None else [every[index * len(every) // given.few] for index in range(given.few)]
            for call, fault in chosen:
                if fault in given.faults and (name, *call[:2], fault) not in done:
                    note(injected(name, call, fault))
            for number in range(given.random):
                if (name, "", number, "random") not in done:
                    note(at_random(name, number))
    shutil.rmtree(material())


if __name__ == "__main__":
    main()
