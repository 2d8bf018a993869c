"""``edge.stream``: which frames it gives, when, and how it ends."""

from __future__ import annotations

import io
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import edge
from edge import EdgeError
from edge.video import sources
from edge.video.sources import Picture
from edge.video.steady import Steady, SteadyLabels


def test_every_frame_of_a_file_is_given_in_order_however_slow_the_engine(clip, reader):
    engine = reader(0.005)
    frames = list(edge.stream(engine, clip))
    assert engine.seen == list(range(60))
    assert [frame.frame for frame in frames] == list(range(60))
    assert [frame.dropped for frame in frames] == [0] * 60
    assert [frame.time_s for frame in frames] == pytest.approx([number / 25 for number in range(60)], abs=1e-3)
    assert {frame.looks for frame in frames} == {0}
    assert all(frame.latency_ms >= 5 for frame in frames)
    assert frames[3].labels == [("odd", pytest.approx(0.9))]


class Camera:
    """A live source: a picture every few milliseconds; it breaks where it is told to."""

    live = True

    def __init__(self, pause_s: float, pictures: int, breaks: int = 0) -> None:
        self.pause_s, self.left, self.breaks, self.opened = pause_s, pictures, breaks, 0

    def pictures(self, stopped):
        self.opened += 1
        for number in range(self.left):
            time.sleep(self.pause_s)
            yield Picture(lambda number=number: np.full((96, 160, 3), 255 * (number % 2), np.uint8))
        if self.opened > self.breaks:
            threading.Event().wait(0.5)
        raise EdgeError("video", "Cannot read the camera: it was unplugged", "Plug it in")


def watch(monkeypatch, camera, engine, **more):
    monkeypatch.setattr("edge.video.frames.open_source", lambda _: camera)
    return list(edge.stream(engine, "camera", **more))


def test_of_a_camera_the_newest_frame_is_taken_and_the_others_counted(monkeypatch, reader):
    frames = watch(monkeypatch, Camera(0.002, 1000), reader(0.03), duration_s=1.5)
    numbers = [frame.frame for frame in frames]
    assert numbers == sorted(set(numbers))
    assert sum(frame.dropped for frame in frames) > 0
    assert all(later.dropped == later.frame - frame.frame - 1 for frame, later in pairwise(frames))
    # In a queue the last ones would have waited for most of that time.
    assert np.median([frame.latency_ms for frame in frames[-5:]]) < 300


def test_with_all_no_frame_of_a_camera_is_dropped(monkeypatch, reader):
    frames = watch(monkeypatch, Camera(0.002, 30), reader(0.006), every=True, frames=30)
    assert [frame.frame for frame in frames] == list(range(30))


def test_a_lost_camera_is_opened_again_and_its_frames_are_counted_on(monkeypatch, reader):
    camera, told = Camera(0.001, 5, breaks=3), []

    class Events:
        def warn(self, text):
            told.append(text)

    frames = watch(monkeypatch, camera, reader(), every=True, frames=20, events=Events())
    assert [frame.frame for frame in frames] == list(range(20))
    assert camera.opened == 4
    assert len(told) == 3
    assert "unplugged" in told[0]


def test_a_camera_that_never_opens_is_an_error(monkeypatch, reader):
    with pytest.raises(EdgeError, match="unplugged"):
        watch(monkeypatch, Camera(0.001, 0), reader())


def test_a_stop_ends_a_stream_that_gives_nothing(tmp_path, reader):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    begin = time.perf_counter()
    assert list(edge.stream(reader(), tmp_path, stop=stop)) == []
    assert 0.2 < time.perf_counter() - begin < 3


def test_leaving_the_loop_ends_the_thread(clip, reader):
    for _ in edge.stream(reader(), clip):
        break
    deadline = time.perf_counter() + 3
    while any(thread.name == "edge-video" for thread in threading.enumerate()):
        assert time.perf_counter() < deadline
        time.sleep(0.01)


def test_a_folder_gives_each_photograph_once_when_it_is_whole(tmp_path, reader):
    def png(value: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (160, 96), (value, value, value)).save(file, "PNG")
        return file.getvalue()

    def fill() -> None:
        (tmp_path / "b.png").write_bytes(png(255))
        whole = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(whole).save(file, "PNG")
        with open(tmp_path / "c.png", "wb", buffering=0) as out:  # slowly
            for start in range(0, len(file.getvalue()), 4000):
                out.write(file.getvalue()[start : start + 4000])
                time.sleep(0.03)
        (tmp_path / "notes.txt").write_text("no photograph")

    (tmp_path / "a.png").write_bytes(png(0))
    thread = threading.Thread(target=fill)
    thread.start()
    frames = list(edge.stream(reader(), tmp_path, frames=3, duration_s=20))
    thread.join()
    assert [int(frame.pixels[0, 0, 0]) for frame in frames[:2]] == [0, 255]
    assert frames[2].pixels.std() > 50


def test_a_damaged_photograph_is_told_and_the_next_one_taken(tmp_path, reader):
    (tmp_path / "a.jpg").write_bytes(b"no photograph")
    Image.new("RGB", (160, 96)).save(tmp_path / "b.png")
    told = []

    class Events:
        def warn(self, text):
            told.append(text)

    frames = list(edge.stream(reader(), tmp_path, frames=1, duration_s=20, events=Events()))
    assert [(frame.frame, frame.dropped) for frame in frames] == [(1, 0)]
    assert len(told) == 1
    assert "a.jpg" in told[0]


@pytest.mark.parametrize(("name", "content"), [("absent.mp4", None), ("noise.mp4", b"noise" * 1000), ("empty.mp4", b"")])
def test_what_is_no_video_is_told_in_one_line(tmp_path, reader, name, content):
    pytest.importorskip("av")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgeError, match=rf"^\[video\] Cannot (open|read) .*{name}: [^\n]*$"):
        list(edge.stream(reader(), tmp_path / name))


@pytest.mark.parametrize("source", [None, 0, b"a", "9" * 300, "a" * 300, "a\0b"])
def test_what_is_no_source_is_told_in_one_line(reader, source):
    with pytest.raises(EdgeError, match=r"instead of a source|Cannot open"):
        next(edge.stream(reader(), source))


@pytest.mark.parametrize("given", [{"frames": "x"}, {"frames": -1}, {"duration_s": float("nan")}])
def test_a_bound_that_is_none_is_refused(clip, reader, given):
    with pytest.raises(EdgeError, match=next(iter(given))):
        next(edge.stream(reader(), clip, **given))


def test_a_cut_file_gives_the_frames_it_has(clip, reader, tmp_path):
    av = pytest.importorskip("av")
    cut = tmp_path / "cut.ts"
    with av.open(str(clip)) as given, av.open(str(cut), "w", format="mpegts") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None and number > 2:  # without its first key frame
                packet.stream = stream
                made.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    engine = reader()
    frames = list(edge.stream(engine, cut))
    assert 10 < len(frames) < 60
    assert engine.seen[5:] == sorted(engine.seen[5:])


def test_a_password_is_not_shown(reader):
    pytest.importorskip("av")
    with pytest.raises(EdgeError) as error:
        list(edge.stream(reader(), "rtsp://user:secret@127.0.0.1:9/x"))
    assert "secret" not in str(error.value)
    assert "rtsp://127.0.0.1:9/x" in str(error.value)


def test_without_pyav_the_cure_is_named(monkeypatch, clip, reader):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(EdgeError, match=r"PyAV.*pip install 'mcar-edge\[video\]'"):
        sources.open_source(clip)


# Steady labels.


def shown(scores: list[float], rule: Steady, step_s: float = 0.1) -> list[bool]:
    state = SteadyLabels(np.array([0.5], np.float32), rule)
    return [bool(state.update(np.array([score], np.float32), index * step_s)[0]) for index, score in enumerate(scores)]


def test_between_the_two_thresholds_a_label_stays_as_it_is():
    assert shown([0.6, 0.4, 0.45, 0.36, 0.4], Steady(low=0.7, hold_s=0)) == [True] * 5
    assert shown([0.4, 0.45, 0.49], Steady(low=0.7, hold_s=0)) == [False] * 3


def test_a_label_changes_once_its_score_was_on_the_other_side_for_the_hold_time():
    rise = [0.0, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert shown(rise, Steady(hold_s=0.25)) == [False, False, False, False, True, True]
    assert shown([1 - score for score in rise], Steady(hold_s=0.25)) == [True, True, True, True, False, False]
    assert shown([0.0, 0.9, 0.9, 0.1, 0.9, 0.9], Steady(hold_s=0.25)) == [False] * 6


def test_a_score_that_dips_between_the_thresholds_does_not_start_the_hold_time_anew():
    assert shown([0.0, 0.9, 0.4, 0.9, 0.9], Steady(hold_s=0.25)) == [False] * 4 + [True]
    assert shown([0.9, 0.1, 0.4, 0.1, 0.1], Steady(hold_s=0.25)) == [True] * 4 + [False]


def test_steady_labels_flip_seldom_and_late_by_the_hold_time():
    rng = np.random.default_rng(0)
    step, truth = 0.04, np.repeat([0, 1, 0, 1], 250)  # 40 seconds at 25 frames a second
    scores = np.clip(0.5 + (truth - 0.5) * 0.3 + rng.normal(0, 0.15, truth.size), 0, 1)
    plain = scores >= 0.5
    steady = np.array(shown(scores.tolist(), Steady(low=0.7, hold_s=0.1), step))
    flips = [int(np.abs(np.diff(labels.astype(int))).sum()) for labels in (plain, steady)]
    assert flips[0] > 100
    assert flips[1] < flips[0] / 5
    held = np.array(shown(scores.tolist(), Steady(), step))  # as it is by default
    assert np.abs(np.diff(held.astype(int))).sum() == 3
    assert (held != truth).mean() < 0.3


def test_a_stream_shows_steady_labels(clip, reader):
    frames = list(edge.stream(reader(), clip, steady=Steady(hold_s=0.3)))  # 'odd' and 'even' alternate
    assert {tuple(name for name, _ in frame.labels) for frame in frames} == {("even",)}
