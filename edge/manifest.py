"""Digests, and the ``manifest.json`` that ties every file of a bundle to its parents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.atomic import check_folder_replaceable, is_free, write_atomically
from edge.errors import EdgeError

SCHEMA = 1
NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


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
    """Refuse an output folder that could not be written, or that holds something, unless it may be replaced and is ours."""
    check_folder_replaceable(path)
    if is_free(path):
        return
    if not replace:
        raise EdgeError("build", f"{path} exists already", "Add `force` to replace it, or choose another `output`")
    try:
        read_manifest(path)
    except EdgeError as error:
        raise EdgeError("build", f"{path} is not a bundle of ours, and only those are replaced", "Choose another `output`") from error


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` with the schema version and, for every other file in the folder, its digest and size."""
    files = {
        entry.name: {"sha256": digest_file(entry), "bytes": entry.stat().st_size}
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name != NAME
    }
    write_atomically(folder / NAME, json.dumps({"schema": SCHEMA, **content, "files": files}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the form of a folder's manifest: bounded size, our schema, plain file names only."""
    path = folder / NAME
    if not path.is_file():
        raise EdgeError(
            "load",
            "a bundle must hold its manifest",
            got=f"no {path}",
            expected=f"a folder with {NAME}",
            do="Build one: python -m edge.build",
        )
    rebuild = "Rebuild the bundle: python -m edge.build --force"
    size = path.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise EdgeError("load", "a manifest must be small", got=f"{size} bytes", expected=f"at most {MAX_MANIFEST_BYTES}", do=rebuild)
    try:
        content = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError, OSError) as error:
        raise EdgeError("load", "the manifest must be JSON", got=f"{path}: {str(error)[:80]}", expected="an object", do=rebuild) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise EdgeError("load", "the manifest's schema must be known", got=f"{path} with schema {schema!r}", expected=SCHEMA, do=rebuild)
    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise EdgeError(
            "load", "the manifest must list plain file names with digests", got="another form", expected="names without folders", do=rebuild
        )
    return content


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check presence, size and digest of every file the manifest lists."""
    for name, entry in manifest["files"].items():
        path = folder / name
        fix = "Rebuild the bundle or copy it again: python -m edge.build --force"
        # A link could point anywhere: a bundle holds its files itself.
        if path.is_symlink() or not path.is_file():
            raise EdgeError("load", "every listed file must be in the bundle", got=f"no file {path}", expected=name, do=fix)
        if path.stat().st_size != entry["bytes"] or digest_file(path) != entry["sha256"]:
            raise EdgeError(
                "load",
                "every file must be as it was built",
                got=f"{path} changed or truncated",
                expected=f"sha256 {entry['sha256'][:12]}…",
                do=fix,
            )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_entry(name: object, entry: object) -> bool:
    # Printable: no line breaks in messages, no halves of surrogate pairs, which no file system takes.
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
