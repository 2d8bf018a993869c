"""``edge.tune``: real engines of a small network, killed and gone on with, another budget, and what
it refuses before any work."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge import command, tune
from edge.backends.onnxruntime import Session
from edge.bundle import REFERENCE, Bundle
from edge.data import batches, match_labels, open_dataset, validation_split
from edge.engine import Engine
from edge.measure.accuracy import average_precision
from edge.measure.latency import Plan
from edge.measure.outputs import collect
from edge.options import BuildOptions
from edge.tuning import TuneOptions, given, laboratory, search, timing

QUICK = Plan(samples=10, least_s=0, limit_s=1, warm_calls=5, warm_s=1, rounds=2, turn_s=0.01, effort_s=1)
# The command in a process of its own, with short measurements.
QUICKLY = """
import sys
from edge import command, tune
from edge.measure.latency import Plan
from edge.tuning import TuneOptions, timing
timing.LIMIT_S = 0.5
plan = Plan(samples=10, least_s=0, limit_s=1, warm_calls=5, warm_s=1, rounds=2, turn_s=0.01, effort_s=1)
asked = TuneOptions(precisions=("fp32", "int8"), sizes=(64, 32), regions=(4,), minimise="size", images=4, plan=plan)
sys.exit(command.run(lambda given: tune.main(given, asked), tune.arguments().parse_args(sys.argv[1:])))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """A cache of the test's own, and short measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "LIMIT_S", 0.5)


@pytest.fixture(scope="module")
def photos(noise_photos):
    """A csv folder: 60 images to train on, of which 7 decide, and 4 that are only reported."""
    return noise_photos(["train"] * 60 + ["test"] * 4, (40, 64))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of ours at 64 pixels with the weights of the random network."""
    import torch

    from edge.models.source import open_source

    source = open_source("random", size=64)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    options = {"pooling": "avg", "regions": 4, "threshold": 0.5}
    described = {"model": source.model.name, "classes": list(source.model.labels), "size": 64, **options}
    torch.save({"state_dict": source.network.state_dict(), "edge": described}, path)
    return path


def run(*words: object) -> int:
    try:
        arguments = tune.arguments().parse_args([str(word) for word in words])
        asked = TuneOptions(backends=("openvino", "onnxruntime"), precisions=("fp32",), sizes=(64,), regions=(4,), images=4, plan=QUICK)
        return command.run(lambda given: tune.main(given, asked), arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def counted(name: str, call, calls: list[str]):
    """The call, which notes its name first."""

    def noting(*given, **more):
        calls.append(name)
        return call(*given, **more)

    return noting


def test_a_search_that_is_killed_goes_on_and_another_budget_uses_what_it_found(weights, photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    output = tmp_path / "mine"
    words = ["--weights", weights, "--dataset", f"csv:{photos}", "--output", output, "--json", tmp_path / "out.json"]
    built: list[str] = []
    for name in ("build", "rebuild"):
        monkeypatch.setattr(laboratory, name, counted(name, getattr(laboratory, name), built))
    timed = timing.timed

    def killed(engine: Engine, *rest: object):
        if engine.bundle.target.backend == "onnxruntime":
            raise KeyboardInterrupt
        return timed(engine, *rest)

    monkeypatch.setattr(timing, "timed", killed)
    assert run("--budget", "map_drop<50", *words) == 130
    assert built == ["build", "rebuild"]  # what differs in its backend only is neither exported nor calibrated again
    assert not output.exists()
    monkeypatch.setattr(timing, "timed", timed)
    before = {path: path.stat().st_mtime_ns for path in Path(f"{output}.trials").glob("*openvino*/result.json")}
    assert len(before) == 1

    assert run("--budget", "map_drop<50", *words, "--html", tmp_path / "page.html") == 0
    assert built == ["build", "rebuild"]
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("trial ") and line.endswith("verdict") for line in said)
    assert any(line.startswith("fp32-64-r4-openvino ") for line in said)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["verdict"] for row in found["table"]].count("chosen") == 1
    bundle = Bundle.read(output)
    bundle.verify()
    assert bundle.manifest["reference"] == {"image": bundle.manifest["image"], "regions": 4}
    assert bundle.stages.effort == found["chosen"]["effort"]
    reference = found["result"]["accuracy"]["map_reference"]
    assert found["result"]["accuracy"]["images"] == 4  # the report is on images that decided nothing
    assert found["result"]["accuracy"]["map_drop"] == pytest.approx(reference - found["result"]["accuracy"]["map"])
    with Engine.load(output) as engine:
        assert engine.infer(np.zeros((1, 3, 64, 64), np.float32))["scores"].shape == (1, 20)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert found["chosen"]["trial"] in page

    capsys.readouterr()
    kept = (output / "manifest.json").read_bytes()
    # What is not written again, because a trial has it, is cleared of what a kill left beside it.
    left = [next(Path(f"{output}.trials").glob("*onnxruntime*")) / f".{name}.partial-0.lock" for name in ("bundle", "result.json")]
    for path in left:
        path.touch()
    assert run("--budget", "mean<0.001ms, map_drop<50", *words, "--force") == 3
    assert not any(path.exists() for path in left)
    assert built == ["build", "rebuild"]
    assert (output / "manifest.json").read_bytes() == kept
    impossible = json.loads((tmp_path / "out.json").read_text())
    assert impossible["bundle"] is None
    assert impossible["misses"][0]["condition"] == "mean<0.001ms"
    assert "Relax mean<0.001ms first" in capsys.readouterr().err


def test_a_trial_that_is_judged_longer_has_the_figures_of_all_images(weights, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(given, "MOST_IMAGES", 5)
    monkeypatch.setattr(search, "_unsure", lambda *_: True)
    asked = TuneOptions(backends=("onnxruntime",), precisions=("fp32",), sizes=(64,), regions=(4,), images=4, plan=QUICK)
    options = BuildOptions(weights=str(weights), dataset=f"csv:{photos}", output=tmp_path / "mine")
    tuned = tune.tune(options, "map_drop<200", asked)
    more, folder = validation_split(open_dataset(f"csv:{photos}", "train"))[1], next(tuned.trials.glob("fp32-*"))
    more = match_labels(more, Bundle.read(folder / "bundle").model.labels)
    assert len(more) > 5
    bundle, maps = Bundle.read(folder / "bundle"), []
    with Engine.load(bundle.path, effort=1) as engine:
        for infer in (Session(bundle.read_file(REFERENCE)), engine.infer):
            scores = collect(infer, batches(more, bundle.image, 1), len(more)).outputs["scores"]
            maps.append(100 * average_precision(scores, more.labels).mean())
    assert tuned.points[-1].point.map_drop == pytest.approx(maps[0] - maps[1], abs=1e-6)
    first = json.loads((folder / "result.json").read_text())["points"]
    at_0, now = first[0], tuned.points[0].point
    assert now.map_drop != at_0["map_drop"]
    assert now.map + now.map_drop == pytest.approx(at_0["map"] + at_0["map_drop"])  # all rows count from one figure
    assert tuned.bundle.stages.rule.fitted_on["data"].endswith(f"{len(more)} validation images")


@pytest.mark.skipif(os.environ.get("EDGE_ALL_FAULTS") != "1", reason="takes minutes: EDGE_ALL_FAULTS=1 runs it")
def test_a_search_killed_at_ten_random_moments_chooses_the_same(weights, photos, tmp_path):
    words = ["--budget", "map_drop<50, mean<9s", "--weights", weights, "--dataset", f"csv:{photos}", "--calib-images", 8]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def started(output: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", QUICKLY, *map(str, words), "--output", str(output)], stdout=subprocess.DEVNULL)

    def chosen(output: Path) -> tuple[object, ...]:
        bundle = Bundle.read(output)
        bundle.verify()
        return bundle.target, bundle.image.size, bundle.manifest["files"]["graph.onnx"]

    began = time.monotonic()
    assert started(whole).wait() == 0
    seconds = time.monotonic() - began
    draw, moments = random.Random(0), 0
    while moments < 10:
        run = started(killed)
        try:
            assert run.wait(draw.uniform(0.05, 0.5) * seconds) == 0
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            moments += 1
            if killed.exists():  # in its report: the bundle is not replaced unasked
                assert chosen(killed) == chosen(whole)
                shutil.rmtree(killed)
            continue
        assert chosen(killed) == chosen(whole)  # it was done before its moment: from the start again
        shutil.rmtree(killed)
        shutil.rmtree(f"{killed}.trials")
    assert started(killed).wait() == 0
    assert chosen(killed) == chosen(whole)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--budget", "speed<3"], 1, "speed, which is not a metric"),
        (["--budget", "mean"], 1, "not METRIC"),
        (["--budget", "mean<3,mean>4"], 1, "No engine can meet both"),
        (["--budget", "energy<3mJ"], 1, "Energy cannot be measured"),
        (["--budget", "map_drop<1", "--weights", "random"], 1, "random weights have none"),
        (["--budget", "map_drop<1"], 1, "no labelled images are given"),
        (["--budget", "map_drop<1", "--dataset", "aerial"], 1, "set --dataset to labelled images of your own"),
        ([], 2, "--budget"),
    ],
)
def test_a_budget_that_cannot_be_judged_is_refused_before_any_work(words, code, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(laboratory.RealLaboratory, "trial", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr("edge.tuning.given.energy.find", lambda **_: (None, "no sensor"))
    assert run(*words, "--output", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert said in error
    assert code == 2 or error.count("\n") == 1
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_where_no_backend_works_that_is_said_before_any_work(tmp_path, monkeypatch):
    from edge import backends
    from edge.errors import EdgeError
    from edge.pipeline import BuildOptions
    from edge.tuning import tune as search

    monkeypatch.setattr(backends, "probe", lambda name: backends.Support(reason="it is not installed", fix="Install it"))
    with pytest.raises(EdgeError, match="it is not installed"):
        search(BuildOptions(weights="random", output=tmp_path / "out"), "mean<1s")


@pytest.mark.parametrize("field", [{"precision": "fp32"}, {"size": 128}, {"regions": 2}, {"effort": 0.5}, {"calibration": "x.json"}])
def test_what_the_search_decides_is_not_taken_from_the_build(field, tmp_path):
    from edge.errors import EdgeError
    from edge.pipeline import BuildOptions
    from edge.tuning import tune as search

    with pytest.raises(EdgeError, match="would have no effect"):
        search(BuildOptions(output=tmp_path / "out", **field), "mean<1s")


@pytest.mark.parametrize(
    "given", [{"precisions": ("int4",)}, {"backends": ("tpu",)}, {"minimise": "price"}, {"minutes": 0}, {"sizes": (100,)}, {"batch": 0}]
)
def test_what_cannot_be_searched_is_refused(given):
    from edge.errors import EdgeError

    with pytest.raises(EdgeError):
        TuneOptions(**given)
