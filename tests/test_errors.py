"""Every error says where it happened and what to do, and survives what processes do to
exceptions."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

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


# The form of every error in the code.

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in ("edge", "export", "calib") for path in (ROOT / package).rglob("*.py"))
# Flags belong to the commands; a style sheet's properties only look like them.
NAME_FLAGS = {
    f"edge/{name}.py"
    for name in (
        "bench",
        "build",
        "command",
        "doctor",
        "predict",
        "train",
        "triton",
        "tune",
        "watch",
        "report/style",
        "charts/marks",
        "video/page",
    )
}
FLAG = re.compile(r"(?<![\w-])--[a-z]")
WHOLE_COMMANDS = ("python -m edge.", "pip install", "apt", "make ")


def faults(source: str, *, flags: bool = False) -> Iterator[str]:
    """Errors of another form and, unless ``flags`` are allowed, strings that name a flag, by
    line."""
    nodes = list(ast.walk(ast.parse(source)))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {kind.__name__ for kind in KINDS}:
            yield from (f"{node.lineno}: {fault}" for fault in misformed(node))
        text = literal(node) if id(node) not in parts | docstrings else None
        if not flags and text and FLAG.search(text) and not any(command in text for command in WHOLE_COMMANDS):
            yield f"{node.lineno}: names a flag: {text}"  # type: ignore[attr-defined]


def misformed(call: ast.Call) -> Iterator[str]:
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return
    if len(call.args) != 3 or call.keywords:
        yield "not (stage, problem, fix)"
        return
    stage, problem, fix = map(literal, call.args)
    if stage is not None and not re.fullmatch("[a-z]+", stage):
        yield f"the stage is not one word: {stage}"
    if problem is not None and not re.match("[A-Z`{]", problem):
        yield f"the problem does not begin as a sentence: {problem}"
    if fix is not None and not fix.strip():
        yield "the fix is empty"


def literal(node: ast.AST) -> str | None:
    """A string as it is written, with ``{}`` for every placeholder; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@pytest.mark.parametrize("module", MODULES)
def test_errors_are_written_in_the_one_form(module: str) -> None:
    assert list(faults((ROOT / module).read_text(), flags=module in NAME_FLAGS)) == []


@pytest.mark.parametrize(
    "source",
    [
        'EdgeError("data", "It broke")',
        'errors.EdgeError("data", "It broke", "Mend it", 1)',
        'GateError("data", "It broke", got=1, expected=2, do="Mend it")',
        'EdgeError("the data", "It broke", "Mend it")',
        'EdgeError("Data", "It broke", "Mend it")',
        'UnavailableError("data", "it broke", "Mend it")',
        'EdgeError("data", f"it {1}", "Mend it")',
        'EdgeError("data", "It broke", " ")',
        'EdgeError("data", "It broke", "Change --size")',
        'fix = f"Change --size to {1}"',
        'fix = f"Change {1}" " and --size"',
    ],
)
def test_the_check_finds_what_is_planted(source: str) -> None:
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'EdgeError("data", f"{1} broke", "Change `size`")',
        'EdgeError("data", "`size` is 0", "Rebuild it: python -m edge.build --force")',
        "EdgeError(*parts)",
        "EdgeError(stage, problem, fix)",
        '"""As --size does."""',
        'text = "a--b, 1 --- 2"',
    ],
)
def test_the_check_lets_good_form_pass(source: str) -> None:
    assert list(faults(source)) == []


def test_only_commands_may_name_flags() -> None:
    assert list(faults('help = "Change --size"', flags=True)) == []
