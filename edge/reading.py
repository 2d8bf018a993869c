"""Files from outside, read whole: a pipe is not waited for, and a device does not fill the
memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_whole(path: Path | str, most: int) -> bytes:
    """The contents of a regular file of at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is larger, is no regular file, or no file can have its name;
            ``strerror`` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null in it
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        data = file.read(most + 1) if found.st_size <= most else b""
    if found.st_size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"Larger than {most} bytes")
    return data
