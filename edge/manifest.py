"""Digests, and the ``manifest.json`` that ties every file of a bundle to its parents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edge.atomic import check_folder_replaceable, is_free
from edge.errors import EdgeError
from edge.folder import Folder, open_folder

SCHEMA = 2
READABLE = (1, SCHEMA)  # 1: every engine is one graph
NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
REBUILD = "Rebuild the bundle: python -m edge.build --force"
_BUILD = "Build one: python -m edge.build"


def fits(value: object, least: float, most: float, kind: type | tuple[type, ...] = int) -> bool:
    """Whether a value of a manifest is a number of that kind and in range, which NaN is not."""
    return isinstance(value, kind) and isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def digest_bytes(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's contents, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def check_replaceable(path: Path, *, replace: bool) -> None:
    """Refuse an output folder that could not be written, or that holds something, unless it may be
    replaced and is ours."""
    check_folder_replaceable(path)
    if is_free(path):
        return
    if not replace:
        raise EdgeError("build", f"{path} exists already", "Add `force` to replace it, or choose another `output`")
    try:
        read_manifest(path)
    except EdgeError as error:
        raise EdgeError("build", f"{path} is not a bundle made by edge.build, so it is not replaced", "Choose another `output`") from error


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` with the schema version and, for every other file in the folder, its
    digest and size.

    The folder is one that nobody sees yet: nothing of a half written one may be left in it, and so
    be listed.
    """
    files = {
        entry.name: {"sha256": digest_file(entry), "bytes": entry.stat().st_size}
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name != NAME
    }
    (folder / NAME).write_text(json.dumps({"schema": SCHEMA, **content, "files": files}, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path | Folder) -> dict[str, Any]:
    """Read and check the form of a folder's manifest: bounded size, our schema, plain file names
    only."""
    with held(folder) as place:
        path = place.path / NAME
        try:
            with place.open(NAME) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(MAX_MANIFEST_BYTES) if size <= MAX_MANIFEST_BYTES else b""
        except OSError as error:
            raise EdgeError("load", f"{place.path} is not a bundle: {NAME} cannot be read ({_reason(error)})", _BUILD) from error
    if size > MAX_MANIFEST_BYTES:
        raise EdgeError("load", f"{path} has {size} bytes; a manifest has at most {MAX_MANIFEST_BYTES}", REBUILD)
    try:
        content: dict[str, Any] = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EdgeError("load", f"{path} is not JSON: {str(error)[:80]}", REBUILD) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in READABLE or isinstance(schema, bool):
        readable = " and ".join(map(str, READABLE))
        raise EdgeError("load", f"{path} has schema {str(schema)[:80]!r}; this version reads schemas {readable}", REBUILD)
    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise EdgeError("load", f"{path} does not list its files by plain names with digests and sizes", REBUILD)
    return content


def verify_files(folder: Path | Folder, manifest: Mapping[str, Any], *, keep: str | None = None) -> dict[str, bytes]:
    """Check presence, size and digest of every file the manifest lists.

    Args:
        keep: files whose names begin so are read into memory, and their digests taken from there.

    Returns:
        The files kept: the very bytes whose digests were right.
    """
    kept = {}
    with held(folder) as place:
        for name, entry in manifest["files"].items():
            if keep is not None and name.startswith(keep):
                kept[name] = read_verified(place, name, entry)
            else:
                _check(place, name, entry, _digest_blocks)
    return kept


def read_verified(folder: Path | Folder, name: str, entry: Mapping[str, Any]) -> bytes:
    """A file's contents, if they have the size and the digest of its entry in the manifest."""
    with held(folder) as place:
        return _check(place, name, entry, _read_whole)


@contextmanager
def held(folder: Path | Folder) -> Iterator[Folder]:
    """A folder, opened unless it is open."""
    with ExitStack() as stack:
        if not isinstance(folder, Folder):
            try:
                folder = stack.enter_context(open_folder(folder))
            except (OSError, ValueError) as error:
                raise EdgeError("load", f"There is no bundle at {str(folder)[:300]} ({_reason(error)})", _BUILD) from error
        yield folder


def _check(folder: Folder, name: str, entry: Mapping[str, Any], read: Callable[[BinaryIO, int], tuple[bytes, str]]) -> bytes:
    path, fix = folder.path / name, "Copy the bundle again, or rebuild it: python -m edge.build --force"
    try:
        with folder.open(name) as file:
            fits = os.fstat(file.fileno()).st_size == entry["bytes"]
            data, digest = read(file, entry["bytes"]) if fits else (b"", "")
    except OSError as error:
        raise EdgeError("load", f"There is no file {path}, which the bundle lists ({_reason(error)})", fix) from error
    if digest != entry["sha256"]:
        raise EdgeError("load", f"{path} was changed or truncated: its size and SHA-256 are not those in the manifest", fix)
    return data


def _read_whole(file: BinaryIO, size: int) -> tuple[bytes, str]:
    data = file.read(size)
    return data, digest_bytes(data)


def _digest_blocks(file: BinaryIO, size: int) -> tuple[bytes, str]:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return b"", digest.hexdigest()


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_entry(name: object, entry: object) -> bool:
    # Printable: no line breaks in messages, no halves of surrogate pairs, which no file system
    # takes.
    plain = isinstance(name, str) and 0 < len(name) < 200 and name not in (".", "..") and not set(name) & set("/\\:") and name.isprintable()
    return (
        plain
        and isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and len(entry["sha256"]) == 64
        and set(entry["sha256"]) <= set("0123456789abcdef")
        and type(entry.get("bytes")) is int
        and entry["bytes"] >= 0
    )
