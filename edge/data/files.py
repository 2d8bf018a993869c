"""Data sets whose images are files: the common part of every source but the generated one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edge.data.base import Dataset, Sample
from edge.errors import EdgeError
from edge.image import decode
from edge.manifest import digest_file, digest_json
from edge.reading import read_whole

MAX_TEXT = 2 << 30  # bytes of a table or of annotations; COCO's are 0.3 GB
MAX_DIGESTED = 256 << 20  # bytes; beyond this the digest covers file sizes instead of contents


@dataclass(frozen=True, repr=False, eq=False)
class FileDataset(Dataset):
    """Images under one folder.

    Attributes:
        folder: what ``files`` are relative to.
        files: paths with forward slashes; also the samples' names.
    """

    name: str
    split: str
    splits: tuple[str, ...]
    report_split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int8] | None
    folder: Path
    files: tuple[str, ...] = field(repr=False)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        paths = [self.folder / file for file in self.files]
        sizes = [_size(path) for path in paths]
        images: list[object] = [_digest(path) for path in paths] if sum(sizes) <= MAX_DIGESTED else list(sizes)
        labels = None if self.labels is None else hashlib.sha256(np.ascontiguousarray(self.labels).tobytes()).hexdigest()
        return digest_json([list(self.classes), labels, list(zip(self.files, images, strict=True))])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.files[index], decode(self.folder / self.files[index]))


def require_folder(path: Path, what: str, needs: str) -> None:
    """Refuse a data set whose folder is not there."""
    if not os.path.isdir(path):  # which no name is too long for
        raise EdgeError("data", f"There is no folder {path}", f"Change `dataset`; {what} needs {needs}")


def is_inside(file: str) -> bool:
    """Whether a file name of a list stays within the folder of images."""
    path = PurePosixPath(file)
    return bool(file.strip()) and not path.is_absolute() and ".." not in path.parts and "\0" not in file


def first_missing(folder: Path, files: Iterable[str]) -> int | None:
    """Index of the first file that is not there; lists each folder once, since asking per file is
    slow on network disks."""
    listed: dict[str, set[str]] = {}
    for index, file in enumerate(files):
        parent, _, name = file.rpartition("/")
        if parent not in listed:
            path = folder / parent
            listed[parent] = set(os.listdir(path)) if os.path.isdir(path) else set()
        if name not in listed[parent]:
            return index
    return None


def require_images(folder: Path, files: tuple[str, ...], named_by: Path) -> None:
    """Refuse a split that is empty or names an image that is not there."""
    if not files:
        raise EdgeError("data", f"{named_by} lists no image", "Add images, or change `dataset`")
    index = next((index for index, file in enumerate(files) if not is_inside(file)), None)
    if index is None:
        index = first_missing(folder, files)
    if index is not None:
        raise EdgeError(
            "data", f"There is no file {folder / files[index]}, which {named_by} lists", "Restore it, or remove it from the list"
        )


def read_text(path: Path, what: str) -> str:
    """A text file of a data set, or a refusal that names it."""
    try:
        return read_whole(path, MAX_TEXT).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EdgeError("data", f"Cannot read {what} from {path}: {reason}", "Restore it as a UTF-8 text file") from error


def broken_line(path: Path, line: int, problem: str, fix: str = "Correct that line") -> EdgeError:
    """A refusal of one line (from 1) of a file."""
    return EdgeError("data", f"{path}, line {line}: {problem}", fix)


def _size(path: Path) -> int:
    with _told(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return found.st_size


def _digest(path: Path) -> str:
    with _told(path):
        return digest_file(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeError("data", f"Cannot read {path}: {error.strerror}", "Restore it") from error
