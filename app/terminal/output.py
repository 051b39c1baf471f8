"""How the commands write: plain, or with colours on a terminal that wants them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from app.tones import Tone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

MOST_ON_LINE: Final = 200
"""Characters of a text on one line, where nothing else says how many."""

GREY: Final = "90"

COLOURS: Final = {
    Tone.GOOD: "32",
    Tone.WARN: "33",
    Tone.BAD: "31",
    Tone.NEWS: "36",
    Tone.OFF: GREY,
}
"""The colours of what is shown, as a terminal numbers them."""


def wants_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to write with colours: on a terminal, unless NO_COLOR (no-color.org) is set."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def painted(text: str, colour: str | None) -> str:
    r"""Return a text in a colour, or as it is.

    >>> painted("well", COLOURS[Tone.GOOD]), painted("well", None)
    ('\x1b[32mwell\x1b[0m', 'well')
    """
    return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"
