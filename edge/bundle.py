"""The bundle: one folder with an engine and everything needed to verify and rebuild it."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from edge import __version__, backends
from edge.atomic import folder_written_atomically
from edge.backends.base import Facts
from edge.errors import EdgeError
from edge.folder import Folder
from edge.graph import CLOSER, LOOK, WHOLE, Graph
from edge.manifest import REBUILD, check_replaceable, fits, held, read_manifest, read_verified, verify_files, write_manifest
from edge.spec import MAX_BATCH, MAX_REGIONS, ImageSpec, ModelSpec, StagesSpec, TargetSpec, from_plain, to_plain

GRAPH = "graph.onnx"
REFERENCE = "reference.onnx"
LABELS = "labels.txt"
CALIBRATION = "calibration.json"
# What is allocated for a bundle follows from these, so its manifest may not exceed them.
MAX_SIZE = 4096
MAX_CLASSES = 100_000
STAGES = (WHOLE, LOOK, CLOSER)
BuildEngine: TypeAlias = Callable[[Mapping[str, bytes], TargetSpec, StagesSpec | None, Path], Facts]
ENGINE_FILES = "engine."  # what the names of the engine's own files begin with
_TRIES = 5  # while the folder's name is given to others
_PAUSE = 0.01  # seconds


@dataclass(frozen=True)
class Bundle:
    """An engine bundle on disk, its manifest checked."""

    path: Path
    manifest: Facts
    model: ModelSpec
    image: ImageSpec
    target: TargetSpec
    stages: StagesSpec | None = None  # of a model that runs in two

    @classmethod
    def read(cls, path: Path | str) -> Bundle:
        """Read and check a bundle's manifest; digests of the files are checked by ``verify``."""
        with held(Path(path)) as folder:
            return cls._of(folder)

    @classmethod
    def load(cls, path: Path | str) -> tuple[Bundle, dict[str, builtins.bytes]]:
        """Read a whole bundle, every file once, and check it: the bundle, and the contents of its
        ``engine.*``.

        The contents are the same bytes whose digests were verified. All files come from one folder;
        if it is replaced while it is read, its replacement is read instead.
        """
        tries = 0
        while True:
            tries += 1
            again = tries < _TRIES  # also where there is no folder: it may be the moment between two renames
            try:
                with held(Path(path)) as folder:
                    try:
                        bundle = cls._of(folder)
                        return bundle, bundle._verified(folder)
                    finally:
                        again = again and folder.replaced()
            except EdgeError:
                if not again:
                    raise
            time.sleep(_PAUSE)

    @classmethod
    def _of(cls, folder: Folder) -> Bundle:
        path, manifest = folder.path, read_manifest(folder)
        _check_values(path, manifest)
        try:
            target = from_plain(TargetSpec, manifest["target"])
            if manifest["schema"] == 1:  # there a backend's fact
                target = replace(target, reduced_range=manifest.get("engine", {}).get("reduced_range"))
            stages = manifest.get("stages")
            bundle = cls(
                path,
                manifest,
                from_plain(ModelSpec, manifest["model"]),
                from_plain(ImageSpec, manifest["image"]),
                target,
                None if stages is None else from_plain(StagesSpec, stages),
            )
            bundle.reference_image  # noqa: B018 – refuses what is none
            return bundle
        except (KeyError, TypeError, AttributeError) as error:
            raise _undescribed(path, " ".join(str(error).split())[:200]) from error

    def verify(self) -> None:
        """Check presence, size and digest of every file, and that no other file would be loaded."""
        with held(self.path) as folder:
            self._verified(folder, keep=None)

    def read_file(self, name: str) -> builtins.bytes:
        """The contents of one of the bundle's files, its size and digest checked."""
        if name not in self.manifest["files"]:
            raise EdgeError("load", f"The manifest of {self.path} does not list {name}", REBUILD)
        return read_verified(self.path, name, self.manifest["files"][name])

    @property
    def reference_image(self) -> ImageSpec:
        """The input of ``reference.onnx``; in a tuned bundle that of the given weights."""
        reference = self.manifest.get("reference")
        return (self.image if reference is None else from_plain(ImageSpec, reference["image"])).normalised

    @property
    def reference_is_own(self) -> bool:
        """Whether ``reference.onnx`` differs from the bundle's graph only in precision."""
        reference = self.manifest.get("reference")
        own = (self.image.normalised, self.model.options.get("regions"))
        return reference is None or (self.reference_image, reference.get("regions")) == own

    def lowered(self) -> dict[str, builtins.bytes]:
        """What the backend parsed, by stage."""
        return {stage: self.read_file(lowered_file(stage)) for stage in STAGES if lowered_file(stage) in self.manifest["files"]}

    def graph(self) -> Graph:
        """The canonical graph."""
        return Graph(self.read_file(GRAPH), self.model, self.image.normalised, self.manifest.get("parents", {}))

    @property
    def bytes(self) -> int:
        """Size of the engine payload on disk (the graphs beside it are for rebuilding)."""
        return sum(entry["bytes"] for name, entry in self.manifest["files"].items() if name.startswith(ENGINE_FILES))

    def _verified(self, folder: Folder, keep: str | None = ENGINE_FILES) -> dict[str, builtins.bytes]:
        engine, files = self.manifest.get("engine"), self.manifest["files"]
        if not isinstance(engine, dict):
            raise _undescribed(self.path, "there is no engine")
        known = self.target.backend in backends.BACKENDS
        named = backends.backend(self.target.backend).files(engine) if known else [engine.get("payload")]
        # Some files are opened by fixed names: one beside the listed ones would go in unchecked.
        named += [name for name in folder.names() if name.startswith(ENGINE_FILES) or name in FIXED]
        for name in named:
            if not isinstance(name, str) or name not in files:
                raise EdgeError("load", f"{self.path} would load {str(name)[:80]!r}, which its manifest does not list", REBUILD)
        return verify_files(folder, self.manifest, keep=keep)


def lowered_file(stage: str) -> str:
    """The file that holds what the backend parsed of a stage."""
    return f"lowered.{stage}.onnx" if stage else "lowered.onnx"


FIXED = frozenset({GRAPH, REFERENCE, CALIBRATION, *map(lowered_file, STAGES)})  # files opened by these names


def _undescribed(path: Path, what: str) -> EdgeError:
    return EdgeError("load", f"The manifest of {path} does not describe model, image and target: {what}", REBUILD)


def _check_values(path: Path, manifest: Facts) -> None:
    """Check types and ranges in an untrusted manifest, before anything is made from it."""
    model, image, target = (manifest.get(name) for name in ("model", "image", "target"))
    if not (isinstance(model, dict) and isinstance(image, dict) and isinstance(target, dict)):
        raise _undescribed(path, "one of these keys is missing or has the wrong type")
    stages, engine = manifest.get("stages"), manifest.get("engine")
    range_ = engine.get("reduced_range") if isinstance(engine, dict) else None
    second = stages if isinstance(stages, dict) else {"sizes": [1]}
    sizes, rule, looser = second.get("sizes"), second.get("rule", "rank"), second.get("thresholds", [])
    labels, thresholds, batches = model.get("labels"), model.get("thresholds", []), target.get("batches", [1, 8])
    number = (int, float)
    reference = manifest.get("reference", {"image": image})
    reference = reference if isinstance(reference, dict) else {"image": None}
    checks = {
        **_checks_of_image("image", image),
        **_checks_of_image("reference.image", reference.get("image")),
        "reference.regions": isinstance(reference.get("regions"), int | None),
        "model.name": isinstance(model.get("name"), str),
        "model.labels": isinstance(labels, list) and len(labels) <= MAX_CLASSES and all(isinstance(each, str) for each in labels),
        "model.options": isinstance(model.get("options", {}), dict),
        "model.thresholds": _are_numbers(thresholds),
        "target.backend": isinstance(target.get("backend"), str),
        "target.precision": isinstance(target.get("precision"), str),
        "target.float16": isinstance(target.get("float16"), str | None),
        "target.batches": isinstance(batches, list) and all(fits(each, -MAX_BATCH, MAX_BATCH) for each in batches),
        "target.reduced_range": isinstance(target.get("reduced_range"), bool | None) and isinstance(range_, bool | None),
        "stages": isinstance(stages, dict | None),
        "stages.sizes": isinstance(sizes, list) and all(fits(each, -MAX_REGIONS, MAX_REGIONS) for each in sizes),
        "stages.effort": fits(second.get("effort", 1.0), 0, 1, number),
        "stages.thresholds": looser == [] or (_are_numbers(looser) and isinstance(labels, list) and len(looser) == len(labels)),
        "stages.rule": isinstance(rule, str) or _is_rule(rule),
        **{name: isinstance(manifest.get(name, {}), dict) for name in ("machine", "tools", "parents")},
        "trained": isinstance(manifest.get("trained", True), bool),
        "default_dataset": isinstance(manifest.get("default_dataset"), str | None),
    }
    wrong = [name for name, holds in checks.items() if not holds] + _misfits_of_engine(manifest.get("engine", {}), target.get("backend"))
    if wrong:
        raise _undescribed(path, f"wrong type or out of range: {', '.join(wrong)}")
    if labels is not None and len(set(labels)) != len(labels):
        raise EdgeError("load", f"The manifest of {path} contains a class name twice", REBUILD)


def _misfits_of_engine(engine: Any, backend: Any) -> list[str]:
    """The same for what a backend recorded about its engine, by its own rules; loading checks what
    must be there."""
    if not isinstance(engine, dict):
        return ["engine"]
    if not isinstance(engine.get("payload", ""), str):
        return ["engine.payload"]
    known = isinstance(backend, str) and backend in backends.BACKENDS  # another is refused where it is loaded
    return [f"engine.{name}" for name in backends.backend(backend).misfits(engine)] if known else []


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(fits(each, -1e9, 1e9, (int, float)) for each in values)


def _is_rule(rule: Any) -> bool:
    """Whether the parts of a rule have the right types; what they must hold, its spec knows."""
    if not isinstance(rule, dict) or not isinstance(rule.get("fitted_on", {}), dict):
        return False
    bounds = ("low", "high", "redundant_low", "redundant_high")
    limits = (rule.get(name, 0) for name in ("max_overlap", "max_area"))
    return (
        isinstance(rule.get("kind"), str)
        and all(_are_numbers(rule.get(name, [])) for name in bounds)
        and all(limit is None or fits(limit, 0, 1e9, (int, float)) for limit in limits)
    )


def _checks_of_image(name: str, image: Any) -> dict[str, bool]:
    """Whether the parts of an image spec have the right types and ranges, by their names."""
    if not isinstance(image, dict):
        return {name: False}
    return {
        f"{name}.size": fits(image.get("size", 256), -MAX_SIZE, MAX_SIZE),
        f"{name}.input": isinstance(image.get("input", ""), str),
        f"{name}.mean": _channels(image.get("mean", [0, 0, 0]), -1e9),
        f"{name}.std": _channels(image.get("std", [1, 1, 1]), 1e-9),
    }


def _channels(values: Any, least: float) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(fits(each, least, 1e9, (int, float)) for each in values)


def write_bundle(
    path: Path,
    *,
    graph: Graph,
    image: ImageSpec | None = None,
    reference: bytes,
    lowered: Mapping[str, bytes],
    target: TargetSpec,
    stages: StagesSpec | None,
    build_engine: BuildEngine,
    facts: Facts,
    extra_files: Mapping[str, bytes] | None = None,
    check: Callable[[Path], Facts] | None = None,
    replace: bool = False,
) -> Bundle:
    """Build the engine inside a new bundle folder; the folder appears under its name only when
    complete.

    Args:
        image: the engine's input; None: that of the graph.
        lowered: what the backend parses, by stage.
        stages: for a model with two.
        build_engine: the backend's ``build``.
        facts: further manifest keys (parents, tools, machine, parity …).
        check: called with the unfinished folder once it is loadable; returns further manifest keys.
            An error it raises (a gate that does not hold) leaves nothing behind.
    """
    with folder_written_atomically(path, partial(check_replaceable, replace=replace)) as folder:
        (folder / GRAPH).write_bytes(graph.proto)
        (folder / REFERENCE).write_bytes(reference)
        for stage, proto in lowered.items():
            (folder / lowered_file(stage)).write_bytes(proto)
        (folder / LABELS).write_text("\n".join(graph.model.labels) + "\n", encoding="utf-8")
        for name, data in (extra_files or {}).items():
            (folder / name).write_bytes(data)
        engine = dict(build_engine(lowered, target, stages, folder))
        content = {
            "version": __version__,
            "model": to_plain(graph.model),
            "image": to_plain(image or graph.image),
            "target": to_plain(target),
            "stages": None if stages is None else to_plain(stages),
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
