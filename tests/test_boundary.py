"""Whatever a command or a public method is given, it ends in a result or in our error: no
traceback, no hang, exit code 0 to 3.

Flags, files, bundles, images and arrays are drawn at random; as many as EDGE_EXAMPLES says. Where
minutes of work would begin, a refusal stands: what comes before it is what is tried.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edge import Engine, bench, build, command, doctor, predict, stream, train, triton, tune, watch
from edge.bundle import Bundle
from edge.data import REPORT, open_dataset
from edge.errors import EdgeError
from edge.image import decode
from edge.models.source import open_source

MANY = "EDGE_EXAMPLES" in os.environ
LIMIT = 120  # seconds after which an example is taken to hang


def some(few: int) -> settings:
    """So many examples, or as many as EDGE_EXAMPLES says, drawn anew each time."""
    count = int(os.environ.get("EDGE_EXAMPLES", few))
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=health, database=None, derandomize=not MANY)


NUMBERS = ["-1", "0", "1", "2", "64", "96", "nan", "inf", "-inf", "1e400", "9" * 5000, "1,1", "٣", "²"]
NAMES = ["", " ", "-", "--", ",", "random", "auto", "imagenet", "scenes", "aerial", "mosaic:scenes", "csv:", "nothing:x", "p99>+5%"]
NAMES += ["p99<25ms", "map_drop<1,size<5MB", "fp32", "onnxruntime", "x://y"]
TEXT = st.text(max_size=8).filter(lambda text: "\0" not in text)
WORDS = st.sampled_from(NUMBERS) | st.sampled_from(NAMES) | TEXT | st.integers().map(str) | st.floats().map(str)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        pytest.fail(f"no end after {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def refused_or_not() -> Iterator[None]:
    """What comes in time, or is refused in a line."""
    said = ""
    with in_time():
        try:
            yield
        except EdgeError as error:
            said = str(error)
    said.encode()
    assert not re.search("[\0-\x1f\x7f-\x9f]", said)


def refuse_work(*_: object, **__: object) -> None:
    raise EdgeError("test", "Here minutes of work would begin", "Do not")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, small_bundle: Callable[[str], Path]) -> Path:
    """A folder of files and folders, good and bad; it is the current one while a command runs."""
    folder = tmp_path_factory.mktemp("zoo")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    (folder / "garbage").write_bytes(bytes(range(256)) * 4)
    (folder / "empty").touch()
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "base.json").write_text('{"latency_ms": {"p50": "abc", "p99": NaN}, "batch": 1e999}')
    (folder / "labels.txt").write_text("a\na\x1b[31m\nb\n")
    (folder / "folder").mkdir()
    (folder / "folder" / "mine").touch()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    somebody = os.open(folder / "pipe", os.O_RDWR)  # reads it; to write to a pipe is to wait for that
    threading.Thread(target=lambda: any(not os.read(somebody, 1 << 16) for _ in count()), daemon=True).start()
    shutil.copytree(small_bundle("onnxruntime"), folder / "bundle")
    shutil.copytree(folder / "bundle", folder / "changed")
    (folder / "changed" / "engine.look.onnx").write_bytes(b"no")
    (folder / "data" / "images").mkdir(parents=True)
    shutil.copy(folder / "good.png", folder / "data" / "images" / "1.png")
    (folder / "data" / "labels.csv").write_text("image,split,labels\n1.png,train,a\n")
    return folder


PLACES = ["good.png", "cut.png", "garbage", "empty", "deep.json", "base.json", "labels.txt", "folder", "loop", "pipe", "bundle", "changed"]
PLACES += ["data", "nowhere", "a" * 300, "/dev/null", "/dev/zero", "/dev/full", "/proc/x/y", "good.png/x", "a\nb\x1b[31m", "\udcff", "."]
paths = st.sampled_from(PLACES)
KINDS = ["csv", "images", "voc2007", "coco2014", "mosaic:csv", "mosaic3"]
specs = st.builds("{}:{}".format, st.sampled_from(KINDS), paths)
OUTPUTS = ("output", "json", "lines", "html", "markdown", "draw", "repository")  # written to: no device, and nothing outside


@st.composite
def lines(draw: st.DrawFn, made: argparse.ArgumentParser) -> list[str]:
    """A command line of some of a command's flags, most with values of their kind."""
    line: list[str] = []
    for action in made._actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        if action.option_strings and not action.required and draw(st.integers(0, 4)):
            continue
        value: st.SearchStrategy[str] = WORDS
        if action.choices:
            value = st.sampled_from([*map(str, action.choices)]) | WORDS
        elif action.dest in OUTPUTS:
            value = st.sampled_from(["out/x", "folder", "good.png/x", "a" * 300, "pipe", "bundle", "/proc/x/y", "/dev/full"])
        elif action.dest == "dataset":
            value = specs | WORDS
        elif action.type is Path or action.dest in ("weights", "images", "source") or not action.option_strings:
            value = paths | st.just("bundle")
        given_ = draw(value)
        if action.nargs == 0:
            line += action.option_strings[:1]
        else:
            line += [*action.option_strings[:1], given_]
    return line


PARTS = ["model", "image", "target", "stages", "engine", "files", "machine", "tools", "schema"]
COMMANDS = {
    **{"build": build, "bench": bench, "predict": predict, "doctor": doctor, "train": train, "tune": tune, "watch": watch},
    "triton": triton,
}
ENDS = {"watch": ["--duration", "0.2"]}  # of what else would go on
HEAVY = ("edge.pipeline._export", "edge.pipeline.write_bundle", "edge.report.bench.bench_engine", "edge.data.pixels.cached_pixels")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_in_a_result_or_a_refusal(name: str, zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    module = COMMANDS[name]
    monkeypatch.chdir(zoo)
    monkeypatch.setenv("XDG_CACHE_HOME", str(zoo / "cache"))
    for place in (*HEAVY, "edge.training.start.imagenet"):
        monkeypatch.setattr(place, refuse_work)
    monkeypatch.setattr("edge.models.source._settle", lambda network: None)

    @some(25)
    @given(lines(module.arguments()))
    def check(line: list[str]) -> None:
        capsys.readouterr()
        with in_time():
            try:
                code = command.run(module.main, module.arguments().parse_args([*line, *ENDS.get(name, [])]))
            except SystemExit as stopped:
                code = stopped.code if isinstance(stopped.code, int) else 0
        assert code in (0, 1, 2, 3)
        assert "Traceback" not in capsys.readouterr().err

    check()


@some(40)
@given(part=st.sampled_from(PARTS), key=st.text(max_size=6), value=JSON)
def test_a_bundle_of_any_manifest_loads_or_is_refused(zoo: Path, tmp_path: Path, part: str, key: str, value: object) -> None:
    folder = tmp_path / "bundle"
    if not folder.exists():
        shutil.copytree(zoo / "bundle", folder)
    manifest = json.loads((zoo / "bundle" / "manifest.json").read_text())
    inner = manifest[part]
    if isinstance(inner, dict) and inner:
        inner[key if len(key) % 2 else sorted(inner)[len(key) % len(inner)]] = value
    else:
        manifest[part] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with refused_or_not():
        Bundle.read(folder).verify()
        with Engine.load(folder) as engine:
            engine.predict(zoo / "good.png")


ARRAYS = st.builds(
    np.zeros, st.lists(st.integers(0, 5), max_size=5).map(tuple), st.sampled_from(["u1", "f4", "f8", "i8", "?", "c8", "S1", "O", "M8[s]"])
)
PICTURES = st.builds(
    Image.new,
    st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "LAB", "HSV"]),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
FILES = st.builds(io.BytesIO, st.binary(max_size=9))
SOURCES = st.binary(max_size=40) | st.text(max_size=5) | st.none() | st.integers() | ARRAYS | st.just(object()) | FILES | PICTURES


@some(100)
@given(SOURCES)
def test_what_is_decoded_is_a_photograph_or_refused(source: object) -> None:
    with refused_or_not():
        found = decode(source)  # type: ignore[arg-type]
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)


@some(40)
@given(st.data())
def test_an_engine_answers_or_refuses(zoo: Path, data: st.DataObject) -> None:
    odd = st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.just([1])
    with Engine.load(zoo / "bundle") as engine, refused_or_not():
        calls = [
            lambda: engine.infer(data.draw(ARRAYS | st.none() | st.text() | st.just([[1], [1, 2]])), effort=data.draw(odd)),
            lambda: engine.predict(data.draw(SOURCES | st.lists(SOURCES, max_size=3)), score_threshold=data.draw(odd)),
            lambda: engine.predict([], budget_ms=data.draw(odd)),
        ]
        data.draw(st.sampled_from(calls))()


@some(25)
@given(source=SOURCES | paths, data=st.data())
def test_a_stream_gives_frames_or_is_refused(zoo: Path, source: object, data: st.DataObject) -> None:
    odd = st.none() | st.floats() | st.integers() | st.text(max_size=3)
    names = st.sampled_from(["score_threshold", "effort", "budget_ms", "frames"])
    before = Path.cwd()
    os.chdir(zoo)
    try:
        with Engine.load(zoo / "bundle") as engine, refused_or_not():
            bounds = {name: data.draw(odd) for name in data.draw(st.sets(names))}
            for frame in stream(engine, source, duration_s=0.2, **bounds):  # type: ignore[arg-type]
                assert frame.pixels.shape[2] == 3
    finally:
        os.chdir(before)


@some(40)
@given(spec=specs | WORDS, split=st.sampled_from(["train", "test", REPORT, "", "x"]), weights=paths)
def test_a_data_set_and_a_checkpoint_open_or_are_refused(zoo: Path, spec: str, split: str, weights: str) -> None:
    before = Path.cwd()
    os.chdir(zoo)
    try:
        with refused_or_not():
            _ = open_dataset(spec, split).digest
        with refused_or_not():
            open_source(weights)
    finally:
        os.chdir(before)


ENVIRONMENTS = [{"HOME": ""}, {"TERM": ""}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "xx_XX"}, {"COLUMNS": "1", "TMPDIR": "/nowhere"}]


@pytest.mark.parametrize("how", ENVIRONMENTS, ids=" ".join)
def test_no_environment_costs_a_result(zoo: Path, tmp_path: Path, how: dict[str, str]) -> None:
    """A variable without a value is one that is not there."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {name: value for name, value in {**os.environ, "PYTHONPATH": path, **how}.items() if value or name not in how}
    words = [sys.executable, "-m", "edge.predict", str(zoo / "bundle"), str(zoo / "good.png"), "--json", str(tmp_path / "é.json")]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "é.json").read_text())
