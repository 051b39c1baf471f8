"""What a supervisor may decide, as values, and each decision as a pure function of them.

No Trio, no clock, no state: moments, counts and kinds go in, a verdict comes out, and the modules
behind `nursery` carry it out. The functions stand in the order in which a supervisor asks them:
how did the run end, what follows for this child, when, and for the others; then how a run is
stopped, and what its watchdog says.

Source: the clauses of ``do_restart`` and ``shutdown`` in OTP's ``supervisor.erl``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Final, TypeVar

from .checks import check_count, check_fraction, check_seconds, is_number
from .errors import ErrorKind

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

ChildT = TypeVar("ChildT")

LISTENER_TIMEOUT: Final = 5.0
"""Seconds that a run which listens has to stop when asked, where no `shutdown_timeout` is given."""

OVERDUE_AFTER: Final = 5.0
"""Seconds after its cancellation at which a child that is still there is reported as overdue."""

LONG_WAIT: Final = 1.0
"""Seconds after which a wait for a child that was asked to stop is logged."""

PUNCTUAL: Final = 0.01
"""Seconds by which a timer may be late on a healthy machine, which is no reason to wait again."""


class Strategy(StrEnum):
    """Which children are restarted when one of them has to be.

    Source: OTP's strategies of the same names.
    """

    ONE_FOR_ONE = "one_for_one"
    """The child that failed, alone."""
    ONE_FOR_ALL = "one_for_all"
    """All children. They are stopped in reverse start order and started in start order."""
    REST_FOR_ONE = "rest_for_one"
    """The child that failed and those that were started after it, in the same two orders."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a run of a child ended by itself: what a restart policy of your own decides by."""

    error: BaseException | None
    """What it raised; None where it returned. A `Stalled` where it missed its watchdog time."""
    uptime: float
    """The seconds that the run lasted."""
    crashes: int
    """How many runs of the child have crashed since it was first started, this one included."""
    restarts: int
    """How often the child was started again before."""

    @property
    def returned(self) -> bool:
        """Whether the run ended without an error."""
        return self.error is None

    @property
    def exit_code(self) -> int | None:
        """The exit status of a `process_child`: 0 where it returned, negative for a signal.

        None for an error that has no exit status.
        """
        if self.error is None:
            return 0
        code = getattr(self.error, "returncode", None)
        return code if isinstance(code, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a restart policy answers to an `Exit`.

    Raises:
        TypeError: If `restart` is no boolean or `delay` no number.
        ValueError: If `delay` is negative or infinite.
    """

    restart: bool
    """Whether the child is started again. A child that is not is *finished* or *failed*."""
    delay: float | None = None
    """Seconds to wait before that, in place of what the child's `Backoff` says."""

    def __post_init__(self) -> None:
        if not isinstance(self.restart, bool):
            raise TypeError(f"restart must be True or False, not {self.restart!r}")
        if self.delay is not None:
            check_seconds("delay", self.delay, finite=True)


_AGAIN: Final = Decision(restart=True)
_NOT_AGAIN: Final = Decision(restart=False)

RestartPolicy = Restart | Callable[[Exit], Decision]
"""What restarts a child: one of OTP's three kinds, or a pure function of your own."""


class AutoShutdown(StrEnum):
    """Whether a supervisor stops when its *significant* children have ended by themselves.

    Source: OTP 24's ``auto_shutdown``.
    """

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    """When one of its significant children has ended."""
    ALL_SIGNIFICANT = "all_significant"
    """When the last of its significant children has ended."""


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
        TypeError: If a field is no number; the message names it.
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
    """The fraction, from 0 to 1, by which a wait is made shorter or longer at random."""

    def __post_init__(self) -> None:
        check_seconds("initial", self.initial, finite=True)
        if not is_number(self.factor):
            raise TypeError(f"factor must be a number, not {self.factor!r}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor must be at least 1, not {self.factor!r}")
        check_seconds("maximum", self.maximum, finite=True)
        check_count("free_restarts", self.free_restarts)
        check_seconds("window", self.window, positive=True)
        check_fraction("jitter", self.jitter)

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
            # As floats: whole numbers would grow to millions of digits before they are cut.
            delay = min(float(self.maximum), self.initial * float(self.factor) ** exponent)
        except OverflowError:
            delay = float(self.maximum)
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
        # A deque holds no more than `sys.maxsize`; that many crashes never fall into a window.
        return min(self.free_restarts + steps + 2, sys.maxsize)


@dataclass(frozen=True, slots=True)
class RestartLimit:
    """How many restarts a supervisor makes before it gives up and escalates.

    Raises:
        TypeError: If a field is no number; the message names it.
        ValueError: If a number is out of its range; the message names it.

    Source: OTP's ``intensity`` and ``period``; the defaults are Elixir's.
    """

    max_restarts: int = 3
    """This many restarts inside `within` are fine, the next one is too many."""
    within: float = 5.0
    """The sliding window, in seconds; a restart exactly this old still counts."""

    def __post_init__(self) -> None:
        check_count("max_restarts", self.max_restarts)
        check_seconds("within", self.within, positive=True)

    @property
    def memory(self) -> int:
        """How many of the newest restarts `exceeded` needs to know."""
        return min(self.max_restarts + 1, sys.maxsize)

    def exceeded(self, restarts: Sequence[float], now: float) -> bool:
        """Return whether the newest `memory` restarts, oldest first, are too many at `now`."""
        first = len(restarts) - self.max_restarts - 1
        return first >= 0 and now - restarts[first] <= self.within

    def out_of_reach(self, backoff: Backoff) -> bool:
        """Return whether a child with this `backoff` is too slow ever to exceed the limit."""
        free = backoff.free_restarts
        waits = self.max_restarts - free
        growing = min(waits, backoff.memory - free)
        total = sum(backoff.delay(free + n) for n in range(1, growing + 1))
        total += (waits - growing) * backoff.delay(backoff.memory)
        return total * (1 - backoff.jitter) > self.within


# How did the run end?


class Intent(Enum):
    """Why a run was asked to end, which decides what follows its end."""

    STOP = auto()
    RESTART = auto()
    GROUP = auto()
    """Its group's restart stops it, and will start it."""
    STALLED = auto()


class RunEnd(Enum):
    """How a run ended."""

    INTERRUPT = auto()
    """By an error that no supervisor handles, such as `SystemExit`: the tree stops."""
    AS_ASKED = auto()
    START_FAILED = auto()
    """Before it was ready, while a caller of `start` or `restart` waits, who gets the error."""
    RETURNED = auto()
    GAVE_UP = auto()
    """By `DoNotRestart`."""
    CRASHED = auto()


def kind_of_end(error: ErrorKind | None, intent: Intent | None, *, caller_waits: bool) -> RunEnd:
    """Return how a run ended.

    Args:
        error: What kind of error it raised, if any.
        intent: Why it was asked to end, if it was.
        caller_waits: Whether a caller waits for this run to get ready.
    """
    if error is ErrorKind.INTERRUPT:
        return RunEnd.INTERRUPT
    if intent is not None and intent is not Intent.STALLED:
        return RunEnd.AS_ASKED
    if intent is Intent.STALLED:
        return RunEnd.CRASHED
    if error is None:
        return RunEnd.RETURNED
    if caller_waits:
        return RunEnd.START_FAILED
    if error is ErrorKind.DO_NOT_RESTART:
        return RunEnd.GAVE_UP
    return RunEnd.CRASHED


# What follows for this child?


class Next(Enum):
    """What becomes of a child whose run has ended."""

    RUN_AGAIN = auto()
    WAIT_WITH_GROUP = auto()
    OVER = auto()
    """Nothing starts it again by itself."""
    RESTART = auto()
    """It is started again after its delay, alone or with its group."""
    GIVE_UP = auto()
    """It would be restarted once too often: its supervisor escalates."""


def after_stop(intent: Intent, *, in_group: bool, temporary: bool, supervisor_stops: bool) -> Next:
    """Return what becomes of a child that ended because it was asked to.

    Args:
        intent: Why it was asked.
        in_group: Whether it belongs to a group that is being restarted.
        temporary: Whether its restart kind is `Restart.TEMPORARY`: a group stops it for good.
        supervisor_stops: Whether its supervisor has begun to stop.
    """
    if intent is not Intent.STOP and in_group and not temporary:
        return Next.WAIT_WITH_GROUP
    if intent is Intent.RESTART and not in_group and not supervisor_stops:
        return Next.RUN_AGAIN
    return Next.OVER


def decide_by_kind(restart: Restart, *, returned: bool) -> Decision:
    """Return whether a child that ended by itself is to be started again, by OTP's kinds."""
    if restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and not returned):
        return _AGAIN
    return _NOT_AGAIN


def decide_by_policy(policy: Callable[[Exit], Decision], exit_: Exit) -> Decision:
    """Return whether a child that ended by itself is to be started again, by a user's policy.

    Raises:
        TypeError: If the policy returns no `Decision`.
    """
    decision = policy(exit_)
    if not isinstance(decision, Decision):
        raise TypeError(f"a restart policy returns a Decision, not {decision!r}")
    return decision


def after_exit(
    end: RunEnd,
    decision: Decision,
    *,
    in_group: bool,
    temporary: bool,
    supervisor_stops: bool,
    limit_exceeded: bool,
) -> Next:
    """Return what becomes of a child that ended by itself.

    Args:
        end: How it ended: returned, gave up or crashed.
        decision: What its restart policy says.
        in_group: Whether it belongs to a group that is being restarted.
        temporary: Whether its restart kind is `Restart.TEMPORARY`.
        supervisor_stops: Whether its supervisor has begun to stop.
        limit_exceeded: Whether this restart would be one too many; a group's restart counts once,
            however many of its members fail before it is due.
    """
    if end is RunEnd.GAVE_UP:
        return Next.OVER
    if decision.restart:
        if supervisor_stops:
            return Next.OVER
        return Next.GIVE_UP if limit_exceeded and not in_group else Next.RESTART
    if end is RunEnd.RETURNED and in_group and not temporary:
        return Next.WAIT_WITH_GROUP
    return Next.OVER


def affected(strategy: Strategy, children: Sequence[ChildT], position: int) -> Sequence[ChildT]:
    """Return the children that a restart takes with it.

    Args:
        strategy: The supervisor's.
        children: All of its children, in start order.
        position: Where among them the failed one stands.
    """
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (children[position],)
        case Strategy.ONE_FOR_ALL:
            return children
        case Strategy.REST_FOR_ONE:
            return children[position:]


def belongs_to_group(*, failed: bool, live: bool, stopped_by_user: bool, gave_up: bool) -> bool:
    """Return whether a child that a group's restart takes along is really restarted.

    What a user stopped stays stopped, and what failed for good stays failed. But while a run of
    that child is still ending, the child belongs to the group: no other member may start before it
    is gone.

    Source: OTP restarts both kinds; here a user who stopped a child had a reason.
    """
    return failed or live or not (stopped_by_user or gave_up)


def is_auto_shutdown(policy: AutoShutdown, still_wanted: int) -> bool:
    """Return whether a supervisor stops now that a significant child ended by itself.

    Args:
        policy: The supervisor's.
        still_wanted: How many of its other significant children have not ended.
    """
    match policy:
        case AutoShutdown.NEVER:
            return False
        case AutoShutdown.ANY_SIGNIFICANT:
            return True
        case AutoShutdown.ALL_SIGNIFICANT:
            return still_wanted == 0


# How is a run stopped?


def intent_once_asked(current: Intent | None, new: Intent) -> Intent:
    """Return what the end of a run will mean once it is asked to end, perhaps again.

    The later call wins; but a group's restart overrules neither a stop nor a stall.
    """
    if new is Intent.GROUP and current in (Intent.STOP, Intent.STALLED):
        return current
    return new


def time_to_stop(shutdown_timeout: float | None, *, listens: bool) -> float:
    """Return the seconds that a run has from being asked to being cancelled.

    Args:
        shutdown_timeout: What the child, or else its supervisor, was given; None for the default.
        listens: Whether the run has ever looked whether it is asked.

    Source: OTP, where a process that does not trap exits ends at once, whatever its ``shutdown``.
    """
    if shutdown_timeout is not None:
        return shutdown_timeout
    return LISTENER_TIMEOUT if listens else 0.0


def is_long_wait(asked_at: float | None, now: float) -> bool:
    """Return whether a run has been asked to stop for so long that the log should name it."""
    return asked_at is not None and now >= asked_at + LONG_WAIT


def next_look_at_stop(
    asked_at: float | None, cancel_at: float, overdue_after: float, *, long_wait_told: bool
) -> float:
    """Return when to look again for a run that was asked to stop, or cancelled, and is still there.

    Args:
        asked_at: When it was asked; None for a run that is cancelled without being asked.
        cancel_at: When it will be, or was, cancelled.
        overdue_after: The seconds after that at which it is next reported as overdue.
        long_wait_told: Whether the log has named it already.
    """
    report = cancel_at + overdue_after
    if asked_at is None or long_wait_told:
        return report
    return min(asked_at + LONG_WAIT, report)


# What does the watchdog say?


def look_again(now: float, late: float, *, once_granted: bool) -> float | None:
    """Return when to look again at a child without a sign of life; None if it has stalled.

    A look that comes late accuses no child: Trio's loop did not turn, so the child could not beat
    either. The child gets as many seconds more as the look was late, and again while looks are
    late.

    Args:
        now: The time of this look.
        late: The seconds by which this look is later than planned.
        once_granted: Whether the child was given more time before, since its last sign of life.
    """
    if late > PUNCTUAL or (late > 0 and not once_granted):
        return now + late
    return None
