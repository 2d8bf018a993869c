"""Files and folders appear whole or not at all, and nothing is replaced that is not ours to
replace."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from edge import atomic, lock
from edge.atomic import (
    check_folder_replaceable,
    check_folder_writable,
    check_writable,
    folder_written_atomically,
    is_partial,
    write_atomically,
)
from edge.errors import EdgeError
from edge.folder import copy_folder
from edge.manifest import NAME, check_replaceable

never = partial(check_replaceable, replace=False)
WAYS = ["exchange", "two renames"]


@pytest.fixture
def way(request, monkeypatch):
    """With the exchange of names, and as on a system without it."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    return request.param


def child(code, *words, **given):
    """A Python process with ``tmp`` for its first argument."""
    head = "import os, signal, sys; from pathlib import Path; from functools import partial; tmp = Path(sys.argv[1])\n"
    head += "from edge import atomic; from edge.manifest import check_replaceable, write_manifest\n"
    return subprocess.Popen([sys.executable, "-c", head + code, *map(str, words)], text=True, **given)


REPLACE = """
with atomic.folder_written_atomically(tmp / "x", partial(check_replaceable, replace=True)) as fresh:
    (fresh / "a").write_bytes(b"2")
    write_manifest(fresh, {})
"""


# ---- files ---------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_atomically(target, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(EdgeError, match="does not fit on the disk"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to("real/a.json")
    for text in ("made", "replaced"):  # at first the link dangles
        write_atomically(tmp_path / "link.json", text)
        assert (tmp_path / "link.json").is_symlink()
        assert (tmp_path / "real" / "a.json").read_text() == text
    assert os.listdir(tmp_path / "real") == ["a.json"]


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")  # which waits for no reader
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomically(tmp_path / "pipe", "x" * 200_000)
    reader.join()
    assert read == ["x" * 200_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_device_is_written_to_and_stays(tmp_path):
    device = tmp_path / "full"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        open(device, "wb").close()
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    with pytest.raises(EdgeError, match="does not fit on the disk"):
        write_atomically(device, "x")
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_standard_output_takes_a_result_between_what_is_printed(tmp_path, where):
    code = "atomic.check_writable('/dev/stdout'); print('before', flush=True)\n"
    code += "atomic.write_atomically('/dev/stdout', 'the result\\n'); print('after', flush=True)"
    if where == "pipe":
        said = child(code, tmp_path, stdout=subprocess.PIPE).communicate(timeout=30)[0]
    else:
        with open(tmp_path / "out.txt", "w") as out:
            assert child(code, tmp_path, stdout=out).wait(timeout=30) == 0
        said = (tmp_path / "out.txt").read_text()
    assert said == "before\nthe result\nafter\n"
    assert os.listdir(tmp_path) == ([] if where == "pipe" else ["out.txt"])


def test_a_device_does_not_give_way_to_a_file_that_grows(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EdgeError, match="no regular file"), atomic.file_written_atomically(tmp_path / "pipe"):
        pytest.fail("it was opened")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_partial_file_that_a_kill_left_goes_with_the_next_write(tmp_path):
    code = "with atomic.file_written_atomically(tmp / 'a') as file:\n    file.write(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    assert child(code, tmp_path).wait(timeout=30) == -signal.SIGKILL
    assert any(is_partial(name) for name in os.listdir(tmp_path))
    write_atomically(tmp_path / "a", b"whole")
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_cleared_of_what_killed_processes_left_of_any_file(tmp_path):
    code = "with atomic.file_written_atomically(tmp / 'a') as file:\n    file.write(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    assert child(code, tmp_path).wait(timeout=30) == -signal.SIGKILL
    for name in (".b.partial-1.lock", ".mine", ".partial-.lock", "c.partial-0.lock"):
        (tmp_path / name).touch()
    atomic.clear_folder(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine", ".partial-.lock", "c.partial-0.lock"]
    atomic.clear_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", ["", ".lock"])
def test_a_partial_that_could_not_be_removed_stops_no_later_write(tmp_path, monkeypatch, kept):
    """As where a disk refuses for a moment."""
    unlink = os.unlink

    def refuse(path, **given):
        if str(path).endswith(f".partial-0{kept}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **given)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        check_writable(tmp_path / "a")
        check_folder_writable(tmp_path / "b")
    assert os.listdir(tmp_path)
    write_atomically(tmp_path / "a", b"whole")
    (tmp_path / "b").mkdir()
    check_folder_writable(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_a_probe_could_not_remove_goes_when_its_folders_are_made(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "refused")))
        check_writable(tmp_path / "folder" / "a longer name")
    assert os.listdir(tmp_path)
    write_atomically(tmp_path / "folder" / "a longer name", b"whole")
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_living_process_fills_stays_whatever_its_number(tmp_path):
    """The lock tells, not the process id: that of another container means nothing here."""
    code = (
        "with atomic.file_written_atomically(tmp / 'a') as file:\n    file.write(b'theirs'); print('filling', flush=True); sys.stdin.read()"
    )
    with child(code, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == "filling\n"
        write_atomically(tmp_path / "a", b"ours")
        assert (tmp_path / "a").read_bytes() == b"ours"
        other.stdin.close()
        assert other.wait(timeout=30) == 0
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("lack", ["no fcntl", "no locks on this disk"])
def test_without_locks_results_are_written_and_nothing_of_others_is_removed(manifest_folder, tmp_path, monkeypatch, lack):
    others = atomic._slot(tmp_path / "a", 0)
    others.write_bytes(b"theirs")
    lock.lock_of(others).touch()
    if lack == "no fcntl":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    write_atomically(tmp_path / "a", b"ours")
    assert (tmp_path / "a").read_bytes() == b"ours"
    assert others.read_bytes() == b"theirs"
    manifest_folder(tmp_path / "x", a=b"1")
    manifest_folder(tmp_path / "x", replace=True, a=b"2")
    assert {name for name in os.listdir(tmp_path) if not is_partial(name)} == {"a", "x"}


def _write_often(path, letter):
    for _ in range(100):
        write_atomically(path, letter * 5000)


def test_processes_that_write_one_file_do_not_harm_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_often, args=(tmp_path / "a", letter)) for letter in "xyz"]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if (tmp_path / "a").exists():
            text = (tmp_path / "a").read_text()
            assert len(text) == 5000
            assert len(set(text)) == 1
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["a"]


# ---- folders -------------------------------------------------------------------------------------


def test_an_existing_folder_is_refused_without_replace(manifest_folder, tmp_path):
    manifest_folder(tmp_path / "x", a=b"1")
    with pytest.raises(EdgeError, match="Add `force`"):
        manifest_folder(tmp_path / "x", a=b"2")
    assert (tmp_path / "x" / "a").read_bytes() == b"1"


def test_an_empty_folder_is_as_good_as_none(manifest_folder, tmp_path):
    (tmp_path / "x").mkdir()
    manifest_folder(tmp_path / "x", a=b"1")
    assert sorted(os.listdir(tmp_path / "x")) == ["a", NAME]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_replace_swaps_the_folder_and_leaves_no_trace_of_the_old(manifest_folder, tmp_path, way):
    manifest_folder(tmp_path / "x", a=b"1", old=b"1")
    manifest_folder(tmp_path / "x", replace=True, a=b"2")
    assert sorted(os.listdir(tmp_path / "x")) == ["a", NAME]
    assert os.listdir(tmp_path) == ["x"]


def test_replace_refuses_a_folder_that_is_not_ours(manifest_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").write_bytes(b"x")
    with pytest.raises(EdgeError, match=r"not a bundle made by edge\.build"):
        manifest_folder(tmp_path / "photos", replace=True, a=b"2")
    assert os.listdir(tmp_path / "photos") == ["family.jpg"]


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_linked_folder_is_replaced_where_it_is(manifest_folder, tmp_path, way):
    (tmp_path / "disk").mkdir()
    manifest_folder(tmp_path / "disk" / "real", a=b"1")
    (tmp_path / "link").symlink_to("disk/real")
    manifest_folder(tmp_path / "link", replace=True, a=b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "real" / "a").read_bytes() == b"2"
    assert os.listdir(tmp_path / "disk") == ["real"]


def test_the_current_folder_is_not_replaced_under_whoever_stands_in_it(manifest_folder, tmp_path, monkeypatch):
    manifest_folder(tmp_path / "x", a=b"1")
    monkeypatch.chdir(tmp_path / "x")
    for path in (".", tmp_path / "x"):
        with pytest.raises(EdgeError, match=r"the current folder\. Go to another folder"):
            manifest_folder(Path(path), replace=True, a=b"2")
    assert sorted(os.listdir(tmp_path / "x")) == ["a", NAME]


def test_when_both_names_are_exchanged_a_kill_finds_one_or_the_other(manifest_folder, tmp_path):
    """Killed right after the exchange; before it the old folder has its name anyway. The next run
    removes what is left."""
    if not _exchanges(tmp_path):
        pytest.skip("this file system does not exchange names")
    manifest_folder(tmp_path / "x", a=b"1")
    code = "exchange = atomic.exchange\natomic.exchange = lambda *names: exchange(*names) and os.kill(os.getpid(), signal.SIGKILL)\n"
    assert child(code + REPLACE, tmp_path).wait(timeout=30) == -signal.SIGKILL
    assert (tmp_path / "x" / "a").read_bytes() == b"2"
    assert len(os.listdir(tmp_path)) > 1
    check_folder_replaceable(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "a").read_bytes() == b"2"


def _exchanges(folder):
    for name in "ab":
        (folder / name).mkdir()
    works = atomic.exchange(folder / "a", folder / "b")
    for name in "ab":
        (folder / name).rmdir()
    return works


def test_a_folder_that_was_set_aside_when_a_kill_came_is_put_back(manifest_folder, tmp_path):
    manifest_folder(tmp_path / "x", a=b"1")
    code = "atomic.exchange = lambda *_: False\nrename = os.rename\n"
    code += "os.rename = lambda *names: (rename(*names), os.kill(os.getpid(), signal.SIGKILL))\n"
    assert child(code + REPLACE, tmp_path).wait(timeout=30) == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    with pytest.raises(EdgeError, match="exists already"):
        never(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_when_the_new_folder_cannot_take_its_place_the_old_one_comes_back(manifest_folder, tmp_path, monkeypatch, error):
    manifest_folder(tmp_path / "x", a=b"1")
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise error
        rename(source, target)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(EdgeError if isinstance(error, OSError) else KeyboardInterrupt):
        manifest_folder(tmp_path / "x", replace=True, a=b"2")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "a").read_bytes() == b"1"


def test_two_processes_may_build_one_folder(manifest_folder, tmp_path):
    code = "print('ready', flush=True); sys.stdin.readline()\n" + REPLACE
    manifest_folder(tmp_path / "x", a=b"1")
    both = [child(code, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.communicate("go\n", timeout=30)
    assert [process.returncode for process in both] == [0, 0]
    assert os.listdir(tmp_path) == ["x"]
    assert json.loads((tmp_path / "x" / NAME).read_text())["files"]["a"]["bytes"] == 1


def test_a_folder_whose_filling_fails_never_appears_and_only_a_full_disk_is_told_as_one(tmp_path):
    def fail(error):
        with folder_written_atomically(tmp_path / "x", never) as fresh:
            (fresh / "half").write_text("half")
            raise error

    with pytest.raises(FileNotFoundError):
        fail(FileNotFoundError(2, "No such file or directory", "photo.jpg"))
    with pytest.raises(EdgeError, match="does not fit on the disk"):
        fail(OSError(28, "No space left on device"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_copied_says_why(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("1")
    (tmp_path / "a" / "left").touch()
    copy_folder(tmp_path / "a", tmp_path / "new", lambda name: name == "left")
    assert [path.name for path in sorted((tmp_path / "new").rglob("*"))] == ["b", "c"]
    (tmp_path / "a" / "b" / "gone").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as error:
        copy_folder(tmp_path / "a", tmp_path / "other")
    assert error.value.errno == errno.ENOENT


def test_permissions_are_the_umasks_and_nobody_else_sees_it_change(manifest_folder, tmp_path, monkeypatch):
    mask = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask is the whole process's"))
        manifest_folder(tmp_path / "x", a=b"1")
        write_atomically(tmp_path / "b", b"1")
        monkeypatch.undo()
    finally:
        os.umask(mask)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("x", "x/manifest.json", "b")}
    assert modes == {"x": 0o750, "x/manifest.json": 0o640, "b": 0o640}


# ---- before the work -----------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_writable, check_folder_writable, check_folder_replaceable])
def test_what_can_be_written_is_found_so_and_left_as_it_was(tmp_path, check):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new", tmp_path / "some" / "folders" / "new"):
        check(path)
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("check", [check_writable, check_folder_writable, check_folder_replaceable])
@pytest.mark.parametrize("place", ["/proc/nope/x", "file/x", "file/a/b/x", "x" * 300, "x" * 300 + "/y"])
def test_what_cannot_be_written_is_one_clear_line(tmp_path, check, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgeError, match=r"\[write\] Cannot write .*: .*\. Choose another place\.$"):
        check(tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]


def test_files_and_folders_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="Is a directory"):
        check_writable(tmp_path)
    with pytest.raises(EdgeError, match="Not a directory"):
        check_folder_writable(tmp_path / "file")


# ---- the space on the disk -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_pixels_that_do_not_fit_are_one_line_and_leave_nothing(small_disk):
    from edge.data import open_dataset
    from edge.data.pixels import cached_pixels, remove_pixels

    images = open_dataset("scenes", "train").subset(range(8))
    with pytest.raises(EdgeError, match="does not fit on the disk"):
        cached_pixels(images, 256, small_disk)
    assert os.listdir(small_disk) == []
    assert cached_pixels(images, 64, small_disk).shape == (8, 64, 64, 3)
    (small_disk / "pixels-mine.npy").touch()
    remove_pixels(small_disk)
    assert os.listdir(small_disk) == ["pixels-mine.npy"]


def test_a_mount_point_cannot_give_way(manifest_folder, small_disk):
    with pytest.raises(EdgeError, match=r"is a mount point\. Choose a folder inside it"):
        manifest_folder(small_disk, a=b"1")
    manifest_folder(small_disk / "x", a=b"1")
    assert os.listdir(small_disk) == ["x"]
