"""Every error says where it happened and what to do, and survives what processes do to exceptions."""

from __future__ import annotations

import pickle

import pytest

from edge.errors import EdgeError, GateError, UnavailableError, one_of

KINDS = (EdgeError, GateError, UnavailableError)


def test_an_error_is_one_line_with_its_stage_and_the_next_step() -> None:
    error = EdgeError("data", "The dataset has no split 'val'", "Change `split` to train or test")
    assert str(error) == "[data] The dataset has no split 'val'. Change `split` to train or test."


def test_a_full_stop_given_is_not_doubled() -> None:
    assert str(EdgeError("data", "It broke.", "Mend it.")) == "[data] It broke. Mend it."


@pytest.mark.parametrize(("kind", "code"), [(EdgeError, 1), (GateError, 3), (UnavailableError, 1)])
def test_the_kind_of_error_decides_the_exit_code(kind: type[EdgeError], code: int) -> None:
    assert kind("gate", "It broke", "Mend it").exit_code == code
    assert issubclass(kind, EdgeError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_process_borders_whole(kind: type[EdgeError]) -> None:
    error = kind("load", "It broke", "Mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.stage, again.problem, again.fix) == ("load", "It broke", "Mend it")


@pytest.mark.parametrize(
    ("values", "text"), [(["a"], "a"), (["a", "b"], "a or b"), ({"a": 1, "b": 2, "c": 3}, "a, b or c"), ((1, 2), "1 or 2")]
)
def test_allowed_values_read_as_a_sentence(values: object, text: str) -> None:
    assert one_of(values) == text
