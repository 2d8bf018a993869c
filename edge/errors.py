"""The one error type of the toolkit, in one form.

Every refusal says four things: what must hold, what was found, what was expected, what to do.
"""

from __future__ import annotations


class EdgeError(Exception):
    """A refusal the user can act on: ``[stage] what must hold, got X. Expected Y. Do Z.``

    Args:
        stage: the stage that refuses: ``models``, ``data``, ``export``, ``calib``, ``build``, ``load`` …
        must: what must hold.
        got: what was found.
        expected: what was expected, allowed values printed from their source of truth.
        do: what the user can do about it, as a full imperative.
    """

    exit_code = 1

    def __init__(self, stage: str, must: str, *, got: object, expected: object, do: str) -> None:
        self.stage, self.must, self.got, self.expected, self.do = stage, must, got, expected, do
        super().__init__(f"[{stage}] {must}, got {got}. Expected {expected}. {do.rstrip('.')}.")

    def __reduce__(self):  # type: ignore[no-untyped-def]  # keyword-only arguments do not pickle by themselves
        return _rebuild, (type(self), self.stage, self.must, self.got, self.expected, self.do)


class GateError(EdgeError):
    """A gate the user set (``--max-map-drop``, ``--fail-on``) did not hold: exit code 3."""

    exit_code = 3


class UnavailableError(EdgeError):
    """A backend, device or optional package is missing here."""


def _rebuild(kind: type[EdgeError], stage: str, must: str, got: object, expected: object, do: str) -> EdgeError:
    return kind(stage, must, got=got, expected=expected, do=do)


def one_of(values: object) -> str:
    """'a, b or c' for error messages, from the collection that defines what is allowed."""
    names = [str(value) for value in values]  # type: ignore[attr-defined]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
