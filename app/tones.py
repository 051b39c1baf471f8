"""How good or bad a word is that tells of a state, an outcome or an event: by colour, in effect."""

from __future__ import annotations

from enum import StrEnum


class Tone(StrEnum):
    """What a word wants of the reader; pages have a class of this name, terminals a colour."""

    GOOD = "good"
    """All is as it should be."""
    WARN = "warn"
    """Worth a look."""
    BAD = "bad"
    """A person has to do something."""
    NEWS = "news"
    """Something began or changed, and is neither good nor bad."""
    OFF = "off"
    """Does not count just now, or is one of dozens."""
    PLAIN = ""
