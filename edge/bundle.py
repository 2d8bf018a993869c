"""The bundle: one folder that holds an engine and everything needed to trust it and to rebuild it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge import __version__
from edge.atomic import folder_written_atomically
from edge.errors import EdgeError
from edge.graph import Graph
from edge.manifest import check_replaceable, read_manifest, verify_files, write_manifest
from edge.spec import ImageSpec, ModelSpec, TargetSpec, from_plain, to_plain

GRAPH = "graph.onnx"
REFERENCE = "reference.onnx"
LOWERED = "lowered.onnx"
LABELS = "labels.txt"
CALIBRATION = "calibration.json"
# What is allocated for a bundle follows from these, so its manifest may not exceed them.
MAX_SIZE = 4096
MAX_BATCH = 4096
MAX_CLASSES = 100_000
MAX_PLAN_BYTES = 1 << 40
_REBUILD = "Rebuild the bundle: python -m edge.build --force"


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
        _check_values(path, manifest)
        try:
            specs = [
                from_plain(kind, manifest[name]) for kind, name in ((ModelSpec, "model"), (ImageSpec, "image"), (TargetSpec, "target"))
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise _undescribed(path, " ".join(str(error).split())[:200]) from error
        return cls(path, manifest, *specs)

    def verify(self) -> None:
        """Check presence, size and digest of every file, and that nothing but those will be loaded."""
        engine, files = self.manifest.get("engine"), self.manifest["files"]
        if not isinstance(engine, dict):
            raise _undescribed(self.path, "no engine")
        named = [engine.get("payload"), *([engine["plugin"]["file"]] if engine.get("plugin") else [])]
        # Some files are opened by fixed names: one beside the listed ones would go in unchecked.
        named += sorted(entry.name for entry in self.path.glob("engine.*"))
        named += [name for name in (GRAPH, REFERENCE, LOWERED, CALIBRATION) if (self.path / name).exists()]
        for name in named:
            if not isinstance(name, str) or name not in files:
                raise EdgeError(
                    "load",
                    "what is loaded must be among the listed files",
                    got=f"{str(name)[:80]!r} in {self.path}",
                    expected="a file with a digest in the manifest",
                    do=_REBUILD,
                )
        verify_files(self.path, self.manifest)

    def graph(self) -> Graph:
        """The canonical graph."""
        return Graph((self.path / GRAPH).read_bytes(), self.model, self.image, self.manifest.get("parents", {}))

    @property
    def bytes(self) -> int:
        """Size of the engine payload on disk (the graphs beside it are for rebuilding)."""
        return sum(entry["bytes"] for name, entry in self.manifest["files"].items() if name.startswith("engine."))


def _undescribed(path: Path, got: str) -> EdgeError:
    expected = "a bundle made by edge.build"
    return EdgeError("load", "the manifest must describe model, image and target", got=f"{path}: {got}", expected=expected, do=_REBUILD)


def _check_values(path: Path, manifest: Mapping[str, Any]) -> None:
    """Types and ranges of what a manifest from outside says, before anything is made from it."""

    def fits(value: Any, least: float, most: float, kind: type | tuple[type, ...] = int) -> bool:
        number: Any = value
        return isinstance(value, kind) and not isinstance(value, bool) and bool(least <= number <= most)  # which NaN is not

    model, image, target = (manifest.get(name) for name in ("model", "image", "target"))
    if not (isinstance(model, dict) and isinstance(image, dict) and isinstance(target, dict)):
        raise _undescribed(path, "no fit model, image or target")
    labels, thresholds, batches = model.get("labels"), model.get("thresholds", []), target.get("batches", [1, 8])
    number = (int, float)
    checks = {
        "model.name": isinstance(model.get("name"), str),
        "model.labels": isinstance(labels, list) and len(labels) <= MAX_CLASSES and all(isinstance(each, str) for each in labels),
        "model.options": isinstance(model.get("options", {}), dict),
        "model.thresholds": isinstance(thresholds, list) and all(fits(each, -1e9, 1e9, number) for each in thresholds),
        "image.size": fits(image.get("size", 256), -MAX_SIZE, MAX_SIZE),
        "image.mean": _channels(image.get("mean", [0, 0, 0]), fits, -1e9),
        "image.std": _channels(image.get("std", [1, 1, 1]), fits, 1e-9),
        "target.backend": isinstance(target.get("backend"), str),
        "target.precision": isinstance(target.get("precision"), str),
        "target.float16": isinstance(target.get("float16"), str | None),
        "target.batches": isinstance(batches, list) and all(fits(each, -MAX_BATCH, MAX_BATCH) for each in batches),
        **{name: isinstance(manifest.get(name, {}), dict) for name in ("machine", "tools", "parents")},
        "trained": isinstance(manifest.get("trained", True), bool),
        "default_dataset": isinstance(manifest.get("default_dataset"), str | None),
        **_engine_checks(manifest.get("engine", {}), fits),
    }
    wrong = [name for name, holds in checks.items() if not holds]
    if wrong:
        raise _undescribed(path, f"{', '.join(wrong)} of another type or out of range")
    if labels is not None and len(set(labels)) != len(labels):
        raise EdgeError("load", "class names must be unique", got=f"{path} with one twice", expected="unique names", do=_REBUILD)


def _engine_checks(engine: Any, fits: Callable[..., bool]) -> dict[str, bool]:
    """The same of what a backend said of its engine; which of it there must be, loading knows."""
    if not isinstance(engine, dict):
        return {"engine": False}
    plugin, profiles, machine = engine.get("plugin"), engine.get("profiles", []), engine.get("machine", {})
    capabilities = engine.get("compute_capabilities", [])
    return {
        "engine.payload": isinstance(engine.get("payload", ""), str),
        "engine.plugin": plugin is None or (isinstance(plugin, dict) and isinstance(plugin.get("file"), str)),
        "engine.profiles": isinstance(profiles, list)
        and all(isinstance(each, list) and len(each) == 3 and all(fits(batch, 1, MAX_BATCH) for batch in each) for each in profiles),
        "engine.plan_bytes": fits(engine.get("plan_bytes", 0), 0, MAX_PLAN_BYTES),
        "engine.machine": isinstance(machine, dict)
        and all(isinstance(machine.get(name), str | None) for name in ("version", "compute_capability")),
        "engine.compute_capabilities": isinstance(capabilities, list) and all(isinstance(each, str) for each in capabilities),
        "engine.reduced_range": isinstance(engine.get("reduced_range"), bool | None),
    }


def _channels(values: Any, fits: Callable[..., bool], least: float) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(fits(each, least, 1e9, (int, float)) for each in values)


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
    with folder_written_atomically(path, partial(check_replaceable, replace=replace)) as folder:
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
        content = json.loads(manifest.read_bytes())
        return isinstance(content, dict) and "target" in content
    except (OSError, ValueError, RecursionError):
        return False
