"""Every refusal has the same four parts, and survives what processes do to exceptions."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Iterator, Mapping
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


Function = ast.FunctionDef | None  # the one around a call
MOST_STEPS = 5  # of functions that hand parts of an error on


def errors(sources: Mapping[str, str]) -> Iterator[tuple[str, ast.Call]]:
    """Every call that makes an error, with where it stands.

    A function that makes an error from its arguments (``_refused(must, …)``) is followed: each call of it counts as one of the
    error's type, with its arguments put in.

    Args:
        sources: module name → its text.
    """
    kinds = {kind.__name__ for kind in KINDS}
    trees = {module: ast.parse(text) for module, text in sources.items()}
    imported = {module: _imported(tree) for module, tree in trees.items()}
    sites = [(module, around, call) for module, tree in trees.items() for around, call in _calls(tree, None)]
    uses: dict[tuple[str, str], list[tuple[str, Function, ast.Call]]] = {}  # of a function, by where it is defined
    for module, around, call in sites:
        name = _called(call)
        uses.setdefault(imported[module].get(name, (module, name)), []).append((module, around, call))
    waiting = [(*site, 0) for site in sites if _called(site[2]) in kinds]
    while waiting:
        module, around, call, steps = waiting.pop()
        if around is not None:
            call = _with(call, _literals(around))
        yield f"{module}:{call.lineno}", call
        names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
        if around is None or steps == MOST_STEPS or not names & set(_parameters(around)):
            continue
        for other, outer, use in uses.get((module, around.name), ()):
            if outer is not around:
                waiting.append((other, outer, ast.copy_location(_with(call, _bound(around, use)), use), steps + 1))


def _calls(node: ast.AST, around: Function) -> Iterator[tuple[Function, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield around, child
        yield from _calls(child, child if isinstance(child, ast.FunctionDef) else around)


def _called(call: ast.Call) -> str:
    """The name of a function or of a method of the object itself."""
    function = call.func
    own = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self"
    return function.id if isinstance(function, ast.Name) else function.attr if own and isinstance(function, ast.Attribute) else ""


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Name here → module and name there."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {each.asname or each.name: (node.module or "", each.name) for node in found for each in node.names}


def _parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs) if each.arg != "self"]


def _bound(function: ast.FunctionDef, call: ast.Call) -> dict[str, ast.expr]:
    """Parameter → what a call gives for it, else its default."""
    given, names = function.args, _parameters(function)
    places = names[: len(names) - len(given.kwonlyargs)]
    found = dict(zip(reversed(places), reversed(given.defaults), strict=False))
    found |= {each.arg: value for each, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is not None}
    return found | dict(zip(places, call.args, strict=False)) | {each.arg: each.value for each in call.keywords if each.arg}


def _literals(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Local name → the text it is assigned, where that is one text."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if several else [(target, node.value)]  # type: ignore[attr-defined]
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(value)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and _literal(values[0]) is not None}


def _with(call: ast.Call, values: Mapping[str, ast.expr]) -> ast.Call:
    """The call with names replaced."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return values.get(node.id, node)

    changed = Put().generic_visit(copy.deepcopy(call))
    assert isinstance(changed, ast.Call)
    return changed


def _literal(node: ast.AST | None) -> str | None:
    """The text of a string literal, with its computed parts as a placeholder; None for other expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part.value if isinstance(part, ast.FormattedValue) else part) or "…" for part in node.values)
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
    paths = [path for package in ("edge", "export", "calib") for path in (repository / package).rglob("*.py")]
    modules = {".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    calls = list(errors({module: path.read_text(encoding="utf-8") for module, path in modules.items()}))
    assert len(calls) > 100, "the walk lost the errors"
    found = sorted({f"{where}: {problem}" for where, call in calls for problem in form_problems(call)})
    assert not found, "\n".join(found)


def test_errors_are_followed_through_the_functions_that_make_them() -> None:
    made = 'def refused(must, got, do="Do"):\n    return EdgeError("data", must, got=got, expected=1, do=do)\n'
    used = """
from made import refused as no

def straight():
    raise no("a.", 1)

def by_default(do):
    raise no("b", 2, do=do)

def handed_on():
    by_default("maybe")

def named():
    must, got = "c.", "d"
    raise no(must, got)

class Method:
    def refuse(self, got):
        raise EdgeError("data", "e", got=f"{got}", expected=1, do="Do")

    def use(self):
        self.refuse("two\\nlines")

def refused(must):
    return must

refused("another function of that name.")
"""
    found = [(where, problem) for where, call in errors({"made": made, "used": used}) for problem in form_problems(call)]
    assert sorted((where, problem.split()[-1]) for where, problem in found) == [
        ("used:11", "command"),
        ("used:15", "own"),
        ("used:22", "lines"),
        ("used:5", "own"),
    ]


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
