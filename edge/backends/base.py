"""The contract of a backend: its capabilities here, how it builds an engine, and the runner of an
opened engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edge.errors import EdgeError
from edge.graph import CLOSER, INPUT, LOOK
from edge.manifest import REBUILD
from edge.spec import StagesSpec, TargetSpec

# An object of a vendor's library, or an array of any library on the GPU: they come without types.
Native: TypeAlias = Any
# JSON out of a manifest: a backend's own facts of an engine, which it checks in `misfits` before it
# reads them.
Facts: TypeAlias = dict[str, Any]
UNBUILT = "unbuilt"  # a fact: the version of its library that the engine is to be built with, on the device


@dataclass(frozen=True)
class Support:
    """What a backend can do on this machine.

    Attributes:
        reason: why it cannot run here; empty when it can.
        fix: how to change that, in one line.
        version: of the vendor library; empty when it is not installed.
        device: name of the processor it would run on.
        float16: the 16-bit float of precision ``fp16`` here (``bf16`` or ``fp16``); None where it
            has none.
        builds: whether it can at least build engines here (TensorRT-RTX builds without a GPU).
        int8_float16: the 16-bit float that precision ``int8`` gives to what it does not quantise;
            None leaves it in fp32.
        lowering: the row of edge.lower's table that it takes here, where that is not its usual one
            (TensorRT without our plugin).
        no_int8: why precision ``int8`` is refused here; empty if it is not.
        reduced_range: whether int8 weights must have 7 bits here (``TargetSpec.reduced_range``);
            None where it does not matter.
    """

    reason: str = ""
    fix: str = ""
    version: str = ""
    device: str = ""
    float16: str | None = None
    builds: bool = False
    facts: Facts = field(default_factory=dict)
    int8_float16: str | None = None
    lowering: str = ""
    reduced_range: bool | None = None
    no_int8: str = ""


@dataclass(frozen=True)
class Form:
    """Of an input or output: its element type, as NumPy names it, and its shape; None stands for a
    size that is left open."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('B' if size is None else str(size) for size in self.shape)})"


@dataclass(frozen=True)
class DeviceArray:
    """An output left on the GPU, complete when it is handed out; overwritten by its thread's next
    call.

    ``torch.as_tensor``, CuPy, Numba and PyCUDA take it as it is.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: object

    @property
    def __cuda_array_interface__(self) -> dict[str, Native]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3, "strides": None}


class Runner(ABC):
    """One stage of a loaded engine. Calls from several threads are allowed.

    Attributes:
        graphless: why no CUDA graph is used; empty when one is, and where there are none.
        pads: whether a few more regions cost *closer* almost nothing, as on a GPU, so that one
            padded call beats two exact ones. On a CPU the time grows with the number of regions.
    """

    graphless: str = ""
    pads: bool = True

    @abstractmethod
    def forms(self) -> dict[str, Form]:
        """Inputs and outputs of the engine, by name."""

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs by name → outputs by name, owned by the caller.

        Args:
            inputs: ``image`` (B, 3, S, S) float32, with B one of the target's batches. For *closer*
                B may be any up to the largest, and there are ``boxes`` (R, 4) float32 and ``owner``
                (R) int32, with R one of the sizes of its ``StagesSpec``. On a GPU its ``image`` is
                what the runner of *look* holds.
        """

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images: (B, 3, S, S) float32 → the outputs of a stage that takes nothing else."""
        return self.run({INPUT: images})

    @contextmanager
    def hold(self, images: Native) -> Iterator[Native]:
        """images: (B, 3, S, S) float32, B one of the target's batches → what stands for them as the
        input ``image`` of this stage and, until the context ends, of *closer*: on a GPU they need
        then be copied only once.

        Where the backend is ``on_gpu`` they may be an array there, B any up to the largest batch:
        the outputs then have B rows.
        """
        yield images

    def on_device(self, images: Native) -> Mapping[str, DeviceArray]:
        """images: an array on the GPU, (B, 3, S, S) float32 → the outputs, left there; asked of a
        whole graph where ``on_gpu``."""
        raise EdgeError("infer", "Device arrays need an engine on a GPU", "Copy it to the host")

    def layers(self) -> Facts:
        """What the engine is made of, as ``Backend.describe`` puts it into words; empty where the
        runtime cannot tell."""
        return {}

    def close(self) -> None:
        """Release all resources; it is not called again."""
        return None


class Backend(ABC):
    """A runtime that builds engines and runs them.

    Attributes:
        name: ours, a key of ``edge.backends.BACKENDS``.
        lowering: the row of edge.lower's table that it usually takes.
        on_gpu: whether its engines run on a GPU; they then take device arrays, and are opened with
            a CUDA adapter.
        for_other_gpus: whether ``build`` takes compute capabilities.
        in_stages: whether its engines run the second pass as a separate stage; if not, it gets
            every graph whole.
    """

    name: str
    lowering: str
    on_gpu: bool = False
    for_other_gpus: bool = False
    in_stages: bool = False

    @abstractmethod
    def probe(self) -> Support:
        """What it can do here; never raises for a missing library."""

    def support_of(self, version: str) -> Support:
        """What it can do on a device that has that version of its library, to lower a graph for it
        here."""
        raise EdgeError(
            "build",
            f"Bundles cannot be prepared for {self.name} {version}",
            "Set `tensorrt` to the version on the device, such as 8.6 or 10.3",
        )

    @abstractmethod
    def build(
        self,
        lowered: Mapping[str, bytes],
        target: TargetSpec,
        stages: StagesSpec | None,
        folder: Path,
        *,
        compute_capabilities: tuple[str, ...] = (),
    ) -> Facts:
        """Write the engine payload ``engine.*`` into the folder.

        Args:
            lowered: the graph of each stage, by name, as the row ``lowering`` makes it.
            stages: of a model that runs in two.
            compute_capabilities: GPUs to build for, ``8.6`` and so on; given only where
                ``for_other_gpus``.

        Returns:
            What the manifest's ``engine`` records; ``payload`` names the main file, if there is
            one.
        """

    @abstractmethod
    def open(
        self, payload: Mapping[str, bytes], target: TargetSpec, facts: Facts, *, cuda: str = "bindings", graphs: bool = True
    ) -> Mapping[str, Runner]:
        """Load what ``build`` wrote.

        Args:
            payload: the contents of the files ``engine.*``, by name.
            facts: what ``build`` returned.
            cuda: the CUDA adapter; another one is given only where ``on_gpu``.
            graphs: use CUDA graphs, where there are any.

        Returns:
            A runner for each stage, by name.
        """

    def misfits(self, facts: Facts) -> list[str]:
        """Names of its facts that have the wrong type or are out of range: a manifest is untrusted
        input.

        ``check_fit`` checks which of them must be there.
        """
        return []

    def files(self, facts: Facts) -> list[str | None]:
        """Names of the files that an engine of these facts opens, as they say them; called where
        nothing misfits."""
        return [facts.get("payload")]

    def check_fit(self, facts: Facts, support: Support, rebuild: str) -> None:
        """Refuse, before anything is opened, an engine of these facts that cannot run here;
        ``rebuild`` is the fix."""
        return None

    def elsewhere(self, facts: Facts, support: Support) -> str:
        """Why an engine that was just built cannot run here; empty if it can."""
        return ""

    def closer_sizes(self, regions: int, target: TargetSpec) -> tuple[int, ...]:
        """Numbers of regions that *closer* is best compiled for.

        Args:
            regions: K, of one image.
        """
        # On a CPU the regions of one image keep all cores busy: larger numbers take as long a
        # region, and more memory. Three of four regions are often looked at, and take three
        # quarters of the time.
        return tuple(sorted({*powers_of_two(regions), min(3, regions)}))

    def describe(self, facts: Facts) -> list[str]:
        """What an engine is made of, in sentences; facts of another form may raise what Python
        raises."""
        layers = facts.get("layers") or {}
        by_stage = layers if set(layers) <= {LOOK, CLOSER} else {"engine": layers}
        return [_describe_layers(stage, each) for stage, each in by_stage.items()]


def _describe_layers(stage: str, layers: Facts) -> str:
    if "unread" in layers:
        return f"{stage}: its layers could not be read: {layers['unread']}"
    kinds = ", ".join(f"{count} {kind or 'of unknown type'}" for kind, count in layers["precisions"].items())
    share = layers.get("int8_share")
    read = "" if share is None else f"; {share:.0%} of the convolutions read int8"
    return f"{stage}: {layers['layers']} layers ({kinds}), {layers['reformats']} reformats, {layers['casts']} casts{read}"


def powers_of_two(most: int) -> tuple[int, ...]:
    """1, 2, 4 … up to ``most``, and ``most`` itself; sizes in between are padded by less than
    half."""
    return tuple(sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)}))


def engine_file(payload: Mapping[str, bytes], name: str) -> bytes:
    """One of the files of an engine, refused in one line where there is none."""
    if name not in payload:
        raise EdgeError("load", f"The engine has no file {name}", REBUILD)
    return payload[name]


@contextmanager
def vendor_errors(stage: str, problem: str, fix: str) -> Iterator[None]:
    """Turns whatever a vendor library raises into an ``EdgeError`` with its text:
    ``[stage] problem: words. fix.``"""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise EdgeError(stage, f"{problem}: {words}", fix) from error
