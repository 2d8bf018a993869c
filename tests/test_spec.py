"""The frozen descriptions refuse what cannot be, and travel through JSON unchanged."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.spec import PRECISIONS, ImageSpec, ModelSpec, TargetSpec, from_plain, to_plain


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ModelSpec, {"name": "m", "labels": ()}, "has no classes"),
        (ModelSpec, {"name": "m", "labels": ("a", "b", "a")}, "unique, but a occurs"),
        (ModelSpec, {"name": "m", "labels": ("a", "b"), "thresholds": (0.5,)}, "1 thresholds for 2 classes"),
        (ImageSpec, {"size": 250}, "250 is not a multiple of 32.*224 or 256"),
        (ImageSpec, {"size": 0}, "size 0 .*32 or 64"),
        (ImageSpec, {"size": -64}, "size -64 .*32 or 64"),
        (TargetSpec, {"backend": "openvino", "precision": "int4"}, "'int4'.*fp32, fp16 or int8"),
        (TargetSpec, {"backend": "openvino", "precision": "fp32", "batches": ()}, "ascending"),
        (TargetSpec, {"backend": "openvino", "precision": "fp32", "batches": (8, 1)}, "ascending"),
        (TargetSpec, {"backend": "openvino", "precision": "fp32", "batches": (1, 1)}, "ascending"),
        (TargetSpec, {"backend": "openvino", "precision": "fp32", "batches": (0, 8)}, "ascending"),
    ],
)
def test_what_cannot_be_is_refused(kind: type, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        kind(**arguments)


SPECS = [
    ModelSpec("mcar-resnet50", ("cat", "dog"), {"pooling": "avg", "regions": 4, "threshold": 0.5}, (0.4, 0.6)),
    ImageSpec(448),
    TargetSpec("openvino", "fp16", (1, 4, 8), "bf16"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_spec_comes_back_from_json_as_it_was(spec: Any) -> None:
    assert from_plain(type(spec), json.loads(json.dumps(to_plain(spec)))) == spec


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_field_of_another_version_is_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match="surprise"):
        from_plain(type(spec), {**to_plain(spec), "surprise": 1})


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ImageSpec().size = 448  # type: ignore[misc]


@given(st.integers(-100, 2000))
def test_sizes_are_exactly_the_multiples_of_32_from_32_on(size: int) -> None:
    if size >= 32 and size % 32 == 0:
        assert ImageSpec(size).size == size
    else:
        with pytest.raises(EdgeError):
            ImageSpec(size)


@given(st.lists(st.integers(-2, 20), max_size=5))
def test_batches_are_exactly_the_strictly_ascending_from_one_on(batches: list[int]) -> None:
    ascending = bool(batches) and batches[0] >= 1 and all(one < two for one, two in pairwise(batches))
    if ascending:
        assert TargetSpec("openvino", PRECISIONS[0], tuple(batches)).max_batch == batches[-1]
    else:
        with pytest.raises(EdgeError):
            TargetSpec("openvino", PRECISIONS[0], tuple(batches))
