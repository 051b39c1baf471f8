"""Figures for Prometheus, declared beside the fact or the event that they are made of.

What exposes them is `app.metrics`; here is only what they are called and how they are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""The buckets of a histogram of durations."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A field of an agent's status as a figure, labelled with the agent's id.

    Args:
        name: What Prometheus calls it.
        description: One sentence.
        value: Makes a number of the field's value and the time of day, in seconds since 1970;
            None where there is no figure just now.
        counts_up: Whether it only ever grows: a counter.
    """

    name: str
    description: str
    value: Callable[[Any, float], float | None] = lambda value, _now: float(value)
    counts_up: bool = False


@dataclass(frozen=True, slots=True)
class StateGauge:
    """A field that is one of an enum's members, as a figure for each: 1 for the one that it is."""

    name: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What an event adds to a figure.

    Labels are facts of the event by name; ``agent`` is the agent that it is about, and
    ``routine`` its fact ``job``.
    """

    name: str
    description: str
    labels: tuple[str, ...]
    kind: Literal["counter", "histogram"] = "counter"
    fact: str | None = None
    """The fact that is added or observed; without one, events are counted."""
    only_if: str | None = None
    """A fact that has to be true."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Labels that are always the same."""


def count(name: str, description: str, *labels: str, only_if: str | None = None) -> Tally:
    """Count events."""
    return Tally(name=name, description=description, labels=labels, only_if=only_if)


def add(fact: str, name: str, description: str, *labels: str, **fixed: str) -> Tally:
    """Add a fact of each event up; `fixed` are further labels that are always the same."""
    return Tally(
        name=name, description=description, labels=labels, fact=fact, fixed=tuple(fixed.items())
    )


def durations(fact: str, name: str, description: str, *labels: str) -> Tally:
    """Observe a fact that is a duration, in a histogram."""
    return Tally(name=name, description=description, labels=labels, fact=fact, kind="histogram")
