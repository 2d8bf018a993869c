"""Every refusal has the same four parts, and survives what processes do to exceptions."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import EdgeError, GateError, UnavailableError, one_of

KINDS = (EdgeError, GateError, UnavailableError)


def test_an_error_is_one_line_in_the_pinned_form() -> None:
    error = EdgeError("data", "the split must exist", got="val", expected="train or test", do="Change the split")
    assert str(error) == "[data] the split must exist, got val. Expected train or test. Change the split."


def test_a_full_stop_given_is_not_doubled() -> None:
    assert str(EdgeError("data", "a", got=1, expected=2, do="Do it.")).endswith(" Do it.")


@pytest.mark.parametrize(("kind", "code"), [(EdgeError, 1), (GateError, 3), (UnavailableError, 1)])
def test_the_kind_of_error_decides_the_exit_code(kind: type[EdgeError], code: int) -> None:
    assert kind("gate", "a", got=1, expected=2, do="Do").exit_code == code
    assert issubclass(kind, EdgeError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_process_borders_whole(kind: type[EdgeError]) -> None:
    error = kind("load", "a", got=(1, "x"), expected=None, do="Do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.stage, again.must, again.got, again.expected, again.do) == ("load", "a", (1, "x"), None, "Do")


@pytest.mark.parametrize("missing", ["got", "expected", "do"])
def test_no_part_may_be_left_out(missing: str) -> None:
    parts = {"got": 1, "expected": 2, "do": "Do"}
    del parts[missing]
    with pytest.raises(TypeError, match=missing):
        EdgeError("stage", "a", **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "text"), [(["a"], "a"), (["a", "b"], "a or b"), ({"a": 1, "b": 2, "c": 3}, "a, b or c"), ((1, 2), "1 or 2")]
)
def test_allowed_values_read_as_a_sentence(values: object, text: str) -> None:
    assert one_of(values) == text


def _calls(repository: Path) -> Iterator[tuple[str, ast.Call]]:
    names = {kind.__name__ for kind in KINDS}
    for package in ("edge", "export", "calib"):
        for path in sorted((repository / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                    yield f"{path.relative_to(repository)}:{node.lineno}", node


def _literal(node: ast.AST | None) -> str | None:
    """The text of a string literal, with its computed parts as a placeholder; None for other expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def form_problems(call: ast.Call) -> list[str]:
    """Where a call that makes an error departs from the form, as far as literals tell."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    problems = [f"{part} is missing" for part in ("got", "expected", "do") if part not in given]
    stage, must = (_literal(argument) for argument in (*call.args, None, None)[:2])
    if stage is not None and not (stage.isidentifier() and stage.islower()):
        problems.append(f"stage {stage!r} is not one lower-case word")
    if must is not None and must.rstrip().endswith("."):
        problems.append("the sentence of what must hold ends with a full stop of its own")
    do = _literal(given.get("do"))
    if do is not None and not (do[:1].isupper() or do.startswith(("pip ", "python ", "apt ", "…"))):
        problems.append(f"do {do!r} is neither a sentence nor a command")
    for text in (must, do, _literal(given.get("got")), _literal(given.get("expected"))):
        if text is not None and "\n" in text:
            problems.append("a part spans lines")
    return problems


def test_every_error_in_the_code_keeps_the_form(repository: Path) -> None:
    calls = list(_calls(repository))
    assert len(calls) > 20, "the walk lost the errors"
    found = [f"{where}: {problem}" for where, call in calls for problem in form_problems(call)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('EdgeError("data", "a", got=1, do="Do")', "expected is missing"),
        ('EdgeError("The data", "a", got=1, expected=2, do="Do")', "not one lower-case word"),
        ('EdgeError("data", "a.", got=1, expected=2, do="Do")', "full stop of its own"),
        ('EdgeError("data", "a", got=1, expected=2, do="maybe")', "neither a sentence nor a command"),
        ('EdgeError("data", f"a {b}\\n", got=1, expected=2, do="Do")', "spans lines"),
    ],
)
def test_the_form_checker_finds_what_is_planted(source: str, problem: str) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    (found,) = form_problems(call)
    assert problem in found
