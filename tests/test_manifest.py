"""Files and folders appear whole or not at all, and a manifest from outside is checked before it is believed."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest

from edge.atomic import folder_written_atomically, write_atomically
from edge.errors import EdgeError
from edge.manifest import (
    MAX_MANIFEST_BYTES,
    NAME,
    check_replaceable,
    digest_bytes,
    digest_file,
    read_manifest,
    verify_files,
    write_manifest,
)

never = partial(check_replaceable, replace=False)


def make(folder, replace=False, **files):
    with folder_written_atomically(folder, partial(check_replaceable, replace=replace)) as fresh:
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        write_manifest(fresh, {"kind": "test"})
    return folder


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert digest_file(tmp_path / "a") == digest_bytes(data)
    # NIST's published SHA-256 of "abc".
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_atomically(target, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(EdgeError, match="free space"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_written_files_have_ordinary_permissions(tmp_path):
    write_atomically(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_whose_filling_fails_never_appears(tmp_path):
    def fail():
        with folder_written_atomically(tmp_path / "x", never) as fresh:
            (fresh / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused_without_replace(tmp_path):
    make(tmp_path / "x", a=b"1")
    with pytest.raises(EdgeError, match="--force"):
        make(tmp_path / "x", a=b"2")
    assert (tmp_path / "x" / "a").read_bytes() == b"1"


def test_replace_swaps_the_folder_and_leaves_no_trace_of_the_old(tmp_path):
    make(tmp_path / "x", a=b"1", old=b"1")
    make(tmp_path / "x", replace=True, a=b"2")
    assert sorted(os.listdir(tmp_path / "x")) == ["a", NAME]
    assert os.listdir(tmp_path) == ["x"]


def test_replace_refuses_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").write_bytes(b"x")
    with pytest.raises(EdgeError, match="replaces only a bundle of ours"):
        make(tmp_path / "photos", replace=True, a=b"2")
    assert os.listdir(tmp_path / "photos") == ["family.jpg"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    stale = tmp_path / ".x.partial-999999999-abc"
    stale.mkdir()
    (stale / "half").write_text("half")
    running = tmp_path / f".x.partial-{os.getpid()}-abc"
    running.mkdir()
    make(tmp_path / "x", a=b"1")
    assert sorted(os.listdir(tmp_path)) == sorted([running.name, "x"])


def test_an_unwritable_output_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgeError, match=r"\[write\] the output must be writable"):
        make(tmp_path / "file" / "x", a=b"1")


@pytest.mark.parametrize("change", [b"", b"12", b"changed"])
def test_a_changed_file_is_found(tmp_path, change):
    folder = make(tmp_path / "x", a=b"content")
    (folder / "a").write_bytes(change)
    with pytest.raises(EdgeError, match="changed or truncated"):
        verify_files(folder, read_manifest(folder))


def test_a_missing_or_linked_file_is_found(tmp_path):
    folder = make(tmp_path / "x", a=b"content")
    (tmp_path / "elsewhere").write_bytes(b"content")
    (folder / "a").unlink()
    with pytest.raises(EdgeError, match="no file"):
        verify_files(folder, read_manifest(folder))
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeError, match="no file"):
        verify_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "a\\b", "..", "", "a\0b", "c:a", "x" * 300])
def test_path_tricks_in_a_manifest_are_refused(tmp_path, name):
    (tmp_path / NAME).write_text(json.dumps({"schema": 1, "files": {name: {"sha256": "0" * 64, "bytes": 0}}}))
    with pytest.raises(EdgeError, match="plain file names"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1e999", '{"schema": 2}', '{"schema": true, "files": {}}', '{"schema": 1}', "[" * 100_000],
)
def test_a_hostile_manifest_is_an_error_not_a_crash(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(EdgeError):
        read_manifest(tmp_path)


def test_an_oversized_manifest_is_not_even_read(tmp_path):
    with open(tmp_path / NAME, "wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(EdgeError, match="must be small"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_when_the_new_folder_cannot_take_its_place_the_old_one_comes_back(tmp_path, monkeypatch, error):
    make(tmp_path / "x", a=b"1")
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(EdgeError if isinstance(error, OSError) else KeyboardInterrupt):
        make(tmp_path / "x", replace=True, a=b"2")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "a").read_bytes() == b"1"


def test_an_old_folder_that_a_kill_left_aside_stays_until_there_is_a_new_one(tmp_path):
    aside = tmp_path / ".x.partial-999999999-abc-old"
    make(tmp_path / "x", a=b"1")
    (tmp_path / "x").rename(aside)
    with folder_written_atomically(tmp_path / "x", never) as fresh:
        assert (aside / "a").read_bytes() == b"1"
        write_manifest(fresh, {})
    make(tmp_path / "x", replace=True, a=b"2")
    assert os.listdir(tmp_path) == ["x"]


def test_only_a_full_disk_is_told_as_one_while_a_folder_is_filled(tmp_path):
    def fail(error):
        with folder_written_atomically(tmp_path / "x", never):
            raise error

    with pytest.raises(FileNotFoundError):
        fail(FileNotFoundError(2, "No such file or directory", "photo.jpg"))
    with pytest.raises(EdgeError, match="free space"):
        fail(OSError(28, "No space left on device"))
    assert os.listdir(tmp_path) == []


def test_permissions_are_the_umasks_and_nobody_else_sees_it_change(tmp_path, monkeypatch):
    mask = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask is the whole process's"))
        make(tmp_path / "x", a=b"1")
        write_atomically(tmp_path / "b", b"1")
        monkeypatch.undo()
    finally:
        os.umask(mask)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("x", "x/manifest.json", "b")}
    assert modes == {"x": 0o750, "x/manifest.json": 0o640, "b": 0o640}
