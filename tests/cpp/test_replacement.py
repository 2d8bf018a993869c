"""A bundle that changes on disk while it is loaded or runs: what was checked is what runs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)


def overwrite(folder: Path) -> None:
    """The files keep their inodes, as under `cp`: a memory map of them would change too."""
    for name in ("engine.bin", "engine.xml"):
        with open(folder / name, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write(np.full(size // 4 + 1, 0.5, np.float32).tobytes()[:size])


@contextmanager
def in_the_background(work) -> Iterator[None]:
    """Call it again and again in a thread."""
    stopped = threading.Event()

    def again() -> None:
        while not stopped.is_set():
            work()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(again)
        try:
            yield
        finally:
            stopped.set()
        running.result()


def test_a_loaded_engine_does_not_see_that_its_files_are_overwritten(copied: Path, bundle: Path, open_native) -> None:
    whole, native = open_native(bundle), open_native(copied)
    overwrite(copied)
    for count in (1, 2, 3):  # each is compiled when it is first asked for
        for name, value in whole.infer(IMAGES[:count]).items():
            np.testing.assert_array_equal(native.infer(IMAGES[:count])[name], value, err_msg=name)
    (copied / "engine.bin").write_bytes(b"")  # a memory map would end in a bus error
    native.infer(IMAGES)


def test_threads_that_predict_while_the_files_change_agree_with_serial(copied: Path, open_native) -> None:
    native = open_native(copied)
    expected = native.infer(IMAGES[:1])
    with in_the_background(lambda: overwrite(copied)), ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: native.infer(IMAGES[:1]), range(200)):
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_bundles_exchanged_while_loading_are_never_mixed(copied: Path, rewrite, open_native, tmp_path: Path) -> None:
    """Both are whole at any time; only which of them has the name changes."""
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    data = bytearray((other / "engine.bin").read_bytes())
    values = np.frombuffer(data, np.float32, len(data) // 4)
    weights = (abs(values) > 1e-3) & (abs(values) < 10)  # not the whole numbers that shapes are made of
    values[weights] *= 0.9

    def rename(manifest: dict) -> None:
        manifest["model"]["labels"] = [f"other {label}" for label in manifest["model"]["labels"]]

    rewrite(other, {"engine.bin": bytes(data)}, rename)
    right = {}
    for folder in (copied, other):
        native = open_native(folder)
        right[native.labels] = native.infer(IMAGES[:1])["scores"]
    first, second = right.values()
    assert not np.array_equal(first, second)

    link, turn = tmp_path / "link", iter(range(1 << 40))
    link.symlink_to(copied)

    def exchange() -> None:
        step = tmp_path / "step"
        step.symlink_to((copied, other)[next(turn) % 2])
        os.replace(step, link)

    seen = []
    with in_the_background(exchange):
        for _ in range(12):
            native = open_native(link)
            seen.append(native.labels)
            np.testing.assert_array_equal(native.infer(IMAGES[:1])["scores"], right[native.labels])
    assert set(seen) == set(right)


def test_a_bundle_that_gives_way_to_another_is_read_from_that(copied: Path, rewrite, open_native, tmp_path: Path) -> None:
    """Renamed away and removed while it is read."""
    rewrite(copied, {"a.large": bytes(256 << 20)})  # read before the engine, for a tenth of a second or more
    place, new, old = tmp_path / "place", tmp_path / "new", tmp_path / "old"
    for folder in (place, new):
        shutil.copytree(copied, folder, copy_function=os.link)

    def replace() -> None:
        time.sleep(0.03)
        os.rename(place, old)
        os.rename(new, place)
        shutil.rmtree(old)

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        open_native(place)
        replacing.result()


def test_every_listed_file_is_read_from_the_folder_that_was_opened(copied: Path, open_native, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for name in json.loads((copied / "manifest.json").read_text())["files"]:
        path = copied / name
        path.rename(moved)
        # Missing; a pipe, which would keep a reader waiting; a link to elsewhere.
        for make in (lambda: None, partial(os.mkfifo, path), partial(path.symlink_to, moved)):
            make()
            with pytest.raises(RuntimeError, match=rf"\[load\].*{name}"):
                open_native(copied)
            path.unlink(missing_ok=True)
        moved.rename(path)
    open_native(copied)
