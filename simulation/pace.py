"""How often the daemon looks, beats and measures: rarer than in reality, or a year took days.

In a year there are 31 million seconds, and a daemon does something in each half of them. What is
stretched here are looks that mostly find nothing new; no rule of the daemon depends on them but
through limits that are stretched with them (`Machine.settings`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from unittest import mock

import actp_supervise.timetable
from app.looks import USUAL, Looks

if TYPE_CHECKING:
    from collections.abc import Iterator

BRISK: Final = 15.0
"""Up to this pace no limit has to be stretched: a beat is due several times in a lease."""

RAREST: Final = 2 * 3600.0
"""Seconds between two looks at what is in the store, at any pace."""

OLDEST: Final = 24 * 3600.0
"""Seconds between two looks at what is old enough to be deleted, at any pace."""


SHORT: Final = 10.0
"""Days up to which the looks are as close as time allows."""


def usual_pace(days: float) -> float:
    """Return the pace for a span of days: so that a year takes minutes, as ten days do."""
    return 60.0 if days <= SHORT else 1800.0


def stretch(pace: float) -> float:
    """Return by how much limits are longer at a pace: leases, thresholds, looks at the queue."""
    return max(1.0, pace / BRISK)


def looks(pace: float) -> Looks:
    """Return how often a daemon looks.

    Args:
        pace: How many times as far apart as in reality the looks are, from 1.
    """
    # So often in a lease, or in the time after which an agent counts as hung, that one that is
    # missed does no harm, as in reality. A lease is of 60 s, and renewed once 20 s of it are over.
    beat = min(USUAL.beat * pace, 18.0 * stretch(pace))
    return Looks(
        beat=beat,
        fresh=3.0 * beat,
        agents=min(USUAL.agents * pace * 2.0, 22.5 * stretch(pace)),
        changes=USUAL.changes * pace,
        health=min(USUAL.health * pace, RAREST),
        alerts=min(USUAL.alerts * pace, RAREST),
        work=min(USUAL.work * pace, RAREST),
        approvals=min(USUAL.approvals * pace, RAREST),
        times=min(USUAL.times * pace, RAREST),
        old=min(USUAL.old * pace, OLDEST),
        unreadable=min(USUAL.unreadable * pace, RAREST),
    )


@contextmanager
def paced(pace: float) -> Iterator[None]:
    """Stretch the looks of the library's scheduler at the wall clock in the block.

    Args:
        pace: As in `looks`.
    """
    clock = actp_supervise.timetable
    every = clock.LOOK_INTERVAL * stretch(pace)
    with mock.patch.object(clock, "LOOK_INTERVAL", every):
        yield
