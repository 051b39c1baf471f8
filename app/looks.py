"""How often the daemon looks at what nothing tells it of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Seconds between two looks or beats; a simulation has them further apart."""

    beat: float = 4.5
    """At the store: at most 15 requests a minute, and a task posted anywhere begins in 5 s."""
    fresh: float = 15.0
    """For how long a beat's answer is relied on; three beats are due in that time."""
    agents: float = 1.0
    """Signs of life of an agent's loop: more rarely only where it has time for 9 of them."""
    changes: float = 1.0
    """At the agents, whether the state of one has changed, where something has happened."""
    health: float = 20.0
    """At the health and the agents, where nothing has happened that told of a change."""
    alerts: float = 10.0
    """At what people are to be told; what is new at the same look is told as one message."""
    work: float = 30.0
    """At the queue and the costs, for the health; one to three requests each."""
    times: float = 60.0
    """Whether another daemon was told another time for a routine."""
    approvals: float = 30.0
    """At approvals while some wait for a person, so by which one may expire late."""
    unreadable: float = 120.0
    """At tasks that cannot be read; what is told is for a person, who does not read it sooner."""


USUAL: Final = Looks()


def next_look(every: float) -> float:
    """Return the time by Trio's clock of the next look of those that are so far apart.

    That is a whole multiple, so that looks that fall together wake the daemon once: what is done
    after a rest costs many times what it costs in a row.

    Args:
        every: Seconds between two looks.
    """
    now = trio.current_time()
    moment = (now // every + 1) * every
    return moment if moment > now else moment + every  # they may be rounded to the same
