"""``python -m edge.train``: trains, reports, goes on after a kill, refuses in one line."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from edge import command, train  # noqa: E402
from edge.models.checkpoint import describe, read  # noqa: E402


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv data set of 30 images of 64 × 64 whose colour gives the label away."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for index in range(30):
        present = [name for bit, name in enumerate(("blue", "green", "red")) if (index % 7 + 1) >> bit & 1]
        pixels = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for name in present:
            pixels[:, :, ("red", "green", "blue").index(name)] += 150
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        rows.append((f"{index}.png", "test" if index >= 20 else "train", ";".join(present)))
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "split", "labels"), *rows])
    return root


def run(*arguments: object) -> int:
    return command.run(train.main, train.arguments().parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """A function (words, arguments): the command refuses them in one line with these words."""

    def check(words: str, *arguments: object) -> None:
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    return check


def small(root: Path, output: Path) -> list[object]:
    return ["--dataset", f"csv:{root}", "--size", 32, "--epochs", 2, "--regions", 2, "--output", output]


def test_it_trains_reports_and_writes_what_the_others_read(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*small(squares, tmp_path / "run"), "--json", tmp_path / "result.json") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["test"]) == {"global", "local", "fused"}
    assert 0 <= result["test"]["fused"]["map"] <= 100
    found = describe(read(tmp_path / "run" / "best.pth"))
    assert (found.model, found.classes, found.size) == ("mcar-mobilenetv2", ("blue", "green", "red"), 32)
    assert found.options == {"pooling": "avg", "regions": 2, "threshold": 0.5}
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 1 + 2
    assert Image.open(tmp_path / "run" / "curve.png").size[0] > 100
    assert "validation mAP" in capsys.readouterr().out
    assert not list((tmp_path / "run").glob(".*"))  # decoded images are given back


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("rma-mobilenetv2", ["--regions", 2, "--option", "score=softmax"], {"regions": 2, "score": "softmax"}),
        ("aamn-mobilenetv2", ["--option", "spatial=false", "--option", "width=16"], {"spatial": False, "width": 16}),
        ("plain-mobilenetv2", ["--pooling", "gwp"], {"pooling": "gwp"}),
    ],
)
def test_other_architectures_train_alike(squares: Path, tmp_path: Path, model: str, given: list[object], told: dict[str, object]) -> None:
    line = ["--dataset", f"csv:{squares}", "--size", 32, "--epochs", 2, "--output", tmp_path / "run", "--model", model, *given]
    assert run(*line, "--json", tmp_path / "result.json") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["test"]) == ["scores"]
    assert {phase["streams"] for phase in result["recipe"]["phases"]} == {"global"}
    found = describe(read(tmp_path / "run" / "best.pth"))
    assert (found.model, told.items() <= found.options.items()) == (model, True)
    assert found.options == result["options"]


def test_fine_tuning_begins_with_the_head_and_goes_on_after_a_stop(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.models import get_model

    torch.save(get_model("mobilenet_v2", weights=None).state_dict(), tmp_path / "published.pth")
    line = [*small(squares, tmp_path / "run"), "--weights", tmp_path / "published.pth", "--json", tmp_path / "result.json"]
    assert run(*line) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["recipe"]["name"], result["recipe"]["head"]) == ("finetune", True)
    assert [row["streams"] for row in result["log"]] == ["head", "global", "both"]
    assert run(*line, "--resume") == 0
    assert "resumed" in capsys.readouterr().out


def test_a_second_run_in_the_same_folder_needs_resume(squares: Path, tmp_path: Path, refused) -> None:
    assert run(*small(squares, tmp_path / "run")) == 0
    refused("--resume", *small(squares, tmp_path / "run"))
    refused("same arguments", *small(squares, tmp_path / "run"), "--resume", "--seed", 1)
    assert run(*small(squares, tmp_path / "run"), "--resume") == 0


def test_a_run_is_not_resumed_with_other_labels(squares: Path, tmp_path: Path, refused) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(squares / "images")
    table = (squares / "labels.csv").read_text()
    (tmp_path / "data" / "labels.csv").write_text(table)
    assert run(*small(tmp_path / "data", tmp_path / "run"), "--epochs", 1) == 0
    lines = [line.replace("blue", "#").replace("green", "blue").replace("#", "green") for line in table.splitlines()]
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    refused("other arguments, images or labels", *small(tmp_path / "data", tmp_path / "run"), "--epochs", 1, "--resume")


def test_a_folder_of_others_is_not_trained_in(squares: Path, tmp_path: Path, refused) -> None:
    (tmp_path / "mine" / "pixels").mkdir(parents=True)
    (tmp_path / "mine" / "pixels" / "art.png").write_bytes(b"art")
    (tmp_path / "file").write_text("a.jpg, say")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.pt").write_bytes(b"of another program")
    for folder, flags, words in (
        ("mine", [], "contains pixels, so it is not the folder of a training run"),
        ("mine", ["--resume"], "contains pixels, so it is not the folder of a training run"),
        ("file", [], "Not a directory"),
        ("other", [], "already contains a training run"),
        ("other", ["--resume"], "state.pt is damaged, or is not the state of a training run"),
        ("/proc/nope", [], "Cannot write"),
    ):
        refused(words, *small(squares, tmp_path / folder), *flags)
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["pixels", "art.png"]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["state.pt"]


def test_an_empty_folder_and_one_of_a_run_killed_before_its_first_state_are_taken(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / ".pixels").mkdir(parents=True)
    (tmp_path / "run" / ".best.pth.partial-0").write_bytes(b"half")
    (tmp_path / "run" / ".best.pth.partial-0.lock").touch()
    assert run(*small(squares, tmp_path / "run"), "--epochs", 1) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.pth", "curve.png", "log.csv", "state.pt"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", 100], "multiple of 32"),
        (["--epochs", 0], "--epochs"),
        (["--model", "mcar-vgg"], "mcar-resnet50"),
        (["--dataset", "nothing:here"], "--dataset"),
        (["--device", "cuda:77"], "--device"),
        (["--device", "meta"], "--device"),
        (["--seed", -1], "--seed"),
        (["--seed", 10**22], "--seed"),
        (["--size", 10**9 // 32 * 32], "too large"),
        (["--weights", "a" * 300], "models"),
        (["--threshold", 1], "--threshold"),
        (["--model", "rma-mobilenetv2", "--regions", 0], "--regions"),
        (["--model", "aamn-mobilenetv2", "--regions", 4], "pooling, memory"),
        (["--model", "aamn-mobilenetv2", "--option", "width"], "NAME=VALUE"),
        (["--option", "num_classes=3"], "has no option 'num_classes'"),
    ],
)
def test_refusals_are_one_line(arguments: list[object], words: str, tmp_path: Path, refused) -> None:
    refused(words, "--output", tmp_path / "run", "--dataset", "scenes", *arguments)


@pytest.mark.parametrize(("given", "words"), [([], "needs labelled images"), (["--dataset", "aerial"], "no split 'train'; it has test")])
def test_without_labelled_images_to_train_on_that_is_said(given: list[object], words: str, tmp_path: Path, refused) -> None:
    refused(words, "--output", tmp_path / "run", *given)
    refused("csv:DIR", "--output", tmp_path / "run", *given)


def test_what_cannot_be_reported_is_told_before_anything_is_trained(
    squares: Path, tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge import models

    monkeypatch.setattr(models, "create", lambda *_, **__: pytest.fail("a network was made"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(squares / "images")
    rows = [row for row in (squares / "labels.csv").read_text().splitlines() if ",test," not in row]
    (tmp_path / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    for spec, words in ((f"csv:{tmp_path / 'data'}", "train"), (f"images:{squares / 'images'}", "has no labels")):
        refused(words, "--dataset", spec, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_killed_without_warning_it_goes_on(squares: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "edge.train", *map(str, small(squares, tmp_path / "run")), "--epochs", "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    state, deadline = tmp_path / "run" / "state.pt", time.monotonic() + 120
    while not (tmp_path / "run" / "log.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    done = torch.load(state, weights_only=True)["epoch"]
    assert 1 <= done < 12
    again = subprocess.run([*line, "--resume"], env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "resumed" in again.stdout
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 1 + 12
