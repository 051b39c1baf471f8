"""What happens in a simulated span of time: who does what when, and what goes wrong.

A plan is drawn from a seed before it is played, as a list of steps. So a plan with some steps taken
out can be played again, which is how a failure is made short.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from .pace import usual_pace

DAY: Final = 86_400.0

BELOW_ONE: Final = 0.999999
"""The highest `Step.pick`, which is rounded: 1 picks nothing."""

POISON: Final = "by hand: whoever does this crashes"
"""The goal of a task at which its agent crashes each time."""

AGENTS: Final = ("social", "content", "acquisition", "revenue")

ZONES: Final = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",  # half an hour of daylight saving time
    "America/St_Johns",
    "Asia/Kathmandu",
    "Africa/Casablanca",  # whose clocks go back for Ramadan
    "America/Santiago",  # where midnight does not exist once a year
)


class What(StrEnum):
    """A kind of step; `amount` is in seconds where nothing else is said."""

    # What people do.
    POST = "post"
    """A task; one with an amount above 1 takes all the turns that a task may have."""
    CANCEL = "cancel"
    RETRY = "retry"
    PAUSE = "pause"
    """An agent, for so long."""
    RESTART = "restart"
    ROUTINE = "routine"
    """A routine is run now."""
    RELOAD = "reload"
    """SIGHUP, with another poll interval."""
    DECIDE = "decide"
    """What waits for an approval is approved, with other arguments or as it is, or denied."""
    ROW = "row"
    """A task is inserted by hand, behind the daemon's back."""

    # The store.
    STORE_AWAY = "store_away"
    STORE_AWAY_FOR_ALL = "store_away_for_all"
    STORE_TORN = "store_torn"
    """It goes away just as one of the verbs is asked on which most depends; `pick` says which."""
    STORE_SLOW = "store_slow"
    LOSE_ANSWERS = "lose_answers"
    """How many of the next calls it concerns."""

    # Claude, for the next calls of an agent.
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    NO_REPLY = "no_reply"
    CUT_OFF = "cut_off"
    NONSENSE = "nonsense"
    REFUSAL = "refusal"
    SPEND_LIMIT = "spend_limit"

    # Agents.
    CRASH = "crash"
    """How many of its next calls of the store."""
    HANG = "hang"
    BLOCK = "block"
    """The loop that all share."""
    SWALLOW = "swallow"
    """It hangs and does not let itself be cancelled."""
    LEAK = "leak"
    """It leaves a task behind."""

    # The machine.
    SLEEP = "sleep"
    """The lid is closed."""
    CLOCK_SET = "clock_set"
    """A daemon's clock, by so much, back or forth."""
    STOP = "stop"
    """SIGTERM; started anew so much later."""
    STOP_TWICE = "stop_twice"
    KILL = "kill"
    """As by kill -9, between two checkpoints; started anew so much later."""
    KILL_AT_WORK = "kill_at_work"
    """The same in the middle of the next task that the daemon takes."""


TORN_AT: Final = (
    "finish_task",
    "record_turn",
    "record_answer",
    "record_cost",
    "begin_effect",
    "release_task",
    "park_task",
    "claim_task",
    "finish_fire",
)
"""The verbs at which the store may be torn away."""

PEOPLE: Final = (
    What.POST,
    What.CANCEL,
    What.RETRY,
    What.PAUSE,
    What.RESTART,
    What.ROUTINE,
    What.RELOAD,
    What.ROW,
    What.DECIDE,
)


CLAUDE: Final = frozenset(
    {
        What.OVERLOADED,
        What.RATE_LIMITED,
        What.NO_REPLY,
        What.CUT_OFF,
        What.NONSENSE,
        What.REFUSAL,
        What.SPEND_LIMIT,
    }
)
"""What happens to calls of Claude."""

CODE: Final = frozenset({What.CRASH, What.HANG, What.BLOCK, What.SWALLOW, What.LEAK})
"""What agents do wrong."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Step:
    """One thing that happens."""

    at: float
    """Seconds since the beginning."""
    what: What
    daemon: int = 0
    agent: str = AGENTS[0]
    amount: float = 0.0
    pick: float = 0.0
    """From 0 to 1; chooses among what there is by then."""

    @property
    def is_fault(self) -> bool:
        """Whether something goes wrong by it, rather than that people work."""
        return self.what not in PEOPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole run."""

    seed: int
    days: float
    daemons: int = 1
    zone: str = "UTC"
    start: datetime = datetime(2026, 11, 29, tzinfo=UTC)
    budget: float | None = None
    """What each agent may spend a day, in US dollars."""
    total_budget: float | None = None
    """What all may spend a day together."""
    task_budget: float | None = None
    """What a task may cost."""
    pace: float = 60.0
    """How many times as long as in reality the intervals between looks are (`pace`)."""
    steps: tuple[Step, ...] = ()

    @property
    def has_faults(self) -> bool:
        """Whether anything goes wrong in it."""
        return any(step.is_fault for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How often what happens, on each day to each daemon."""

    rates: Mapping[What, float] = field(default_factory=dict)
    posts: float = 14.0
    """Tasks that people post a day, all daemons together; the routines begin six more."""


_WORK: Final = {What.CANCEL: 1.0, What.RETRY: 0.5, What.ROUTINE: 0.3, What.DECIDE: 8.0}
_YEAR: Final = {
    **_WORK,
    What.PAUSE: 0.2,
    What.RESTART: 0.2,
    What.RELOAD: 0.1,
    What.ROW: 0.2,
    What.STORE_AWAY: 0.15,
    What.STORE_AWAY_FOR_ALL: 0.05,
    What.STORE_TORN: 0.1,
    What.STORE_SLOW: 0.2,
    What.LOSE_ANSWERS: 0.5,
    What.OVERLOADED: 0.5,
    What.RATE_LIMITED: 0.5,
    What.NO_REPLY: 0.2,
    What.CUT_OFF: 0.2,
    What.NONSENSE: 0.05,
    What.REFUSAL: 0.1,
    What.SPEND_LIMIT: 0.02,
    What.CRASH: 0.3,
    What.HANG: 0.1,
    What.BLOCK: 0.05,
    What.SWALLOW: 0.05,
    What.LEAK: 0.1,
    What.SLEEP: 0.2,
    What.CLOCK_SET: 0.1,
    What.STOP: 0.2,
    What.STOP_TWICE: 0.05,
    What.KILL: 0.2,
    What.KILL_AT_WORK: 0.2,
}

PROFILES: Final = {
    "calm": Profile(rates=_WORK),
    "usual": Profile(rates=_YEAR),
    "torn": Profile(
        rates={What.STORE_TORN: 40.0, What.KILL_AT_WORK: 20.0, What.DECIDE: 40.0}, posts=200.0
    ),
    "hostile": Profile(
        rates={what: rate * 12 for what, rate in _YEAR.items()} | {What.SLEEP: 0.5}, posts=60.0
    ),
}

_AMOUNTS: Final[Mapping[What, tuple[float, float]]] = {
    What.PAUSE: (60.0, 7200.0),
    What.STORE_AWAY: (1.0, 3600.0),
    What.STORE_AWAY_FOR_ALL: (1.0, 3600.0),
    What.STORE_TORN: (10.0, 3600.0),
    What.STORE_SLOW: (10.0, 1800.0),
    What.LOSE_ANSWERS: (1.0, 20.0),
    What.OVERLOADED: (1.0, 40.0),
    What.RATE_LIMITED: (1.0, 10.0),
    What.NO_REPLY: (1.0, 5.0),
    What.CUT_OFF: (1.0, 5.0),
    What.NONSENSE: (1.0, 3.0),
    What.REFUSAL: (1.0, 3.0),
    What.SPEND_LIMIT: (1.0, 3.0),
    What.CRASH: (1.0, 10.0),
    What.HANG: (1.0, 2.0),
    What.BLOCK: (3.0, 200.0),
    What.SWALLOW: (1.0, 2.0),
    What.LEAK: (1.0, 3.0),
    What.SLEEP: (60.0, 28_800.0),
    What.CLOCK_SET: (1.0, 7200.0),
    What.STOP: (0.5, 7200.0),
    What.STOP_TWICE: (0.5, 3600.0),
    What.KILL: (0.5, 7200.0),
    What.KILL_AT_WORK: (0.5, 7200.0),
}


def draw(
    seed: int,
    *,
    days: float,
    daemons: int = 1,
    profile: str = "usual",
    pace: float | None = None,
) -> Plan:
    """Draw a plan from a seed.

    Args:
        seed: Any number.
        days: For how long.
        daemons: How many share the store.
        profile: How much goes wrong: one of `PROFILES`.
        pace: As in `Plan`; `usual_pace` of the span where not given.
    """
    rng = random.Random(f"plan {seed}")
    zone = rng.choice(ZONES)
    rates = PROFILES[profile]
    steps = _drawn(rng, What.POST, rates.posts * days, days, daemons)
    for what, rate in rates.rates.items():
        steps += _drawn(rng, what, rate * days * daemons, days, daemons)
    calm = profile == "calm"
    return Plan(
        seed=seed,
        days=days,
        daemons=daemons,
        zone=zone,
        start=_start(rng, zone, days),
        budget=None if calm else rng.choice((None, 0.02, 0.1)),
        total_budget=None if calm else rng.choice((None, None, 0.2)),
        task_budget=None if calm else rng.choice((None, None, 0.05)),
        pace=usual_pace(days) if pace is None else pace,
        steps=tuple(sorted(steps)),
    )


def _drawn(
    rng: random.Random, what: What, expected: float, days: float, daemons: int
) -> list[Step]:
    number = math.floor(expected) + (rng.random() < expected % 1)
    least, most = _AMOUNTS.get(what, (1.0, 1.0))
    steps = []
    for _ in range(number):
        amount = least * (most / least) ** rng.random()
        if what is What.CLOCK_SET:
            amount *= rng.choice((-1, 1))
        steps.append(
            Step(
                at=round(rng.uniform(60.0, days * DAY), 3),
                what=what,
                daemon=rng.randrange(daemons),
                agent=rng.choice(AGENTS),
                amount=round(amount, 3),
                pick=min(round(rng.random(), 6), BELOW_ONE),
            )
        )
    return steps


def _start(rng: random.Random, zone: str, days: float) -> datetime:
    """Return a first day; one in two runs crosses a change of the zone's clocks."""
    first = datetime(2026, 1, 1, 3, 30, tzinfo=UTC) + timedelta(days=rng.randrange(365))
    if rng.random() < 0.5:
        return first
    day, here = first, ZoneInfo(zone)
    for _ in range(366):
        before, day = day, day + timedelta(days=1)
        if before.astimezone(here).utcoffset() != day.astimezone(here).utcoffset():
            return before - timedelta(days=rng.random() * min(days, 1.0))
    return first
