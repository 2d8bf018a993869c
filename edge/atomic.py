"""Files and folders that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from edge.errors import EdgeError

_PARTIAL, _RETIRED = ".partial-", "-old"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write a file beside its final name and rename it, so that a reader sees all of it or none."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    partial = _beside(path)
    with _refusing_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                file.write(data)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise


@contextlib.contextmanager
def folder_written_atomically(path: Path | str, check: Callable[[Path], None]) -> Iterator[Path]:
    """A folder beside ``path`` to fill; renamed to ``path`` at the end, removed on any error.

    Args:
        check: refuses a ``path`` that must not be replaced; a folder that gives way comes back when the new one fails.
    """
    path = Path(path)
    check(path)
    partial = _beside(path)
    retired = partial.with_name(partial.name + _RETIRED)
    with _refusing_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        partial.mkdir()
    try:
        with _refusing_unwritable(path, _FULL):  # what else goes wrong while the folder is filled is not about this path
            yield partial
        with _refusing_unwritable(path):
            if path.exists():
                check(path)
                os.rename(path, retired)
            os.rename(partial, path)
    except BaseException:
        if retired.exists() and not path.exists():
            os.rename(retired, path)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(retired, ignore_errors=True)


@contextlib.contextmanager
def _refusing_unwritable(path: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """An ``OSError`` as one line, of any number or of these only; others pass."""
    try:
        yield
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        if error.errno in _FULL:
            raise EdgeError(
                "write", "the output must fit on the disk", got=f"{path}: {error}", expected="free space", do="Free some"
            ) from error
        got = f"{path}: {error.strerror or error}"
        raise EdgeError("write", "the output must be writable", got=got, expected="a writable folder", do="Choose another") from error


def _beside(path: Path) -> Path:
    """A new name beside a final one. What is made there gets the permissions of any new file, as the umask has them."""
    return path.parent / f".{path.name}{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"


def _remove_stale(path: Path) -> None:
    """Remove what killed builds of this same folder left behind; the old folder only once there is a new one."""
    for stale in path.parent.glob(f".{path.name}{_PARTIAL}*"):
        pid = stale.name.split(_PARTIAL)[-1].split("-")[0]
        needed = stale.name.endswith(_RETIRED) and not path.exists()
        if stale.is_dir() and pid.isdigit() and not Path(f"/proc/{pid}").exists() and not needed:
            shutil.rmtree(stale, ignore_errors=True)
