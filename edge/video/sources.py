"""Where pictures come from: a video file, the address of a stream, a camera, a folder that
fills."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError, UnavailableError
from edge.image import decode

PATIENCE_S = 5.0  # without a picture, a stream counts as lost
POLL_S = 0.1  # how often a folder is looked at
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".avif")
# A camera in the network: no waiting for a better guess of its format, no packets that come too
# late to count.
NETWORK = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}


@dataclass(frozen=True)
class Picture:
    """A picture that can be had.

    Attributes:
        load: decodes or converts it: (H, W, 3) uint8 RGB; ``EdgeError`` where it is damaged.
        at: seconds from the start of a file; None for what is live.
    """

    load: Callable[[], NDArray[np.uint8]]
    at: float | None = None


class Source(Protocol):
    """What gives pictures.

    Attributes:
        live: whether its pictures get old: only the newest counts, and what is lost is opened
            again.
    """

    live: bool

    def pictures(self, stopped: Callable[[], bool]) -> Iterator[Picture]:
        """Opened anew by every call.

        Raises:
            EdgeError: it cannot be opened, or broke.
        """


def open_source(name: str | os.PathLike[str]) -> Source:
    """A path, an address (``rtsp://…``), or a camera (``/dev/video0``, or its number).

    Raises:
        EdgeError: there is nothing of that name, or PyAV is missing.
    """
    if not isinstance(name, str | os.PathLike):
        raise EdgeError("video", f"Got {type(name).__name__} instead of a source", "Pass a path, an address, or a camera's number as text")
    text = os.fsdecode(name)
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return Video(text, live=True, options=NETWORK)
    path = Path(f"/dev/video{text}" if text.isdecimal() and not os.path.exists(text) else text)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise EdgeError(
            "video", f"Cannot open {path}: {why}", "Use a video file, a folder, a camera such as /dev/video0, or rtsp://…"
        ) from error
    if stat.S_ISDIR(mode):
        return Folder(path)
    if stat.S_ISCHR(mode):
        return Video(str(path), live=True, container_format="v4l2")
    return Video(str(path), live=False)


def without_password(address: str) -> str:
    """The address as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


class Video:
    """Whatever FFmpeg opens, through PyAV."""

    def __init__(self, name: str, *, live: bool, options: dict[str, str] | None = None, container_format: str | None = None) -> None:
        self.live = live
        self._name = name
        self._shown = without_password(name)
        self._options = options or {}
        self._format = container_format
        self._av = pyav()

    def pictures(self, stopped: Callable[[], bool]) -> Iterator[Picture]:
        try:
            timeout = (PATIENCE_S, PATIENCE_S) if self.live else None
            with self._av.open(self._name, format=self._format, options=self._options, timeout=timeout) as container:
                if not container.streams.video:
                    raise EdgeError("video", f"{self._shown} has no video", "Use a source with images")
                stream = container.streams.video[0]
                stream.thread_type = "SLICE" if self.live else "AUTO"  # several frames at once come late
                yield from self._decoded(container, stream, stopped)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise EdgeError("video", f"Cannot read {self._shown}: {why}", "Check that it exists and is a video") from error

    def _decoded(self, container: Any, stream: Any, stopped: Callable[[], bool]) -> Iterator[Picture]:
        start = None
        for packet in container.demux(stream):
            if stopped():
                return
            try:
                frames = packet.decode()
            except self._av.error.InvalidDataError:  # as between two key frames, where one began to listen
                continue
            for frame in frames:
                at = None if self.live or frame.time is None else float(frame.time)
                start = at if start is None else start
                yield Picture(partial(frame.to_ndarray, format="rgb24"), None if at is None or start is None else at - start)


class Folder:
    """Photographs that appear in a folder, in the order of their age and then name; those that are
    there come first."""

    live = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def pictures(self, stopped: Callable[[], bool]) -> Iterator[Picture]:
        seen: set[tuple[str, int, int]] = set()
        growing: dict[str, tuple[str, int, int]] = {}
        while not stopped():
            found = self._files()
            seen &= {key for _, key in found}  # of files that are gone nothing is kept
            waiting = [(age, key) for age, key in found if key not in seen]
            for age, key in sorted(waiting):
                # One that is still being written changes: it is taken when two looks agree, or when
                # it is old.
                if growing.get(key[0]) == key or time.time() - age > 10 * POLL_S:
                    seen.add(key)
                    yield Picture(partial(decode, self._path / key[0]))
            growing = {key[0]: key for _, key in waiting if key not in seen}
            time.sleep(POLL_S)

    def _files(self) -> list[tuple[float, tuple[str, int, int]]]:
        """Age and (name, time, size) of every photograph."""
        found = []
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
                        facts = entry.stat()
                        found.append((facts.st_mtime, (entry.name, facts.st_mtime_ns, facts.st_size)))
        except FileNotFoundError as error:
            if not self._path.is_dir():
                raise EdgeError("video", f"The folder {self._path} no longer exists", "Create it again") from error
        except OSError as error:
            raise EdgeError("video", f"Cannot read {self._path}: {error.strerror}", "Check its permissions") from error
        return found


def pyav() -> ModuleType:
    """PyAV; ``UnavailableError`` where it is missing."""
    try:
        import av
    except ImportError as error:
        raise UnavailableError("video", "PyAV, which reads videos and cameras, is missing", "pip install 'mcar-edge[video]'") from error
    module: ModuleType = av
    return module  # its log stays off: written through Python, it can stop decoding for ever
