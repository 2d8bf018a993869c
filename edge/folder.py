"""A folder held open: what is read from it is of one folder, whatever its name leads to
meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Not every system has these names.
_HOLDABLE = os.open in os.supports_dir_fd and os.listdir in os.supports_fd and hasattr(os, "O_DIRECTORY")
# A link could point anywhere, and opening a pipe would wait for its writer.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """An open folder. Where the system cannot open folders (Windows), its path stands in."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor
        self._identity = _identity(path if descriptor is None else descriptor)

    def names(self) -> list[str]:
        """What lies in it, sorted."""
        return sorted(os.listdir(self.path if self._descriptor is None else self._descriptor))

    def open(self, name: str) -> BinaryIO:
        """One of its files, to read.

        Raises:
            OSError: it is missing, or is a link, a folder, a pipe or a device.
        """
        path = name if self._descriptor is not None else self.path / name
        if self._descriptor is None and os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        descriptor = os.open(path, _FLAGS, dir_fd=self._descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a regular file")
        return os.fdopen(descriptor, "rb")

    def replaced(self) -> bool:
        """Whether its path leads to another folder by now, or to nothing."""
        try:
            return _identity(self.path) != self._identity
        except OSError:
            return True


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Hold a folder open; raises OSError where there is none."""
    if not _HOLDABLE:
        os.listdir(path)
        yield Folder(path, None)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _identity(place: Path | int) -> tuple[int, int]:
    found = os.stat(place)
    return found.st_dev, found.st_ino


def copy_folder(source: Path, target: Path, leave_out: Callable[[str], bool] = lambda name: False) -> None:
    """Copy what lies in a folder into another one, but for the names to leave out; raises the first
    file's ``OSError``, where ``shutil.copytree`` has a list in which no full disk is known."""
    target.mkdir(exist_ok=True)
    for name in os.listdir(source):
        if leave_out(name):
            continue
        if (source / name).is_dir():
            copy_folder(source / name, target / name, leave_out)
        else:
            shutil.copyfile(source / name, target / name)
