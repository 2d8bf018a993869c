"""Text from outside, such as a class name or a path, as it may be shown: whatever it holds, it is
text of one line and no more."""

from __future__ import annotations

import html
import re

# Control characters, line ends, marks that turn the direction of writing, and halves of surrogate
# pairs, which no encoding has.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What Markdown would take for its own, within a line.
_MARKS = re.compile(r"[\\`<|&~]|[*_](?=\S)|!\[|\]\(")


def plain(text: str) -> str:
    """The text with control characters as the escapes of Python's string literals, such as
    ``\\x1b``."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_markdown(text: str) -> str:
    """The same for a line or a cell of Markdown."""
    return _MARKS.sub(lambda found: "".join("\\" + each for each in found[0]), plain(text))


def in_html(text: str) -> str:
    """The same for HTML and SVG, also within an attribute."""
    return html.escape(plain(text))
