"""What TensorRT and TensorRT-RTX share as backends: probing, building in a process of its own, and
the fit.

From TensorRT 10 on networks are strongly typed, types made in the graph; TensorRT 8.5 and 8.6
choose types themselves. Enumerations go by name only, because version 11 numbers them anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge import cache
from edge.backends.base import UNBUILT, Backend, Facts, Native, Support, powers_of_two
from edge.backends.trt import aot, cuda
from edge.backends.trt.child import Answer, Request, build_in_child
from edge.backends.trt.plan import parts_of, plan_file
from edge.backends.trt.plugin import NO_PLUGIN, PLUGIN, PLUGIN_VARIABLE, Plugin, Route, chosen_plugin
from edge.backends.trt.run import TensorRTRunner
from edge.errors import EdgeError
from edge.graph import CLOSER, LOOK, WHOLE, node_domains
from edge.manifest import digest_file, fits
from edge.ops import DOMAIN
from edge.spec import MAX_REGIONS, StagesSpec, TargetSpec

# Rows of edge.lower's table: one leaves no node of ours, the other is for TensorRT 8.
STANDARD_NODES, VERSION_8 = "standard-nodes", "tensorrt-8"
# Shares of the free memory a build may use as workspace, tried from the left until one does.
LADDER = (0.75, 0.35, 0.15)
OLDEST, NEXT = (8, 5), (12, 0)  # versions of TensorRT: the oldest that is served, the first that nobody knows
LEVEL = 3  # the builder's optimisation level, of 0 to 5
MAX_PLAN_BYTES = 1 << 40


@dataclass(frozen=True)
class Vendor(Backend):
    """A vendor library as a backend.

    Attributes:
        load: imports its module.
        install: how one gets it.
        plugins: whether it takes our plugin (TensorRT-RTX aborts on plugins).
        for_other_gpus: engines are built without a GPU for every GPU it knows, by one range of
            batches; else they are built on the GPU they run on, one profile per batch, or number of
            regions.
    """

    name: str
    lowering: str
    load: Callable[[], Native]
    install: str
    plugins: bool
    for_other_gpus: bool
    on_gpu = True
    in_stages = True

    def probe(self) -> Support:
        """What that library can do here."""
        try:
            module = self.load()
        except Exception as error:  # a wheel without its libraries raises what its loader raises
            return Support(reason=f"{self.name} does not import ({' '.join(str(error).split())[:160]})", fix=self.install)
        version = str(module.__version__)
        if not self.for_other_gpus and _numbers(version) < OLDEST:
            fix = "Install TensorRT 8.5 (JetPack 5.1) or later"
            return Support(reason=f"TensorRT {version} is older than 8.5", fix=fix, version=version)
        eight = not self.for_other_gpus and is_version_8(version)
        try:
            plugin = chosen_plugin() if self.plugins else NO_PLUGIN
            if plugin.route is Route.AHEAD_OF_TIME:
                aot.check_version(module)
            if eight and plugin.route is Route.NONE:
                raise EdgeError(
                    "backend",
                    f"TensorRT {version} needs the plugin library",
                    f"Build it (docs/jetson.md), or set {PLUGIN_VARIABLE} to its path",
                )
        except EdgeError as error:
            return Support(reason=error.problem, fix=error.fix, version=version)
        device, missing, fix = cuda.present()
        return Support(
            reason=missing,
            fix=fix,
            version=version,
            device=device.name if device else "",
            float16="fp16",
            builds=self.for_other_gpus or device is not None,
            facts={"plugin": plugin.words, **(device.plain() if device else {})},
            # What int8 leaves as float is quicker in half precision, and strong typing takes it
            # from the graph.
            int8_float16="fp16",
            lowering=VERSION_8 if eight else STANDARD_NODES if plugin.route is Route.NONE else "",
        )

    def support_of(self, version: str) -> Support:
        numbers = _numbers(version)
        if self.for_other_gpus or len(numbers) < 2 or not OLDEST <= numbers < NEXT:
            return super().support_of(version)
        return Support(
            reason=f"the plan is to be built on the device, with TensorRT {version}",
            version=version,
            float16="fp16",
            builds=True,
            int8_float16="fp16",
            lowering=VERSION_8 if is_version_8(version) else self.lowering,
        )

    def build(
        self,
        lowered: Mapping[str, bytes],
        target: TargetSpec,
        stages: StagesSpec | None,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
    ) -> Facts:
        """Write a plan for each stage (and the plugin they need) into the folder.

        The library works in a child process for each: what kills or aborts it there becomes one
        line here.

        Args:
            lowered: ONNX graphs by stage. Nodes of ours in them need the plugin, as a library or
                ahead of time.
            compute_capabilities: for TensorRT-RTX; empty means every GPU it knows.

        Returns:
            Facts for the manifest: plugin, typing, where it was built; and of each plan, in
                ``stages`` where there are two, its file
            ``payload``, its profiles, the parsed network, the layers.
        """
        plugin = self._plugin_for(lowered)
        shipped = _shipped(plugin.library, folder) if plugin.library else None
        shared: Facts = {
            "plugin": shipped,
            "level": LEVEL,
            "compute_capabilities": list(compute_capabilities),
            "regions": plugin.route.regions,
        }
        plans = {}
        for stage, graph in lowered.items():
            request = Request(
                backend=self.name,
                folder=str(folder.resolve()),
                payload=plan_file(stage, packed=self.for_other_gpus),
                precision=target.precision,
                profiles=self._profiles(stages.sizes if stages and stage == CLOSER else target.batches),
                images=[1, target.max_batch, target.max_batch],
                route=plugin.route.value,
                plugin=shipped["file"] if shipped else "",
                compute_capabilities=list(compute_capabilities),
                share=0.0,
                size=len(graph),
            )
            answer = self._built(request, graph)
            if answer.facts is None:
                for leftover in folder.glob("engine.*"):
                    leftover.unlink()
                raise EdgeError(*answer.error)
            shared |= {name: answer.facts.pop(name) for name in ("machine", "typing")}
            plans[stage] = {"payload": request.payload, "profiles": request.profiles, **answer.facts}
        return {**shared, **plans[WHOLE]} if WHOLE in plans else {**shared, "stages": plans}

    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> Mapping[str, TensorRTRunner]:
        """Load the plans; ``cuda`` names the adapter of ``trt.cuda``."""
        runners: dict[str, TensorRTRunner] = {}
        try:
            for stage, part in parts_of(facts).items():
                runners[stage] = TensorRTRunner(self.name, self.load(), payload, target, part, cuda, graphs)
        except BaseException:
            for runner in runners.values():
                runner.close()
            raise
        return runners

    def misfits(self, facts: Facts) -> list[str]:
        stages = facts.get("stages")
        if stages is not None and not (
            isinstance(stages, dict) and set(stages) == {LOOK, CLOSER} and all(isinstance(each, dict) for each in stages.values())
        ):
            return ["stages"]
        return sorted({name for part in parts_of(facts).values() for name in _misfits(part)})

    def files(self, facts: Facts) -> list[str | None]:
        plans = [] if UNBUILT in facts else [part.get("payload") for part in parts_of(facts).values()]
        return [*plans, *([facts["plugin"]["file"]] if facts.get("plugin") else [])]

    def check_fit(self, facts: Facts, support: Support, rebuild: str) -> None:
        """Refuse an engine made by another version or for another GPU, before anything is
        deserialised."""
        if UNBUILT in facts:
            raise EdgeError(
                "load",
                f"The bundle has no engine yet: it must be built on the device, with TensorRT {facts[UNBUILT]}",
                "On the device run mcar_edge_build BUNDLE OUT, or python -m edge.build --from BUNDLE",
            )
        missing = [name for name in ("profiles", "plan_bytes") if any(name not in part for part in parts_of(facts).values())]
        if missing:
            raise EdgeError("load", f"The manifest lacks the plan's {' and '.join(missing)}", rebuild)
        built = facts.get("machine", {})
        here = support.facts.get("compute_capability")
        if _numbers(built.get("version") or "", 3) != _numbers(support.version, 3):  # Python's module may say a fourth part, C++ says three
            problem = f"The engine was built with {self.name} {built.get('version')}, and {support.version} is installed"
            raise EdgeError("load", problem, rebuild)
        allowed = facts.get("compute_capabilities") or ([built["compute_capability"]] if built.get("compute_capability") else [])
        if (not self.for_other_gpus or facts.get("compute_capabilities")) and here not in allowed:
            built_for = " or ".join(allowed) or "no GPU"
            problem = f"The engine was built for compute capability {built_for}, and this GPU ({support.device}) has {here}"
            raise EdgeError("load", problem, rebuild)

    def elsewhere(self, facts: Facts, support: Support) -> str:
        wanted, here = facts.get("compute_capabilities"), support.facts.get("compute_capability")
        return (
            f"it is for compute capability {' or '.join(wanted)}, and {support.device} has {here}" if wanted and here not in wanted else ""
        )

    def closer_sizes(self, regions: int, target: TargetSpec) -> tuple[int, ...]:
        # The regions of one image do not fill a GPU: those of a batch go in together.
        return powers_of_two(regions * target.max_batch)

    def describe(self, facts: Facts) -> list[str]:
        said = []
        for stage, part in parts_of(facts).items():
            if network := part.get("network"):
                int8 = f"{network['int8_convolutions']} of {network['convolutions']} convolutions in int8"
                said.append(f"{stage} parsed: {network['layers']} layers; {int8}".lstrip())
            said += super().describe({"layers": {stage: part["layers"]} if stage else part["layers"]} if part.get("layers") else {})
        if "regions" in facts:
            gpu = facts.get("machine", {}).get("gpu")
            where = f"built on {gpu}" if gpu else "built on a machine without a GPU and never run there: try it where it shall run"
            said.append(f"boxes and crops by {facts['regions']}; {where}")
        return said

    def _profiles(self, sizes: tuple[int, ...]) -> list[list[int]]:
        """Smallest, best and largest size of each optimisation profile.

        Exact sizes give the quickest kernels. TensorRT-RTX makes its kernels when it runs, for the
        size it meets, and every profile would only add to the file: it gets one range.
        """
        if self.for_other_gpus:
            return [[sizes[0], sizes[-1], sizes[-1]]]
        return [[size, size, size] for size in sizes]

    def _built(self, request: Request, graph: bytes) -> Answer:
        """The plan of one stage, built with as much workspace as works."""
        answer = Answer()
        for share in (0.0,) if self.for_other_gpus else LADDER:
            answer = build_in_child(replace(request, share=share), graph)
            if answer.facts is not None or not answer.again:
                break
        return answer

    def _plugin_for(self, lowered: Mapping[str, bytes]) -> Plugin:
        """How the nodes of ours in graphs get into the engine."""
        if all(DOMAIN not in node_domains(graph) for graph in lowered.values()):
            return NO_PLUGIN
        if not self.plugins:
            raise EdgeError(
                "backend",
                f"The graph has nodes that need a plugin, which {self.name} does not support",
                "Lower the graph to standard nodes",
            )
        plugin = chosen_plugin()
        if plugin.route is Route.NONE:
            raise EdgeError(
                "backend",
                f"The graph needs the plugin library, which is not in {cache.folder('plugin')}",
                f"Build it (docs/jetson.md), set {PLUGIN_VARIABLE} to its path, or build the bundle without it",
            )
        return plugin


def is_version_8(version: str) -> bool:
    """Whether a version of TensorRT is one of those that choose types themselves, and read opset
    17."""
    return _numbers(version)[:1] == (8,)


def _misfits(part: Facts) -> list[str]:
    plugin, profiles, machine = part.get("plugin"), part.get("profiles", []), part.get("machine", {})
    capabilities = part.get("compute_capabilities", [])
    checks = {
        "plugin": plugin is None or (isinstance(plugin, dict) and isinstance(plugin.get("file"), str)),
        "profiles": isinstance(profiles, list)
        and all(isinstance(each, list) and len(each) == 3 and all(fits(size, 1, MAX_REGIONS) for size in each) for each in profiles),
        "plan_bytes": fits(part.get("plan_bytes", 0), 0, MAX_PLAN_BYTES),
        "machine": isinstance(machine, dict)
        and all(isinstance(machine.get(name), str | None) for name in ("version", "compute_capability")),
        UNBUILT: isinstance(part.get(UNBUILT, ""), str),
        "compute_capabilities": isinstance(capabilities, list) and all(isinstance(each, str) for each in capabilities),
    }
    return [name for name, holds in checks.items() if not holds]


def _shipped(library: Path, folder: Path) -> dict[str, str]:
    """Copy the plugin into the bundle; its name and digest."""
    shutil.copyfile(library, folder / PLUGIN)
    return {"file": PLUGIN, "sha256": digest_file(folder / PLUGIN)}


def _numbers(version: str, parts: int = 2) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:parts] if part.isdigit())
