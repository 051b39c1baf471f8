"""Texts that come from anywhere, made fit for a line, a page, a log or a terminal."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_TEXT: Final = 20_000
"""Characters of a text that are logged, or kept of an error."""

STEERING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that steer what shows them: C0, DEL, C1, line separators, those that turn the
direction of writing (Trojan Source, CVE-2021-42574), and halves of characters, which no file takes.
"""


def shorten(text: str, most: int = LONGEST_TEXT, *, ends: bool = False) -> str:
    r"""Return a text on one line that is `visible`, cut where it is too long; or its two ends.

    >>> shorten(" a\n b ", 9), shorten("abcdef", 4)
    ('a b', 'abc…')
    >>> shorten("It was a dark and\nstormy night.", 16, ends=True)
    'It was a [15 characters left out] y night.'

    Args:
        text: Of any length.
        most: How many of its characters may be seen.
        ends: Whether lines stay, and of a text that is too long both ends are shown: of a
            traceback, the error is at one and the caller at the other.
    """
    if ends:
        left_out = len(text) - most
        if left_out <= 0:
            return text
        behind = most // 2
        return (
            f"{text[: most - behind]} [{left_out} characters left out] "
            + (text[len(text) - behind :])
        )
    # Of a whole book, the first pages are enough to fill one line.
    line = visible(" ".join(text[: 10 * most + 1000].split()))
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return a text in which nothing can steer a terminal: what could is shown by its number.

    >>> visible("a\x1b[2J\nb\u202e")
    'a\\x1b[2J\\x0ab\\u202e'

    Args:
        text: From anywhere.
        lines: Whether newlines and tabs stay.
    """
    keep = "\n\t" if lines else ""
    return STEERING.sub(lambda found: found[0] if found[0] in keep else _number(found[0]), text)


def _number(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def why(error: Exception) -> str:
    """Return why something did not work; a time-out, of any library, has no text of its own.

    >>> why(OSError("no such host")), why(TimeoutError())
    ('no such host', 'it took too long')
    """
    return str(error) or "it took too long"


def clean_json(value: object, clean: Callable[[str], str]) -> Any:  # noqa: ANN401  (JSON)
    """Return a value as JSON can hold it, with every text in it cleaned, keys excepted.

    Args:
        value: Any value; what JSON has no word for becomes its text.
        clean: Takes out of a text what is not to be seen.
    """
    if isinstance(value, dict):
        return {str(key): clean_json(item, clean) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item, clean) for item in value]
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return clean(str(value))
