"""A manifest from outside is checked before it is believed."""

from __future__ import annotations

import json

import pytest

from edge.errors import EdgeError
from edge.manifest import (
    MAX_MANIFEST_BYTES,
    NAME,
    digest_bytes,
    digest_file,
    read_manifest,
    verify_files,
)


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert digest_file(tmp_path / "a") == digest_bytes(data)
    # NIST's published SHA-256 of "abc".
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("change", [b"", b"12", b"changed"])
def test_a_changed_file_is_found(manifest_folder, tmp_path, change):
    folder = manifest_folder(tmp_path / "x", a=b"content")
    (folder / "a").write_bytes(change)
    with pytest.raises(EdgeError, match="changed or truncated"):
        verify_files(folder, read_manifest(folder))


def test_a_missing_or_linked_file_is_found(manifest_folder, tmp_path):
    folder = manifest_folder(tmp_path / "x", a=b"content")
    (tmp_path / "elsewhere").write_bytes(b"content")
    (folder / "a").unlink()
    with pytest.raises(EdgeError, match="no file"):
        verify_files(folder, read_manifest(folder))
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeError, match="no file"):
        verify_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "a\\b", "..", "", "a\0b", "c:a", "x" * 300])
def test_path_tricks_in_a_manifest_are_refused(tmp_path, name):
    (tmp_path / NAME).write_text(json.dumps({"schema": 1, "files": {name: {"sha256": "0" * 64, "bytes": 0}}}))
    with pytest.raises(EdgeError, match="files by plain names"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1e999", '{"schema": 2}', '{"schema": true, "files": {}}', '{"schema": 1}', "[" * 100_000],
)
def test_a_hostile_manifest_is_an_error_not_a_crash(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(EdgeError):
        read_manifest(tmp_path)


def test_an_oversized_manifest_is_not_even_read(tmp_path):
    with open(tmp_path / NAME, "wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(EdgeError, match="a manifest has at most"):
        read_manifest(tmp_path)
