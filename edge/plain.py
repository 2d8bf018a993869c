"""Frozen values to JSON types and back: the fields' names are the keys."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class Fields(Protocol):
    """A value of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


# Metadata of a field that is no key at all where it is None; any other None is written as null.
LEFT_OUT: Mapping[str, bool] = MappingProxyType({"left_out": True})
MOST = sys.float_info.max  # an infinite number is none, and a larger whole one has no float
# By type: whether a JSON value is one, and what stands for it where there is none.
SCALARS: Mapping[type, tuple[Callable[[object], bool], object]] = {
    bool: (lambda value: isinstance(value, bool), False),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool), 0),
    float: (lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST, math.nan),
    str: (lambda value: isinstance(value, str), ""),
}


def to_plain(value: Fields) -> dict[str, Json]:
    """The value as JSON types."""
    named = ((field, getattr(value, field.name)) for field in fields(value))  # any class's fields are known by name only
    return {field.name: _plain(one) for field, one in named if one is not None or not field.metadata.get("left_out")}


def _plain(value: Fields | Json) -> Json:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return to_plain(value) if is_dataclass(value) else value


def from_plain(kind: type[T], content: Json) -> T:
    """A value of a frozen class from JSON types.

    Keys that are unknown are passed over. What is missing or of another type becomes None where the
    field may be that, else NaN, 0, an empty text or an empty collection: the file of an earlier
    version still tells what it holds.
    """
    content = content if isinstance(content, Mapping) else {}
    hints = get_type_hints(kind)
    return kind(**{field.name: _read(hints[field.name], content.get(field.name)) for field in fields(kind)})  # type: ignore[arg-type]


def _read(hint: Any, value: Any) -> Any:  # a type at run time, and what it stands for
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        # Of several classes, the first of which every key is there.
        kinds = [kind for kind in inner if kind is not NoneType and _is(kind, value, whole=len(inner) > 2)]
        return _read(kinds[0], value) if kinds else None
    known = _is(hint, value)
    if origin is tuple and inner[-1] is not ...:
        return tuple(_read(kind, one) for kind, one in zip(inner, value if known else [None] * len(inner), strict=True))
    if origin is tuple:
        return tuple(_read(inner[0], one) for one in value) if known else ()
    if is_dataclass(hint):
        return from_plain(hint, value)  # type: ignore[arg-type]
    if hint in SCALARS:
        return hint(value) if known else SCALARS[hint][1]
    if hint is NoneType:
        return None
    return {name: _read(inner[1], one) if inner[1] is not Any else one for name, one in value.items()} if known else {}


def _is(hint: Any, value: Json, *, whole: bool = False) -> bool:
    """Whether a JSON value has the form of a type; ``whole``: with all its keys."""
    if hint in SCALARS:
        return SCALARS[hint][0](value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return isinstance(value, list | tuple) and (inner[-1] is ... or len(inner) == len(value))
    return isinstance(value, Mapping) and not (whole and any(field.name not in value for field in fields(hint)))
