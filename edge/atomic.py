"""The one way to write: files and folders that appear under their name only when they are complete.

1. A result is filled under a partial name beside its own and takes its name in one step: a reader
   sees all of it or none.
2. A link is followed: what it points to is replaced, and the link stays. What is no regular file (a
   device, a pipe, ``/dev/stdout``) is never replaced but written to.
3. Whoever fills a partial holds a lock on it. Only where that lock is free, because its holder was
   killed, may another process clear up; a file system or a system without locks is never cleared
   up.
4. A folder gives way to a new one by an exchange of the two names where the system has that, so
   that no moment is without either. Elsewhere it is set aside first, and the next process that
   writes there puts it back if this one was killed in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from edge.errors import EdgeError
from edge.exchange import exchange
from edge.lock import LOCK, NoLocksError, lock_of, locked, unlock

_PARTIAL, _ASIDE = "partial", ".aside"
_SLOTS = 8  # partial names that are looked at for what a killed process left
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write a whole file, so that a reader sees all of it or none; to a device or a pipe, just
    write.

    Raises:
        EdgeError: it cannot be written, or does not fit on the disk. What was there before is still
            there.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    with refusing_unwritable(path):
        if _is_special(path):
            # Opened anew, a file behind /dev/stdout would be written from its start, over what was
            # printed.
            descriptor = _own_stream(path)
            with open(path if descriptor is None else os.dup(descriptor), "wb") as stream:
                stream.write(data)
        else:
            with file_written_atomically(path) as file:
                file.write(data)


@contextlib.contextmanager
def file_written_atomically(path: Path | str) -> Iterator[BinaryIO]:
    """A new file, open for writing and reading, that becomes ``path`` at the end and goes on any
    error; a device or a pipe cannot be filled so and is refused."""
    path = Path(path)
    # What else goes wrong while it is filled is not about this path.
    with refusing_full_disk(path), contextlib.ExitStack() as stack:
        with refusing_unwritable(path):
            if _is_special(path):
                raise EdgeError("write", f"{path} is no regular file, or is written to already", "Choose another place")
            target = _resolved(path)
            _make_parents(target)
            partial = stack.enter_context(_partial(target))
            file = stack.enter_context(open(partial, "x+b"))
        yield file
        with refusing_unwritable(path):
            file.close()
            os.replace(partial, target)


@contextlib.contextmanager
def folder_written_atomically(path: Path | str, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder to fill, beside ``path``; it takes the name ``path`` at the end and goes on any
    error.

    Args:
        check: refuses a ``path`` that must not be replaced; asked before the work and again at its
            end.
    """
    path = Path(path)
    check(path)
    # What else goes wrong while it is filled is not about this path.
    with refusing_full_disk(path), contextlib.ExitStack() as stack:
        with refusing_unwritable(path):
            target = _resolved(path)
            _make_parents(target)
            partial = stack.enter_context(_partial(target))
            partial.mkdir()
        yield partial
        with refusing_unwritable(path):
            if is_free(target):
                os.rename(partial, target)  # which takes the place of an empty folder, too
            else:
                check(path)
                _replace_folder(partial, target)


def check_writable(path: Path | str) -> None:
    """Refuse, before the work, a file that could not be written after it. Nothing is left
    behind."""
    path = Path(path)
    with refusing_unwritable(path):
        if _is_special(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            _probe(_resolved(path))


def check_folder_writable(path: Path | str) -> None:
    """Refuse, before the work, a folder into which no file could be written, be it there or yet to
    be made."""
    with refusing_unwritable(Path(path)):
        folder = _resolved(path)
        if _mode(folder) is None:
            _probe(folder)
        else:
            os.listdir(folder)  # a file in its place is told as one
            _clear_up(folder)  # nobody will make it anew, and so clear up
            _probe(folder / "x")


def check_folder_replaceable(path: Path | str) -> None:
    """Refuse, before the work, a folder that could not be made or exchanged for a new one.

    What a killed process left of it is cleared up first, so that it is there if it was ever
    complete.
    """
    path = Path(path)
    with refusing_unwritable(path):
        target = _resolved(path)
        _clear_up(target)
        _probe(target)
        if Path.cwd().is_relative_to(target):
            raise EdgeError(
                "write", f"Cannot replace {target} while it is the current folder", "Go to another folder, or choose another `output`"
            )
        if target.is_mount():
            raise EdgeError("write", f"Cannot replace {target}, which is a mount point", "Choose a folder inside it as `output`")


def is_free(path: Path | str) -> bool:
    """Whether a folder of this name may be made without asking: nothing is there, or an empty
    folder."""
    with refusing_unwritable(Path(path)):
        mode = _mode(Path(path))
        return mode is None or (stat.S_ISDIR(mode) and not os.listdir(path))


@contextlib.contextmanager
def refusing_unwritable(path: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """An ``OSError`` as one line, of any number or of these only; others pass."""
    try:
        yield
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        why = error.strerror or error
        if error.errno in _FULL:
            raise EdgeError("write", f"{path} does not fit on the disk: {why}", "Free some space, or choose another place") from error
        raise EdgeError("write", f"Cannot write {path}: {why}", "Choose another place") from error


def refusing_full_disk(path: Path) -> contextlib.AbstractContextManager[None]:
    """An ``OSError`` of a full disk as one line; others pass."""
    return refusing_unwritable(path, _FULL)


def clear_folder(folder: Path) -> None:
    """Remove what killed processes left of any file in a folder, also of those that are not written
    again."""
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            head, marked, number = name.removesuffix(LOCK).rpartition(f".{_PARTIAL}-")
            if marked and head.startswith(".") and number.isdigit():
                _clear_up(folder / head[1:])


def is_partial(name: str) -> bool:
    """Whether a file of this name is an unfinished one of ours, or belongs to it."""
    return name.startswith(".") and f".{_PARTIAL}-" in name


# ---- names ---------------------------------------------------------------------------------------


def _resolved(path: Path | str) -> Path:
    return Path(os.path.realpath(path))


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _is_special(path: Path) -> bool:
    """Whether a path is written to directly: no regular file, or one that our own output goes to
    already."""
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return mode is not None and (not stat.S_ISREG(mode) or _own_stream(path) is not None)


def _own_stream(path: Path) -> int | None:
    """The descriptor of standard output or standard error that writes to this path; None where
    neither does."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
    return None


def _tried(target: Path) -> Path:
    """A name as long as any of a path's, in the nearest folder there is; mostly its own."""
    folder, missing = target.parent, [target.name]
    while _mode(folder) is None:
        missing.append(folder.name)
        folder = folder.parent
    return folder / max(missing, key=len)


def _probe(target: Path) -> None:
    with _partial(_tried(target)) as partial:
        open(partial, "x").close()


def _make_parents(target: Path) -> None:
    tried = _tried(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if tried != target:
        _clear_up(tried)  # nothing else will, where the probe's removal was refused


# ---- partials ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A name beside a final one for this process alone; whatever is there at the end is removed."""
    _clear_up(target)
    lock = None
    try:
        for partial in (_slot(target, number) for number in count()):
            lock = locked(partial)
            if lock is not None:
                _remove(partial)  # of one whose removal was refused
                break
    except NoLocksError:
        partial = _slot(target, secrets.token_hex(8))
    try:
        yield partial
    finally:
        _remove(partial)
        if lock is not None:
            unlock(partial, lock)


def _clear_up(target: Path) -> None:
    """Remove what killed processes left of this same file or folder; one that was set aside comes
    back if there is no newer one."""
    for number in range(_SLOTS):
        partial = _slot(target, number)
        if not os.path.lexists(lock_of(partial)):
            continue
        with contextlib.suppress(NoLocksError, OSError):
            lock = locked(partial)
            if lock is None:
                continue
            try:
                aside = partial.with_name(partial.name + _ASIDE)
                if os.path.lexists(aside) and not os.path.lexists(target):
                    os.rename(aside, target)
                _remove(aside)
                _remove(partial)
            finally:
                unlock(partial, lock)


def _slot(target: Path, name: int | str) -> Path:
    return target.parent / f".{target.name}.{_PARTIAL}-{name}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _replace_folder(partial: Path, target: Path) -> None:
    """Give a folder the name of another, which then lies under the partial name and goes with
    it."""
    if exchange(partial, target):
        return
    aside = partial.with_name(partial.name + _ASIDE)
    os.rename(target, aside)
    try:
        os.rename(partial, target)
    except BaseException:
        os.rename(aside, target)
        raise
    _remove(aside)
