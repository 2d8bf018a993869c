"""The documents: links resolve, flags exist, every page says whom it is for, and docs/bundle.md
lists every key."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COLUMNS = 100  # of prose; tables, code and lines that are mostly a link are longer where they must


def documents(repository: Path) -> Iterator[Path]:
    yield from (repository / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
    for folder in ("docs", "benchmarks", "kernels", "edge", "examples", "tests", ".github"):
        yield from sorted((repository / folder).rglob("*.md"))


def prose(text: str) -> str:
    """The text without its code, line for line."""
    return CODE.sub(lambda block: "\n" * block[0].count("\n"), text)


def anchors(text: str) -> set[str]:
    """Headings as the anchors that code hosts make of them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for link in LINK.findall(prose(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue  # outside addresses are not fetched in a test
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def long_lines(text: str) -> list[str]:
    lines = prose(text).splitlines()
    return [line for line in lines if len(line) > COLUMNS and not line.lstrip().startswith("|") and len(LINK.sub("", line)) > COLUMNS // 2]


def test_links_resolve(repository: Path) -> None:
    found = {str(path.relative_to(repository)): broken_links(path) for path in documents(repository)}
    assert "docs/architecture.md" in found, "the walk lost documents"
    assert not {name: links for name, links in found.items() if links}


def test_a_broken_link_or_anchor_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n```\n# a comment\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](gone.md) [c](there.md#a-heading-with-code) [d](there.md#a-comment) [e](https://example.org)\n```\n[f](gone)\n```\n"
    )
    assert broken_links(page) == ["gone.md", "there.md#a-comment"]


def test_prose_has_at_most_100_columns(repository: Path) -> None:
    found = {str(path.relative_to(repository)): long_lines(path.read_text(encoding="utf-8")) for path in documents(repository)}
    assert not {name: lines for name, lines in found.items() if lines}


def test_a_long_line_is_found_unless_it_is_a_table_code_or_a_link() -> None:
    long = "word " * 21
    assert long_lines(f"{long}\n| {long} |\n```\n{long}\n```\n- [there](https://example.org/{'x' * 100})\n") == [long]


def pages(repository: Path) -> list[Path]:
    """The pages of docs/ but for its table of contents."""
    return [path for path in sorted((repository / "docs").rglob("*.md")) if path.name != "README.md"]


def test_every_page_says_first_whom_it_is_for_and_what_they_can_do_then(repository: Path) -> None:
    silent = []
    for path in pages(repository):
        title, first, *_ = path.read_text(encoding="utf-8").split("\n\n")
        if not (title.startswith("# ") and re.match(r"For .+?\. After reading this page you (can|know) ", " ".join(first.split()))):
            silent.append(path.name)
    assert not silent


def test_every_page_is_in_the_table_of_contents(repository: Path) -> None:
    contents = repository / "docs" / "README.md"
    named = {(contents.parent / link.partition("#")[0]).resolve() for link in LINK.findall(contents.read_text(encoding="utf-8"))}
    assert not [path.name for path in pages(repository) if path.resolve() not in named]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of fenced blocks that run a module of ours, as (module, arguments)."""
    for block in CODE.findall(text):
        for line in re.sub(r"\\\n *", "", block).splitlines():
            found = re.search(r"python -m ((?:edge|benchmarks)\.\w+)(.*)", line)
            if found:
                yield found[1], shlex.split(found[2].split("&&")[0].replace(" … ", " "), comments=True)


def test_every_command_of_the_documents_parses(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused, seen = [], 0
    for path in documents(repository):
        for module, words in commands(path.read_text(encoding="utf-8")):
            if module.startswith("benchmarks"):
                assert (repository / f"{module.replace('.', '/')}.py").is_file(), f"{path.name}: {module}"
                continue
            seen += 1
            try:
                import_module(module).arguments().parse_args(words)
            except SystemExit as stop:
                if stop.code:  # 0: --help, --version
                    refused.append(f"{path.name}: {module} {shlex.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
    assert seen > 40, "the walk lost the commands"
    assert not refused


def test_every_flag_the_documents_use_exists(repository: Path) -> None:
    unknown = []
    for path in documents(repository):
        for command, rest in re.findall(r"python -m edge\.(\w+)([^\n`]*)", path.read_text(encoding="utf-8")):
            known = {flag for action in import_module(f"edge.{command}").arguments()._actions for flag in action.option_strings}
            used = re.findall(r"(?<!\S)--[\w-]+", rest.split("#")[0])
            unknown += [f"{path.name}: edge.{command} {flag}" for flag in used if flag not in known]
    assert not unknown


def test_python_in_the_documents_compiles_and_imports_what_exists(repository: Path) -> None:
    missing = []
    for path in documents(repository):
        for code in re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(code, str(path))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("edge", "export", "calib"):
                    names = [alias.name for alias in node.names]
                    missing += [f"{path.name}: {name}" for name in names if not hasattr(import_module(str(node.module)), name)]
    assert not missing


# What the documents tell a reader to type, typed: with small weights and few images.

NEEDS = {
    "rtsp://": "a camera",
    "/dev/video0": "a camera",
    "voc2007:": "Pascal VOC",
    "csv:ucmerced": "UC Merced",
    "--weights imagenet": "weights from the net",
}
INSTEAD = {
    **{"scenes": "csv:photos", "mcar-mobilenetv2-scenes": "mine.pth", "runs/mcar/best.pth": "mine.pth", "FILE": "mine.pth"},
    **{"BUNDLE": "engines/first", "INT8": "built", "FP16": "engines/first", "FP32": "built"},
    **{"engines/plain-fp32": "engines/first", "engines/mcar-int8": "built"},
}
FEW = {
    "build": ["--calib-images", "8"],
    "bench": ["--images", "4"],
    "train": ["--epochs", "1", "--size", "64"],
    "tune": ["--sizes", "64", "--regions", "4", "--precisions", "fp32", "--backends", "onnxruntime", "--images", "4"],
}
LAST = {"--duration": "2s", "--images": "4", "--size": "64"}  # for what a document gives itself
BEFORE = (  # what a document has its reader do elsewhere
    ("edge.train", "--dataset scenes --epochs 1 --output runs/photos"),
    ("edge.build", "--weights mine.pth --dataset csv:photos --precision int8 --output mine"),
    ("edge.build", "--weights mine.pth --dataset csv:photos --precision fp32 --output engines/first"),
    ("edge.build", "--from mine --batch 1 --output built"),
    ("edge.bench", "BUNDLE --json before.json"),
)


@pytest.fixture
def place(tmp_path: Path, noise_photos, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents name: weights, labelled photographs, a clip."""
    torch = pytest.importorskip("torch")
    av = pytest.importorskip("av")
    from edge.models.source import open_source

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(noise_photos(["train"] * 60 + ["test"] * 4, (80, 64)), "photos")  # a run is named after its folder
    (tmp_path / "photographs").symlink_to("photos/images")
    source = open_source("random", size=64)
    options = {"pooling": "avg", "regions": 4, "threshold": 0.5}
    described = {"model": source.model.name, "classes": list(source.model.labels), "size": 64, **options}
    torch.save({"state_dict": source.network.state_dict(), "edge": described}, "mine.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    Image.fromarray(pixels).save("photo.png")
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 96, 64
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return tmp_path


def shorter(module: str, words: list[str]) -> list[str]:
    """The same on few images: placeholders filled in, and what may be set to less set to less."""
    name = module.removeprefix("edge.")
    known = {flag for action in import_module(module).arguments()._actions for flag in action.option_strings}
    made = [INSTEAD.get(word, word) for word in words]
    more = [] if "--from" in words or "--calib-images" in words else FEW.get(name, [])
    for flag, value in LAST.items():
        if flag in made:
            made[made.index(flag) + 1] = value
    if name in ("build", "tune", "bench") and not {"--from", "--dataset"} & set(made):
        more = [*more, "--dataset", "csv:photos"]
    if name == "watch" and "photographs/" in made:
        more = ["--duration", "2"]
    return made + (more if set(more[::2]) <= known else [])


@pytest.mark.skipif(os.environ.get("EDGE_ALL_ENGINES") != "1", reason="takes long: EDGE_ALL_ENGINES=1 runs the commands of the documents")
def test_every_command_of_the_documents_runs(repository: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge import bench, command, tune
    from edge.measure.latency import Plan
    from edge.tuning import TuneOptions

    quick = Plan(samples=5, least_s=0, limit_s=1, warm_calls=2, warm_s=0.1, rounds=2, turn_s=0.01, effort_s=0.5)
    asked = TuneOptions(backends=("onnxruntime",), precisions=("fp32",), sizes=(64,), regions=(4,), images=4, plan=quick)
    bodies = {"edge.bench": partial(bench.main, plan=quick), "edge.tune": lambda given: tune.main(given, asked)}
    needed, ran, failed = set(), [], []

    def run(module: str, words: list[str], page: str) -> None:
        made = shorter(module, words)
        made_by_default = "repository" if module == "edge.triton" else "runs/mcar-mobilenetv2-photos-64"
        output = Path(made[made.index("--output") + 1] if "--output" in made else made_by_default)
        if "--resume" not in made:
            shutil.rmtree(output, ignore_errors=True)
        code = command.run(bodies.get(module, import_module(module).main), import_module(module).arguments().parse_args(made))
        ran.append((module, words))
        # 3: noise does not reach mAP 90, and its latency is not the same twice.
        if code not in ((0, 3) if {"--fail-on", "--budget"} & set(made) else (0,)):
            failed.append(f"{page}: {module} {shlex.join(made)}: exit {code}")

    for module, line in BEFORE:
        run(module, shlex.split(line), "before")
    for path in documents(repository):
        if path.name == "README.md":
            continue  # tests/test_readme.py runs it
        told = list(commands(path.read_text(encoding="utf-8")))
        if not told:
            continue
        page = shutil.copytree(place, place.parent / path.stem, symlinks=True)
        monkeypatch.chdir(page)
        for module, words in told:
            missing = {name for name in NEEDS if name in shlex.join(words)}
            needed |= missing
            whole = module.startswith("edge.") and "…" not in words
            if whole and not missing and (module, words) not in ran:
                run(module, words, path.name)
        shutil.rmtree(page)  # some hundred megabytes
    assert not failed
    assert needed == set(NEEDS), "a reason not to run is no longer needed"
    assert len(ran) > 25


# What CONTRIBUTING.md promises about formatting and the reference.


def test_pre_commit_runs_what_make_format_runs(repository: Path) -> None:
    hooks = (repository / ".pre-commit-config.yaml").read_text()
    target = re.search(r"^format:.*\n((?:\t.*\n)+)", (repository / "Makefile").read_text(), re.MULTILINE)
    assert target
    entries = re.findall(r"entry: (.*)", hooks)
    assert entries == [*(found + flag for found, flag in re.findall(r"-m (ruff \w+)( --fix)? \.", target[1])), "clang-format -i"]
    setup = (repository / "setup.py").read_text()
    for pin in set(re.findall(r'additional_dependencies: \["(.*?)"\]', hooks)):
        assert f'"{pin}"' in setup


def test_the_reference_is_written_and_its_links_resolve(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    done = subprocess.run([sys.executable, "docs/reference.py", str(tmp_path)], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert tmp_path / "edge" / "engine.html" in pages
    broken = []
    for page in pages:
        for link in re.findall(r'href="([^"#:]+\.html)', page.read_text(encoding="utf-8")):
            if not (page.parent / link).is_file():
                broken.append(f"{page.name}: {link}")
    assert not broken


# docs/bundle.md against the code that writes and reads manifests.


@pytest.fixture(scope="module")
def documented(repository: Path) -> set[str]:
    """Keys in the first column of the tables of docs/bundle.md."""
    rows = re.findall(r"^\|([^|]+)\|", (repository / "docs" / "bundle.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def specs() -> dict[str, list[str]]:
    from edge.spec import ImageSpec, ModelSpec, RuleSpec, StagesSpec, TargetSpec

    kinds = {"model": ModelSpec, "image": ImageSpec, "target": TargetSpec, "stages": StagesSpec, "rule": RuleSpec}
    return {name: [field.name for field in fields(kind)] for name, kind in kinds.items()}


@pytest.mark.parametrize("part", ["model", "image", "target", "stages", "rule"])
def test_every_key_of_a_spec_is_documented_and_no_other(part: str, documented: set[str]) -> None:
    prefix = "stages.rule" if part == "rule" else part
    named = {name.removeprefix(f"{prefix}.") for name in documented if re.fullmatch(rf"{prefix}\.\w+", name)}
    assert named == set(specs()[part])


@pytest.mark.parametrize("part", ["model", "image", "target", "stages", "rule"])
def test_the_cpp_reader_knows_the_same_keys(part: str, repository: Path) -> None:
    source = (repository / "edge" / "cpp" / "src" / "manifest.cpp").read_text()
    (known,) = re.findall(rf'refuse_unknown\(\w+, "{part}",\s+\{{([^}}]*)\}}', source)
    assert set(re.findall(r'"(\w+)"', known)) == set(specs()[part])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_every_key_of_a_built_bundle_is_documented(backend: str, documented: set[str], small_bundle) -> None:
    from edge.bundle import Bundle

    manifest = Bundle.read(small_bundle(backend)).manifest
    keys = {*manifest, *(f"engine.{name}" for name in manifest["engine"])} - {"engine", *specs()}  # these have tables of their own
    assert keys <= documented


def test_what_a_rebuild_keeps_and_what_int8_adds_is_documented(documented: set[str]) -> None:
    from edge.pipeline import KEPT

    assert {*KEPT, "latency"} <= documented


def test_every_fact_of_a_tensorrt_plan_is_documented(documented: set[str], repository: Path) -> None:
    """Read from the code that writes them: no plan is built on a machine without a GPU."""
    written = {"payload", "profiles", "stages"}
    for name, start in (("build", '    return {\n        "machine": machine'), ("vendor", "shared: Facts = {")):
        source = (repository / "edge" / "backends" / "trt" / f"{name}.py").read_text()
        body = source[source.index(start) :]
        written |= set(re.findall(r'^ +"(\w+)":', body[: body.index("}\n")], re.MULTILINE))
    assert len(written) > 10, "the walk lost the facts"
    assert {f"engine.{name}" for name in written} <= documented
