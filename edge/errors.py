"""The one error type of the toolkit: what happened, and what to do about it, in one line."""

from __future__ import annotations

from collections.abc import Iterable

from edge.shown import plain


class EdgeError(Exception):
    """A failure the user can act on: ``[stage] What happened. What to do.``

    A parameter is named in backticks (`` `dataset`
    ``); a command prints it as a flag (``--dataset``).

    Args:
        stage: where it happened: ``models``, ``data``, ``export``, ``calib``, ``build``, ``load`` …
        problem: what happened, as a sentence, with the offending value.
        fix: what to do, as a sentence, with the allowed values where that helps.
    """

    exit_code = 1

    def __init__(self, stage: str, problem: str, fix: str) -> None:
        super().__init__(stage, problem, fix)
        self.stage, self.problem, self.fix = stage, problem.rstrip("."), fix.rstrip(".")

    def __str__(self) -> str:
        return plain(f"[{self.stage}] {self.problem}. {self.fix}.")


class GateError(EdgeError):
    """A gate set by the user (``max_map_drop``, ``fail_on``) failed: exit code 3."""

    exit_code = 3


class UnavailableError(EdgeError):
    """A backend, device or optional package is missing on this machine."""


def one_of(values: Iterable[object]) -> str:
    """'a, b or c' for error messages, from the collection that defines what is allowed."""
    names = [str(value) for value in values]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
