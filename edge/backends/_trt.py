"""What TensorRT and TensorRT-RTX share on the way to an engine: probing, building in a process of its own, and the fit.

One path from TensorRT 10.0 to 11: strongly typed networks, types made in the graph, enumerations by name only, because
version 11 numbers them anew.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import cache
from edge.backends import Support, _cuda, _trt_aot
from edge.backends._trt_aot import PLUGIN_VARIABLE
from edge.errors import EdgeError
from edge.manifest import digest_file
from edge.spec import TargetSpec

if TYPE_CHECKING:
    from edge.backends._trt_run import Network

PAYLOAD = "engine.plan"
# TensorRT-RTX plans are mostly the source text of kernels: up to five times smaller when packed (zlib).
PACKED = "engine.plan.z"
PLUGIN = "engine.plugin.so"
MARK = "EDGE-RESULT "
STANDARD_NODES = "tensorrt-rtx"  # the row of edge.lower's table that leaves no node of ours
# Shares of the free memory a build may use as workspace, tried from the left until one does.
LADDER = (0.75, 0.35, 0.15)
OLDEST = (10, 0)


@dataclass(frozen=True)
class Vendor:
    """A vendor library.

    Attributes:
        backend: our name for it.
        load: imports its module.
        install: how one gets it.
        plugins: whether it takes our plugin (TensorRT-RTX aborts on plugins).
        portable: engines are built without a GPU for every GPU it knows, by one range of batches; else they are built on
            the GPU they run on, one profile per batch.
    """

    backend: str
    load: Callable[[], Any]
    install: str
    plugins: bool
    portable: bool

    def probe(self) -> Support:
        """What that library can do here."""
        try:
            module = self.load()
        except Exception as error:  # a wheel without its libraries raises what its loader raises
            return Support(reason=f"{self.backend} does not import ({' '.join(str(error).split())[:160]})", fix=self.install)
        version = str(module.__version__)
        if not self.portable and _numbers(version) < OLDEST:
            fix = "Install TensorRT 10 (JetPack 6.1 or later)"
            return Support(reason=f"TensorRT {version} is older than 10.0", fix=fix, version=version)
        plugin = None
        try:
            if self.plugins:
                plugin = _trt_aot.asked_for(module) or plugin_path()
        except EdgeError as error:
            return Support(reason=error.problem, fix=error.fix, version=version)
        device, missing, fix = _cuda.present()
        return Support(
            reason=missing,
            fix=fix,
            version=version,
            device=device.name if device else "",
            float16="fp16",
            builds=self.portable or device is not None,
            facts={"plugin": str(plugin) if plugin else None, **(device.plain() if device else {})},
            # What int8 leaves as float is quicker in half precision, and strong typing takes it from the graph.
            int8_float16="fp16",
            lowering="" if plugin else STANDARD_NODES,
        )

    def build(
        self,
        lowered: bytes,
        target: TargetSpec,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
        weakly_typed: bool = False,
        level: int = 3,
    ) -> dict[str, Any]:
        """Write the plan (and the plugin it needs) into the folder.

        The library works in a child process: what kills or aborts it there becomes one line here.

        Args:
            lowered: the ONNX graph. Nodes of ours in it need the plugin, as a library or ahead of time.
            compute_capabilities: ``8.6`` and so on, for TensorRT-RTX; empty means every GPU it knows.
            weakly_typed: let the library choose types, as far as this version still can; only to compare.
            level: the builder's optimisation level, 0 to 5.

        Returns:
            Facts for the manifest: payload, profiles, typing, plugin, the parsed network, the layers, where it was built.
        """
        ours = b"plugin_namespace" in lowered
        ahead = ours and self.plugins and _trt_aot.wanted()
        plugin = self._ship_plugin(folder) if ours and not ahead else None
        request = {
            "backend": self.backend,
            "folder": str(folder.resolve()),
            "precision": target.precision,
            "profiles": self.profiles(target),
            "plugin": plugin,
            "ahead_of_time": ahead,
            "compute_capabilities": list(compute_capabilities),
            "weakly_typed": weakly_typed,
            "level": level,
            "bytes": len(lowered),
        }
        answer: dict[str, Any] = {}
        for share in (0.0,) if self.portable else LADDER:
            answer = _in_child({**request, "share": share}, lowered)
            if "facts" in answer:
                return {
                    "payload": PACKED if self.portable else PAYLOAD,
                    "profiles": request["profiles"],
                    "plugin": plugin,
                    "level": level,
                    **answer["facts"],
                }
            if not answer["again"]:
                break
        for leftover in folder.glob("engine.*"):
            leftover.unlink()
        raise EdgeError(*answer["error"])

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Mapping[str, Any], *, cuda: str = "bindings", graphs: bool = True
    ) -> Network:
        """Load the plan; ``cuda`` names the adapter of ``_cuda``, ``graphs=False`` does without CUDA graphs."""
        from edge.backends._trt_run import Network

        return Network(self, payload, target, facts, cuda, graphs)

    def check_fit(self, facts: Mapping[str, Any], support: Support, rebuild: str) -> None:
        """Refuse an engine made by another version or for another GPU, before anything is deserialised."""
        built = facts.get("machine", {})
        here = support.facts.get("compute_capability")
        if built.get("version") != support.version:
            problem = f"The engine was built with {self.backend} {built.get('version')}, and {support.version} is installed"
            raise EdgeError("load", problem, rebuild)
        allowed = facts.get("compute_capabilities") or ([built["compute_capability"]] if built.get("compute_capability") else [])
        if (not self.portable or facts.get("compute_capabilities")) and here not in allowed:
            built_for = " or ".join(allowed) or "no GPU"
            problem = f"The engine was built for compute capability {built_for}, and this GPU ({support.device}) has {here}"
            raise EdgeError("load", problem, rebuild)

    def profiles(self, target: TargetSpec) -> list[list[int]]:
        """Smallest, best and largest batch of each optimisation profile.

        Exact batches give the quickest kernels. TensorRT-RTX makes its kernels when it runs, for the batch it meets, and every
        profile would only add to the file: it gets one range.
        """
        if self.portable:
            return [[target.batches[0], target.max_batch, target.max_batch]]
        return [[batch, batch, batch] for batch in target.batches]

    def _ship_plugin(self, folder: Path) -> dict[str, str]:
        """Copy the plugin into the bundle; its name and digest."""
        if not self.plugins:
            raise EdgeError(
                "backend", f"The graph has nodes that need a plugin, and {self.backend} takes none", "Lower the graph to standard nodes"
            )
        source = plugin_path()
        if source is None:
            raise EdgeError(
                "backend",
                f"The graph needs the plugin library, and there is none in {cache.folder('plugin')}",
                f"Build it (docs/jetson.md), name it in {PLUGIN_VARIABLE}, or build the bundle again without it",
            )
        shutil.copyfile(source, folder / PLUGIN)
        return {"file": PLUGIN, "sha256": digest_file(folder / PLUGIN)}


def plugin_path() -> Path | None:
    """The plugin library: where the environment says, else the user's cache; None where there is none or the variable is empty."""
    if PLUGIN_VARIABLE in os.environ:
        given = os.environ[PLUGIN_VARIABLE]
        if given and not Path(given).is_file():
            raise EdgeError("backend", f"{PLUGIN_VARIABLE} names {given}, which is no file", "Build the plugin library: docs/jetson.md")
        return Path(given) if given else None
    path = cache.folder("plugin") / "libedge_plugin.so"
    return path if path.is_file() else None


def register_plugin(registry: Any, path: Path) -> None:
    """Load a plugin library; in a process that has it already, nothing happens."""
    registry.load_library(str(path))
    if registry.get_creator("RoiResize", "1", "edge") is None:
        raise EdgeError(
            "backend",
            f"The plugin library {path.name} does not register edge::RoiResize 1",
            f"Build it again on this machine (docs/jetson.md), or set {PLUGIN_VARIABLE}= to do without",
        )


def _in_child(request: Mapping[str, Any], lowered: bytes) -> dict[str, Any]:
    """Build in a process of its own: ``{"facts": …}``, or ``{"error": (stage, problem, fix), "again": less workspace may help}``."""
    command = [sys.executable, "-m", "edge.backends._trt_build"]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n" + lowered)
            process.stdin.flush()  # and stays open: the child ends when it closes, with us
        except BrokenPipeError:
            pass  # its last words say why
        said = process.stdout.read().decode(errors="replace")
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    for line in reversed(said.splitlines()):
        if line.startswith(MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return answer
    words = [line.strip() for line in said.splitlines() if line.strip()]
    last = f": {words[-1][:200]}" if words else ""
    killed = code == -getattr(signal, "SIGKILL", 9)
    ended = _signal_name(-code) if code < 0 else f"exit code {code}"
    return {
        "error": [
            "backend",
            f"The process that built the engine ended with {ended}{', as for want of memory' if killed else ''}{last}",
            "Close other programs, or build with a smaller `batch` or `size`" if killed else "Report the graph with these words",
        ],
        "again": killed,
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
