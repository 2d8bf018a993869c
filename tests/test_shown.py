"""Text from outside stays text of one line wherever it is shown."""

from __future__ import annotations

import re

import pytest

from edge import shown
from edge.errors import EdgeError

HOSTILE = "a\x1b[31mb\r\nc\x00\x9b\u202ed\u2028\ud800|`<b>*_[x](y)&"


@pytest.mark.parametrize("show", [shown.plain, shown.in_markdown, shown.in_html])
def test_no_control_character_is_left_and_none_vanishes(show):
    said = show(HOSTILE)
    assert all(character.isprintable() for character in said)
    for escape in (r"\x1b", r"\r\n", r"\x00", r"\x9b", r"\u202e", r"\u2028", r"\ud800"):
        assert escape in said.replace("\\\\", "\\")


def test_what_is_harmless_stays_as_it_is():
    for text in ("traffic light", "naïve ✓ 雪 \u200d", "-0.3 [-1.0, +0.2]"):
        assert shown.plain(text) == shown.in_markdown(text) == shown.in_html(text) == text


def test_markdown_and_html_take_nothing_for_their_own():
    assert not re.search(r"(?<!\\)[|`<&]|(?<!\\)[*_](?=\S)|(?<!\\)\]\(", shown.in_markdown(HOSTILE))
    assert not re.search(r"[<>\"']|&(?!\w+;|#x27;)", shown.in_html(HOSTILE + "\"'"))


def test_an_error_is_one_line_whatever_it_names():
    error = EdgeError("load", f"There is no class {HOSTILE}", "Change it")
    assert str(error).isprintable()
    assert error.problem.endswith(HOSTILE)  # as it was, for programs
