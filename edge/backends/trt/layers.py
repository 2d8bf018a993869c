"""What an engine is made of, from the inspector's JSON of TensorRT 8 to 11: precisions, formats,
reformats, casts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from edge.backends.base import Facts, Native
from edge.errors import EdgeError

# Words the libraries use for a type, in lower case, by our name for it; longer words first where
# one holds another.
TYPES = (
    ("bf16", ("bfloat16", "bf16")),
    ("fp16", ("fp16", "half", "float16")),
    ("fp8", ("fp8",)),
    ("uint8", ("uint8",)),
    ("int8", ("int8",)),
    ("int64", ("int64",)),
    ("int32", ("int32",)),
    ("bool", ("bool",)),
    ("fp32", ("fp32", "float32", "float", "tf32")),
)
CONVOLUTIONS = frozenset({"convolution", "caskconvolution", "cudnnconvolution", "caskgemmconvolution", "cudadepthwiseconvolution"})


@dataclass(frozen=True)
class Layer:
    """One layer of the engine: types of its first input (the precision) and first output."""

    name: str
    kind: str
    precision: str
    output: str


@dataclass(frozen=True)
class Layers:
    """All layers of an engine, in order. ``unread``: why the engine did not tell them."""

    layers: tuple[Layer, ...]
    unread: str = ""

    @property
    def reformats(self) -> int:
        """Layers that only change the memory format; a ``NoOp`` renames it and moves nothing."""
        return sum(layer.kind.lower() == "reformat" and layer.precision == layer.output for layer in self.layers)

    @property
    def casts(self) -> int:
        """Layers that only change the type."""
        return sum(
            layer.kind.lower() == "cast" or (layer.kind.lower() == "reformat" and layer.precision != layer.output) for layer in self.layers
        )

    @property
    def int8_share(self) -> float | None:
        """Share of the convolutions that read int8; None where none is told, or not what it reads,
        as by TensorRT 8 where sizes are open."""
        reading = [layer.precision for layer in self.layers if _is_convolution(layer) and layer.precision]
        return reading.count("int8") / len(reading) if reading else None

    def plain(self) -> Facts:
        """For the manifest: counts, not the list; or ``unread``."""
        if self.unread:
            return {"unread": self.unread}
        share = self.int8_share
        return {
            "layers": len(self.layers),
            "precisions": dict(sorted(Counter(layer.precision for layer in self.layers).items())),
            "reformats": self.reformats,
            "casts": self.casts,
            "int8_share": None if share is None else round(share, 4),
        }


def read_layers(trt: Native, engine: Native) -> Layers:
    """The layers of a loaded engine. An account of them is never worth the engine: what cannot be
    read is said and not raised."""
    try:
        return parse_layers(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    except EdgeError as error:
        return Layers((), error.problem)
    except Exception as error:  # what a vendor's inspector may raise is in no documentation
        return Layers((), f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def parse_layers(information: str) -> Layers:
    """The inspector's JSON → layers.

    Version 10 says type and format in one sentence, ``Format/Datatype``; version 11 may say
    ``Format`` and ``Datatype``. Engines built without detail hold names only.
    """
    try:
        listed = json.loads(information, strict=False)["Layers"]  # its strings hold raw control characters
        return Layers(tuple(_layer(each) for each in listed))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        begun = " ".join(information.split())[:80]
        raise EdgeError(
            "inspect", f"The engine inspector did not return JSON with layers: {begun!r}", "Report the version of TensorRT"
        ) from error


def _layer(entry: Facts | str) -> Layer:
    if isinstance(entry, str):
        return Layer(entry, "", "", "")
    inputs, outputs = entry.get("Inputs") or [{}], entry.get("Outputs") or [{}]
    kind = str(entry.get("LayerType", ""))
    if kind.lower() in ("kgen", "gemm", "conv") or not kind:
        kind = str(entry.get("ParameterType") or kind)
    return Layer(str(entry.get("Name", "")), kind, _type(inputs[0]), _type(outputs[0]))


def _type(tensor: dict[str, str]) -> str:
    both = tensor.get("Format/Datatype")
    words = [both] if both is not None else [tensor[key] for key in ("Datatype", "Format") if key in tensor]
    lower = " ".join(map(str, words)).lower()
    for name, spellings in TYPES:
        if any(spelling in lower for spelling in spellings):
            return name
    return ""


def _is_convolution(layer: Layer) -> bool:
    return layer.kind.lower() in CONVOLUTIONS or layer.kind.lower() == "conv"
