"""mcar_edge_watch: the lines of ``python -m edge.watch``, and how it begins, goes on and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Lines = list[dict]


@pytest.fixture(scope="session")
def program(runtime) -> Path:
    path = runtime.prefix / "bin" / "mcar_edge_watch"
    if not path.is_file():
        pytest.skip("mcar_edge_watch was not built: apt install libopencv-videoio-dev libopencv-imgproc-dev")
    return Path(path)


@pytest.fixture
def watch(program: Path, bundle: Path) -> Callable[..., subprocess.CompletedProcess]:
    return lambda *words: subprocess.run([str(program), str(bundle), *map(str, words)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """H.264 with frames that refer to later ones: slowly changing noise, a new picture every 15."""
    av = pytest.importorskip("av")
    path, random = tmp_path_factory.mktemp("film") / "film.mp4", np.random.default_rng(0)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(60):
            if number % 15 == 0:
                coarse = random.integers(0, 256, (6, 10, 3), np.uint8)
            picture = np.asarray(Image.fromarray(coarse).resize((160, 96)), np.int16) + random.integers(-40, 41, (96, 160, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


def objects(text: str) -> Lines:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("more", [[], ["--steady"], ["--effort", "0.5"]], ids=str)
def test_its_lines_are_those_of_python(watch, bundle: Path, film: Path, repository: Path, more: list[str]) -> None:
    # A threshold that some scores cross from frame to frame.
    everything = objects(watch(film, "--json", "-", "--score-threshold", 0).stdout)
    threshold = np.median([label["score"] for line in everything for label in line["labels"]])
    words = [str(film), "--json", "-", "--score-threshold", str(threshold), *more]
    found = watch(*words)
    assert found.returncode == 0, found.stderr
    python = [sys.executable, "-m", "edge.watch", str(bundle), *words]
    expected = subprocess.run(python, cwd=repository, capture_output=True, text=True, timeout=120).stdout
    ours, theirs = objects(found.stdout), objects(expected)
    assert len(ours) == len(theirs) == 60
    labels = [{label["name"] for label in line["labels"]} for line in theirs]
    assert len(set(map(frozenset, labels))) > (1 if more == ["--steady"] else 3)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        assert [list(region) for region in one["regions"]] == [list(region) for region in other["regions"]]
        assert [one[key] for key in ("frame", "dropped", "looks")] == [other[key] for key in ("frame", "dropped", "looks")]
        assert one["time_s"] == pytest.approx(other["time_s"], abs=2e-3)
    # Two FFmpegs may round a colour differently, which moves a score across a close threshold.
    same = [{label["name"] for label in line["labels"]} for line in ours]
    assert sum(len(one ^ other) for one, other in zip(same, labels, strict=True)) <= 0.01 * sum(map(len, labels))
    scores = [[label["score"] for line in lines for label in line["labels"]] for lines in (ours, theirs)]
    if len(scores[0]) == len(scores[1]):
        np.testing.assert_allclose(*scores, atol=2e-3)


def test_a_live_source_is_opened_again_and_none_of_its_frames_is_lost_with_all(watch) -> None:
    pipeline = "videotestsrc num-buffers=8 ! video/x-raw,width=64,height=48 ! videoconvert ! video/x-raw,format=BGR ! appsink"
    done = watch(pipeline, "--all", "--frames", 20, "--json", "-")
    if "[video] Cannot read" in done.stderr:
        pytest.skip("this OpenCV has no GStreamer, or that no videotestsrc: apt install gstreamer1.0-plugins-base")
    assert [(line["frame"], line["dropped"]) for line in objects(done.stdout)] == [(number, 0) for number in range(20)]
    assert done.stderr.count("the stream was lost") == 2
    lines = objects(watch(pipeline, "--frames", 6, "--json", "-").stdout)
    numbers = [line["frame"] for line in lines]
    assert [line["dropped"] for line in lines] == list(np.diff([-1, *numbers]) - 1)


def test_a_folder_is_followed_until_a_signal_and_the_film_is_whole(program: Path, bundle: Path, tmp_path: Path) -> None:
    photos, drawn = tmp_path / "photos", tmp_path / "out" / "seen.avi"
    photos.mkdir(), drawn.parent.mkdir()
    Image.new("RGB", (64, 48), "red").save(photos / "a.png")
    (photos / "b.jpg").write_bytes(b"no photograph")
    words = [program, bundle, photos, "--json", tmp_path / "new" / "lines", "--draw", drawn]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    for count in (1, 2):
        while not (tmp_path / "new" / "lines").exists() or len(objects((tmp_path / "new" / "lines").read_text())) < count:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        Image.new("RGB", (64, 48), "blue").save(photos / f"c{count}.png")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "b.jpg" in said
    assert [path.name for path in drawn.parent.iterdir()] == ["seen.avi"]
    assert drawn.stat().st_size > 1000


def test_who_reads_only_the_first_line_ends_it(program: Path, bundle: Path, film: Path) -> None:
    process = subprocess.Popen(
        [str(program), str(bundle), str(film), "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.mp4"], "[video] Cannot open absent.mp4: No such file"),
        ([__file__], "[video] Cannot read "),
        (["rtsp://user:secret@127.0.0.1:9/x"], "[video] Cannot read rtsp://127.0.0.1:9/x."),
        ([".", "--effort", "3"], "[options] --effort is 3. Change it to 0 to 1."),
        ([".", "--frames", "0"], "[options] --frames is 0."),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(watch, words: list[str], said: str) -> None:
    done = watch(*words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(said)
    assert watch(".", "--effort", "much").returncode == 2
