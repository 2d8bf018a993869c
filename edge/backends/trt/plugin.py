"""How our two operations get into an engine: by the plugin library, by kernels compiled ahead of
time, or not at all."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge import cache
from edge.backends.base import Native
from edge.errors import EdgeError

PLUGIN = "engine.plugin.so"  # its name in a bundle
PLUGIN_VARIABLE = "EDGE_TENSORRT_PLUGIN"
AHEAD_OF_TIME = "aot"  # the variable's value that asks for that route


class Route(Enum):
    """The route, under its name in a build's request."""

    LIBRARY = "library"
    AHEAD_OF_TIME = "ahead-of-time"
    NONE = "none"

    @property
    def regions(self) -> str:
        """What the manifest says of it."""
        return {Route.LIBRARY: "plugin", Route.AHEAD_OF_TIME: "plugin, ahead of time", Route.NONE: "standard nodes"}[self]


@dataclass(frozen=True)
class Plugin:
    """The choice of a route. ``library``: the file, on the route of that name."""

    route: Route
    library: Path | None = None

    @property
    def words(self) -> str | None:
        """What a backend's support says of it; None where there is no plugin."""
        if self.route is Route.NONE:
            return None
        return str(self.library or self.route.regions)


NO_PLUGIN = Plugin(Route.NONE)


def chosen_plugin() -> Plugin:
    """As ``EDGE_TENSORRT_PLUGIN`` says: a library's path, ``aot``, or nothing; unset, the library
    in the user's cache if there is one."""
    given = os.environ.get(PLUGIN_VARIABLE)
    if given is None:
        path = cache.folder("plugin") / "libedge_plugin.so"
        return Plugin(Route.LIBRARY, path) if path.is_file() else NO_PLUGIN
    if given == AHEAD_OF_TIME:
        return Plugin(Route.AHEAD_OF_TIME)
    if given and not Path(given).is_file():
        raise EdgeError("backend", f"{PLUGIN_VARIABLE} names {given}, which is not a file", "Build the plugin library: docs/jetson.md")
    return Plugin(Route.LIBRARY, Path(given)) if given else NO_PLUGIN


def find_creator(registry: Native, name: str) -> Native:
    """What makes our plugin of that name; None where it is not registered."""
    # Named otherwise before TensorRT 10, which has creators of two interfaces.
    find = registry.get_creator if hasattr(registry, "get_creator") else registry.get_plugin_creator
    return find(name, "1", "edge")


def register_plugin(registry: Native, path: Path) -> None:
    """Load a plugin library; in a process that has it already, nothing happens."""
    if hasattr(registry, "load_library"):  # TensorRT 8.5 lacks it
        registry.load_library(str(path))
    else:
        runtime = ctypes.CDLL("libnvinfer.so.8")  # the one that the module has loaded: it is known by this name
        runtime.getPluginRegistry.restype = ctypes.c_void_p
        ctypes.CDLL(str(path)).edge_register_plugins(ctypes.c_void_p(runtime.getPluginRegistry()))
    if find_creator(registry, "RoiResize") is None:
        raise EdgeError(
            "backend",
            f"The plugin library {path.name} does not provide edge::RoiResize 1",
            f"Build it again on this machine (docs/jetson.md), or set {PLUGIN_VARIABLE}= to build without it",
        )
