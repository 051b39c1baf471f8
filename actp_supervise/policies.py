"""What a supervisor may decide, as values, and each decision as a pure function of them.

No Trio, no clock, no state: a moment, a count or a list of names goes in, a verdict comes out.
`engine` carries the verdicts out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence

ChildT = TypeVar("ChildT")


class Strategy(StrEnum):
    """Which children are restarted when one of them has to be.

    Source: OTP's strategies of the same names.
    """

    ONE_FOR_ONE = "one_for_one"
    """That child alone."""
    ONE_FOR_ALL = "one_for_all"
    """All children: stopped in reverse start order, started in start order."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those started after it, in the same orders."""


class Restart(StrEnum):
    """When a child that ended by itself is started again.

    Source: OTP's restart types.
    """

    PERMANENT = "permanent"
    """Always, also after it returned."""
    TRANSIENT = "transient"
    """Only after an exception."""
    TEMPORARY = "temporary"
    """Never; and it leaves the supervisor's list when it ends."""


class AutoShutdown(StrEnum):
    """Whether a supervisor stops when its *significant* children have ended by themselves.

    Source: OTP 24's ``auto_shutdown``.
    """

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    """When one of them has."""
    ALL_SIGNIFICANT = "all_significant"
    """When the last of them has."""


class ShutdownOrder(StrEnum):
    """How a supervisor that ends stops its children."""

    REVERSE = "reverse"
    """One by one, the last started first, each gone before the next is asked (as in OTP)."""
    TOGETHER = "together"
    """All are asked at once, for children that do not need each other."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart, by the number of recent crashes.

    The n-th crash inside the sliding window waits 0 s up to `free_restarts`, then
    ``min(maximum, initial * factor ** (n - free_restarts - 1))``:

    >>> agent = Backoff(initial=64.0, factor=2.0, maximum=300.0, free_restarts=5)
    >>> [agent.delay(n) for n in (1, 5, 6, 7, 8, 9)]
    [0.0, 0.0, 64.0, 128.0, 256.0, 300.0]

    The default waits not at all, as OTP does. A permanent child's return counts as a crash here.

    Raises:
        ValueError: If a number is out of its range; the message names it.
    """

    initial: float = 0.0
    """The first wait, in seconds; 0 for none at all."""
    factor: float = 2.0
    """What each further wait is multiplied by; at least 1."""
    maximum: float = 300.0
    """The longest wait, in seconds, before `jitter`."""
    free_restarts: int = 0
    """How many crashes in the window are restarted at once."""
    window: float = 3600.0
    """The seconds after which a crash is forgotten."""
    jitter: float = 0.0
    """The fraction by which a wait is spread to either side, 0 to 1."""

    def __post_init__(self) -> None:
        # `not x >= 0` rather than `x < 0`, so that NaN is refused too.
        if not 0 <= self.initial < math.inf:
            raise ValueError(f"initial must be a number of seconds from 0, not {self.initial!r}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor must be at least 1, not {self.factor!r}")
        if not 0 <= self.maximum < math.inf:
            raise ValueError(f"maximum must be a number of seconds from 0, not {self.maximum!r}")
        if not is_count(self.free_restarts):
            raise ValueError(f"free_restarts must be a count from 0, not {self.free_restarts!r}")
        if not self.window > 0:
            raise ValueError(f"window must be a positive number of seconds, not {self.window!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be a fraction from 0 to 1, not {self.jitter!r}")

    def delay(self, crashes: int, rng: random.Random | None = None) -> float:
        """Return the seconds to wait after the `crashes`-th crash inside the window.

        Args:
            crashes: Crashes inside the window, the newest included.
            rng: Spreads the wait by `jitter`; without it the wait is not spread.
        """
        exponent = crashes - self.free_restarts - 1
        if exponent < 0 or self.initial == 0:
            return 0.0
        try:
            delay = min(self.maximum, self.initial * self.factor**exponent)
        except OverflowError:
            delay = self.maximum
        if self.jitter and rng is not None:
            delay *= 1 + self.jitter * rng.uniform(-1.0, 1.0)
        return delay

    @property
    def memory(self) -> int:
        """From which number of crashes on `delay` no longer changes: more need not be kept."""
        if self.initial == 0 or self.factor == 1 or self.initial >= self.maximum:
            steps = 0
        else:
            growth = math.log(self.maximum) - math.log(self.initial)
            steps = math.ceil(growth / math.log(self.factor))
        return self.free_restarts + steps + 2


@dataclass(frozen=True, slots=True)
class RestartLimit:
    """How many restarts a supervisor makes before it gives up and escalates.

    Raises:
        ValueError: If a number is out of its range; the message names it.

    Source: OTP's ``intensity`` and ``period``; the defaults are Elixir's.
    """

    max_restarts: int = 3
    """This many restarts inside `within` are fine, the next one is too many."""
    within: float = 5.0
    """The sliding window, in seconds; a restart exactly this old still counts."""

    def __post_init__(self) -> None:
        if not is_count(self.max_restarts):
            raise ValueError(f"max_restarts must be a count from 0, not {self.max_restarts!r}")
        if not self.within > 0:
            raise ValueError(f"within must be a positive number of seconds, not {self.within!r}")

    @property
    def memory(self) -> int:
        """How many of the newest restarts `exceeded` needs to know."""
        return self.max_restarts + 1

    def exceeded(self, restarts: Sequence[float], now: float) -> bool:
        """Say whether the newest `memory` restarts, oldest first, are too many at `now`."""
        return len(restarts) >= self.memory and now - restarts[-self.memory] <= self.within

    def out_of_reach(self, backoff: Backoff) -> bool:
        """Say whether `backoff` slows one child down so much that it can never get here."""
        free = backoff.free_restarts
        waits = self.max_restarts - free
        growing = min(waits, backoff.memory - free)
        total = sum(backoff.delay(free + n) for n in range(1, growing + 1))
        total += (waits - growing) * backoff.delay(backoff.memory)
        return total * (1 - backoff.jitter) > self.within


def is_restarted(restart: Restart, *, crashed: bool) -> bool:
    """Say whether a child that ended by itself is started again."""
    return restart is Restart.PERMANENT or (crashed and restart is Restart.TRANSIENT)


def affected(strategy: Strategy, children: Sequence[ChildT], failed: ChildT) -> Sequence[ChildT]:
    """Return those of `children`, in start order, that a restart of `failed` takes with it."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return [failed]
        case Strategy.ONE_FOR_ALL:
            return children
        case Strategy.REST_FOR_ONE:
            return children[children.index(failed) :]


def is_auto_shutdown(policy: AutoShutdown, still_running: Collection[object]) -> bool:
    """Say whether a supervisor stops now that a significant child ended by itself.

    Args:
        policy: The supervisor's.
        still_running: Its other significant children that have not ended.
    """
    match policy:
        case AutoShutdown.NEVER:
            return False
        case AutoShutdown.ANY_SIGNIFICANT:
            return True
        case AutoShutdown.ALL_SIGNIFICANT:
            return not still_running


def is_count(value: object) -> bool:
    """Say whether something counts: a whole number from 0, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
