"""``edge.watch``: JSON Lines, a film, a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from edge import command, watch

KEYS = {"frame", "time_s", "labels", "regions", "looks", "latency_ms", "dropped"}


def run(*words: object) -> int:
    return command.run(watch.main, watch.arguments().parse_args([str(word) for word in words]))


@pytest.fixture
def bundle(small_bundle):
    return small_bundle("onnxruntime")


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_frame_becomes_one_object_and_nothing_else(bundle, clip, tmp_path, capsys):
    assert run(bundle, clip, "--json", "-", "--score-threshold", "0", "--effort", "0.5") == 0
    output = capsys.readouterr()
    lines = objects(output.out)
    assert [line["frame"] for line in lines] == list(range(60))
    for line in lines:
        assert set(line) == KEYS
        assert len(line["labels"]) == 20
        assert line["looks"] == 2 == sum(region["looked"] for region in line["regions"])
        for region in line["regions"]:
            x1, y1, x2, y2 = region["box"]
            assert 0 <= x1 < x2 <= 160
            assert 0 <= y1 < y2 <= 96
    assert "60 frames" in output.err


def test_without_json_a_line_is_printed_when_the_labels_change(bundle, clip, tmp_path, capsys):
    assert run(bundle, clip, "--json", tmp_path / "new" / "lines.jsonl", "--frames", "3", "--score-threshold", "1") == 0
    assert [line["labels"] for line in objects((tmp_path / "new" / "lines.jsonl").read_text())] == [[], [], []]
    assert capsys.readouterr().out.split() == ["0.00", "s", "nothing"]


def test_the_film_holds_every_frame_at_its_time(bundle, clip, tmp_path):
    av = pytest.importorskip("av")
    assert run(bundle, clip, "--draw", tmp_path / "seen.mp4", "--frames", "20") == 0
    with av.open(str(tmp_path / "seen.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(20)], abs=2e-3)
    assert frames[0].width >= 700
    assert frames[5].to_ndarray(format="rgb24").std() > 10
    assert [path.name for path in tmp_path.iterdir()] == ["seen.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(bundle, tmp_path, repository, number):
    pytest.importorskip("av")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "photos" / "a.png")
    words = [sys.executable, "-m", "edge.watch", bundle, tmp_path / "photos", "--json", tmp_path / "lines", "--draw", tmp_path / "f.mp4"]
    process = subprocess.Popen([str(word) for word in words], cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "lines").exists() and (tmp_path / "lines").read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert errors.splitlines()[-1].startswith("1 frames in")
    assert len(objects((tmp_path / "lines").read_text())) == 1
    assert (tmp_path / "f.mp4").stat().st_size > 500


def test_who_reads_only_the_first_line_ends_it(bundle, clip, repository):
    pytest.importorskip("av")
    words = [sys.executable, "-m", "edge.watch", str(bundle), str(clip), "--json", "-"]
    read, write = os.pipe()
    process = subprocess.Popen(words, cwd=repository, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Error" not in errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--score-threshold", "2"], "[watch] `--score-threshold` is 2. Use a value from 0 to 1."),
        (["--frames", "0"], "[watch] `--frames` is 0. Use 1 or more."),
        (["--effort", "3"], "--effort"),
        (["--budget-ms", "-1"], "--budget-ms"),
    ],
)
def test_a_value_out_of_range_is_one_line(bundle, clip, capsys, words, said):
    assert run(bundle, clip, *words) == 1
    assert said.replace("`", "") in capsys.readouterr().err


def test_a_terminal_that_cannot_be_written_costs_no_film(bundle, clip, tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "a") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run(bundle, clip, "--draw", tmp_path / "seen.mp4", "--json", tmp_path / "lines", "--frames", "2") == 1
    assert (tmp_path / "seen.mp4").stat().st_size > 500
    assert len(objects((tmp_path / "lines").read_text())) == 2


def test_lines_on_standard_output_need_no_folder_to_write_in(bundle, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").mkdir()  # what a file of that name could not replace
    assert run(bundle, clip, "--json", "-", "--frames", "1") == 0
    assert len(objects(capsys.readouterr().out)) == 1


def test_the_source_is_not_drawn_over(bundle, clip, capsys):
    before = clip.read_bytes()
    assert run(bundle, clip, "--draw", clip) == 1
    assert "is the source itself" in capsys.readouterr().err
    assert clip.read_bytes() == before


def test_a_source_that_is_not_there_leaves_nothing_behind(bundle, tmp_path, capsys):
    pytest.importorskip("av")
    assert run(bundle, tmp_path / "absent.mp4", "--draw", tmp_path / "seen.mp4") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
