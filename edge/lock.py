"""The lock of whoever fills a partial file or folder: held by a process, and gone with it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from edge.exchange import UNSUPPORTED

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


def lock_of(partial: Path) -> Path:
    return partial.with_name(partial.name + LOCK)


class NoLocksError(Exception):
    """Locks do not work here."""


def locked(partial: Path) -> int | None:
    """A descriptor that holds a partial's lock until it is closed, by whatever end; None where
    another process holds it."""
    if fcntl is None:
        raise NoLocksError
    path = lock_of(partial)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if os.path.lexists(path):  # another user's
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the two calls its last holder may have removed it, and a third process made it
        # anew.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (*UNSUPPORTED, errno.ENOLCK):
            raise
        os.unlink(path)
        raise NoLocksError from error
    os.close(descriptor)
    return None


def unlock(partial: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if not os.path.lexists(partial):  # else its lock stays, by which the next process finds it
            os.unlink(lock_of(partial))
    os.close(descriptor)
