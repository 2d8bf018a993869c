"""The bundle: one folder that holds an engine and everything needed to trust it and to rebuild it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import __version__
from edge.errors import EdgeError
from edge.graph import Graph
from edge.manifest import folder_written_atomically, read_manifest, verify_files, write_manifest
from edge.spec import ImageSpec, ModelSpec, TargetSpec, from_plain, to_plain

GRAPH = "graph.onnx"
REFERENCE = "reference.onnx"
LOWERED = "lowered.onnx"
LABELS = "labels.txt"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Bundle:
    """An engine bundle on disk, its manifest checked."""

    path: Path
    manifest: Mapping[str, Any]
    model: ModelSpec
    image: ImageSpec
    target: TargetSpec

    @classmethod
    def read(cls, path: Path | str) -> Bundle:
        """Read and check a bundle's manifest; digests of the files are checked by ``verify``."""
        path = Path(path)
        manifest = read_manifest(path)
        try:
            specs = [
                from_plain(kind, manifest[name]) for kind, name in ((ModelSpec, "model"), (ImageSpec, "image"), (TargetSpec, "target"))
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise EdgeError(
                "load",
                "the manifest must describe model, image and target",
                got=f"{path}: {error}",
                expected="a bundle made by edge.build",
                do="Rebuild the bundle: python -m edge.build --force",
            ) from error
        return cls(path, manifest, *specs)

    def verify(self) -> None:
        """Check presence, size and digest of every file."""
        verify_files(self.path, self.manifest)

    def graph(self) -> Graph:
        """The canonical graph."""
        return Graph((self.path / GRAPH).read_bytes(), self.model, self.image, self.manifest.get("parents", {}))

    @property
    def bytes(self) -> int:
        """Size of the engine payload on disk (the graphs beside it are for rebuilding)."""
        return sum(entry["bytes"] for name, entry in self.manifest["files"].items() if name.startswith("engine."))


def write_bundle(
    path: Path,
    *,
    graph: Graph,
    reference: bytes,
    lowered: bytes,
    target: TargetSpec,
    build_engine: Callable[[bytes, TargetSpec, Path], Mapping[str, Any]],
    facts: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
    check: Callable[[Path], Mapping[str, Any]] | None = None,
    replace: bool = False,
) -> Bundle:
    """Build the engine inside a new bundle folder; the folder appears under its name only when complete.

    Args:
        build_engine: the backend's ``build``.
        facts: further manifest keys (parents, tools, machine, parity …).
        check: called with the unfinished folder once it is loadable; returns further manifest keys. An error
            it raises (a gate that does not hold) leaves nothing behind.
    """
    with folder_written_atomically(path, replace=replace) as folder:
        (folder / GRAPH).write_bytes(graph.proto)
        (folder / REFERENCE).write_bytes(reference)
        (folder / LOWERED).write_bytes(lowered)
        (folder / LABELS).write_text("\n".join(graph.model.labels) + "\n", encoding="utf-8")
        for name, data in (extra_files or {}).items():
            (folder / name).write_bytes(data)
        engine = dict(build_engine(lowered, target, folder))
        content = {
            "version": __version__,
            "model": to_plain(graph.model),
            "image": to_plain(graph.image),
            "target": to_plain(target),
            "parents": dict(graph.parents),
            "graph": graph.digest,
            "engine": engine,
            **facts,
        }
        write_manifest(folder, content)
        if check is not None:
            write_manifest(folder, {**content, **check(folder)})
    return Bundle.read(path)


def newest(folder: Path) -> Path | None:
    """The bundle built last under a folder, or None."""
    found = [entry for entry in folder.glob("*/manifest.json") if not entry.parent.name.startswith(".") and _is_bundle(entry)]
    return max(found, key=lambda entry: entry.stat().st_mtime).parent if found else None


def _is_bundle(manifest: Path) -> bool:
    try:
        return "target" in json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
