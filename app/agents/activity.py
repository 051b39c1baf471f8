"""What an agent is doing: written in the agent's loop, read in Trio's thread.

Two clocks are kept apart. *Alive*: the agent's own loop turned (`beat`). *Progress*: it took a step
(a look at the queue, a turn, a tool call), or said until when it waits for something. An agent that
waits for a model, or is throttled until a known time, is alive and gets on; it is not stale.

Both are judged by one watchdog, that of the agent's child in the tree: each sign of life promises
the next one for as long as neither clock has run out (`vouch`).
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import trio

from actp_supervise.service import shorten
from app.facts import to_json
from app.looks import USUAL, next_look
from app.status import PAUSED_BY_OPERATOR, AgentHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAITING_FOR_STORE: Final = "waiting for the store"
"""What an agent does while the store is away."""

ALONE: Final = "at its own work"
"""What an agent does whose class has no way to us, and so to no task."""

STARTING: Final = "starting"
"""What an agent does until it says something else; code that only runs never does."""

BEATS_IN_TIME: Final = 9.0
"""Signs of life of which all but one may fail before an agent counts as hung."""

LATE: Final = 1.0
"""Seconds by which a sign of life may be late; more than that and the loop itself stood still."""

LONGEST_WAIT: Final = 366 * 86400.0
"""Seconds that an agent may say it waits; it may mean for ever, and no calendar holds that."""

Moment = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""What the clock of an agent's process may show."""

_MOST_TEXT: Final = 2000
# `cut` adds some words about what it left out.
_Text = Annotated[str, msgspec.Meta(max_length=_MOST_TEXT + 100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityState:
    """What an agent has set of its activity, as it crosses from a process of its own."""

    beat_at: Moment
    progress_at: Moment | None
    waiting_until: Moment | None
    throttled_since: Moment | None
    throttled_until: Moment | None
    throttled_why: _Text
    pid: int
    paused: _Text | None
    paused_until: _Text | None
    doing: _Text
    store_error: _Text | None
    task_id: _Text | None
    step: int
    tasks_done: int
    tasks_failed: int
    last_run_at: _Text | None
    spent_usd: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0


_SET_BY_AGENT: Final = tuple(field.name for field in fields(ActivityState))
_PAST: Final = ("beat_at", "progress_at", "throttled_since")
_TO_COME: Final = ("waiting_until", "throttled_until")


class Activity:
    """The doings of one run of an agent. Single assignments only, so no lock is needed.

    Args:
        clock: Trio's clock, as a function that any thread may call.
        threshold: Seconds without a beat, or without the progress that was due, after which it
            is hung.
        every: Seconds between two signs of life of its loop, at least.
        vouch: Called with each sign of life, in whatever thread that is given: promises the next
            one within so many seconds.
        signs: Gives them for all loops in Trio's thread; without it the agent's loop does.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        threshold: float = math.inf,
        every: float = USUAL.agents,
        vouch: Callable[[float], object] = lambda within: None,
        signs: SignsOfLife | None = None,
    ) -> None:
        self._clock = clock
        self._threshold = threshold
        self.signs = signs
        """What gives its loop's signs of life, where that loop turns in Trio's thread."""
        self.beat_interval = interval_of(threshold, every)
        """Seconds between two signs of life of its loop; fewer save work where there is time."""
        self.vouch = vouch
        self.pid = os.getpid()
        """The process that it runs in."""
        self.beat_at = clock()
        self.progress_at: float | None = None
        """When it last reported progress; None for code that never has, which then need not."""
        self.waiting_until: float | None = None
        self.throttled_since: float | None = None
        """Since when no call of the model has succeeded."""
        self.throttled_until: float | None = None
        self.throttled_why = ""
        self.paused: str | None = None
        """Why it takes no tasks, where it does not."""
        self.paused_until: str | None = None
        """When that ends by itself, ISO 8601 in UTC; None where somebody has to do something."""
        self.held = False
        """Whether an operator wants it to take none; set in Trio's thread."""
        self.doing = STARTING
        self.store_error: str | None = None
        """Why it waits for the store, while it does."""
        self.task_id: str | None = None
        self.step = 0
        self.tasks_done = 0
        self.tasks_failed = 0
        self.spent_usd = 0.0
        """What its calls of the model have cost."""
        self.last_run_at: str | None = None
        """When its last task ended, ISO 8601 in UTC."""
        self._calls = self._resting = 0
        self._doing_between = STARTING
        """What it did when it began to call the model."""

    # In the agent's loop.

    def beat(self) -> None:
        """Vouch for the loop: it turns."""
        now = self._clock()
        late = now - self.beat_at - self.beat_interval
        if late > LATE:  # blocked, or suspended with all the daemon: it could make no progress
            if self.progress_at is not None:
                self.progress_at += late
            if self.waiting_until is not None:
                self.waiting_until += late
        self.beat_at = now
        self._promise(now)

    def progress(
        self, doing: str, *, task_id: str | None = None, step: int = 0, within: float | None = None
    ) -> None:
        """Report a step.

        Args:
            doing: What it does now, for an operator.
            task_id: The task that it works on.
            step: The turn of the conversation.
            within: Seconds until the next step, where it may take longer than usual.
        """
        now = self._clock()
        self.doing = doing
        self.task_id = task_id
        self.step = step
        self.waiting_until = None if within is None else now + _bounded(within)
        self.throttled_until = None
        self.progress_at = now
        self._promise(now)

    def wait(self, doing: str, seconds: float) -> None:
        """Report that it waits so long; it stays at the same task and step.

        The store reports this too. So of code that has never reported progress it asks for none.
        """
        now = self._clock()
        self.doing = doing
        self.waiting_until = now + _bounded(seconds)
        self.throttled_until = None
        if self.progress_at is not None:
            self.progress_at = now
        self._promise(now)

    def throttle(self, seconds: float, why: str) -> None:
        """Report that the model makes it wait so long; it stays at the same task and step."""
        self.wait(f"waiting: {why}", seconds)
        self.throttled_until = self.waiting_until
        self.throttled_why = why
        if self.throttled_since is None:
            self.throttled_since = self._clock()

    def unthrottle(self) -> None:
        """Report that the model answers, or that nothing is asked of it."""
        self.throttled_since = None

    def pause(self, reason: str, *, until: str | None = None) -> None:
        """Report that it takes no more tasks, until then or until it is started anew."""
        self.paused = reason
        self.paused_until = until
        self.doing = "paused"
        self.task_id = None
        self.throttled_until = None
        self.unthrottle()  # it asks nothing of the model, so it does not wait for it either
        self._promise(self._clock())

    def resume(self) -> None:
        """Report that it takes tasks again."""
        self.paused = self.paused_until = None
        self.progress("idle")

    def unpause(self) -> None:
        """Report that what it waited for is over; no progress is expected of it by that."""
        self.paused = self.paused_until = None
        self.wait(self._doing_between, 0.0)

    # Calls of the model by a class that is the user's own.

    @property
    def takes_no_tasks(self) -> bool:
        """Whether it is paused, by itself or by an operator."""
        return self.held or self.paused is not None

    @property
    def is_resting(self) -> bool:
        """Whether all its calls of the model wait for something, so that none is under way."""
        return 0 < self._calls == self._resting

    def begin_call(self) -> None:
        """Report that it calls the model; each call is ended by `end_call`."""
        if not self._calls:
            self._doing_between = self.doing
        self._calls += 1

    def end_call(self) -> None:
        """Report that a call is over: it goes on with what it did before."""
        self._calls -= 1
        if not self._calls:
            self.wait(self._doing_between, 0.0)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Report, for the block, that a call waits until it may be made."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1

    # Between a process of the agent's own and the daemon.

    def state(self) -> ActivityState:
        """Return what the agent has set; times by this process's clock."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _SET_BY_AGENT}
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = shorten(value, _MOST_TEXT, ends=True)
        return ActivityState(**values)

    def take_over(self, state: ActivityState, offset: float) -> None:
        """Be as the agent has it elsewhere.

        Args:
            state: From there.
            offset: What this clock shows when that one shows 0.
        """
        now = self._clock()
        for name in _SET_BY_AGENT:
            value = getattr(state, name)
            if value is not None and name in _PAST:
                value = min(value + offset, now)
            elif value is not None and name in _TO_COME:
                value = min(value + offset, now + LONGEST_WAIT)
            setattr(self, name, value)
        self._promise(now)

    # What follows from it.

    def _promise(self, now: float) -> None:
        within = self._due(self._threshold) - now
        if within > 0:  # else it is hung already, though its loop turns
            self.vouch(within)

    def _due(self, threshold: float) -> float:
        """Return when the next sign of life is due, a beat or progress."""
        beat_due = self.beat_at + threshold
        if self.progress_at is None or self.paused is not None:
            return beat_due
        return min(beat_due, max(self.progress_at, self.waiting_until or 0.0) + threshold)

    def why_stale(self, threshold: float) -> str | None:
        """Return why the agent counts as hung, or None where it does not.

        Args:
            threshold: Seconds without a beat, or without the progress that was due.
        """
        return None if self._clock() <= self._due(threshold) else self.what_is_missing()

    def what_is_missing(self) -> str:
        """Return of which sign of life there was none for how long: the one that was due first."""
        now = self._clock()
        if self.progress_at is None or self.beat_at <= self._due(0.0):
            return f"its loop has not turned for {now - self.beat_at:.0f} s"
        return f"no progress for {now - self.progress_at:.0f} s while {self.doing}"

    def health(self) -> AgentHealth:
        """Return how the agent is doing; ages and waits in seconds."""
        now = self._clock()
        held, throttled = self.held, self.throttled_since is not None
        waits = None if self.throttled_until is None else max(0.0, self.throttled_until - now)
        return AgentHealth(
            doing=self.doing,
            store_error=self.store_error,
            task_id=self.task_id,
            step=self.step,
            heartbeat_age=_age(now, self.beat_at),
            progress_age=_age(now, self.progress_at),
            throttled_for=None if waits is None else round(waits, 3),
            throttled_age=_age(now, self.throttled_since),
            throttled_why=self.throttled_why if throttled else None,
            paused=PAUSED_BY_OPERATOR if held else self.paused,
            paused_until=None if held else _moment(self.paused_until),
            tasks_done=self.tasks_done,
            tasks_failed=self.tasks_failed,
            last_run_at=_moment(self.last_run_at),
        )

    def snapshot(self) -> dict[str, Any]:
        """Return its health as JSON, for the registry."""
        snapshot: dict[str, Any] = to_json(self.health())
        return snapshot


class SignsOfLife:
    """Signs of life of all asyncio loops that turn in Trio's thread.

    Such a loop turns as long as Trio's does, so one Trio task vouches for all of them. A timer in
    each loop would tell no more, and fifty of them cost more than all that an idle daemon does.
    """

    def __init__(self) -> None:
        self._given: dict[Activity, None] = {}  # in the order in which their loops began

    @contextmanager
    def given(self, activity: Activity) -> Iterator[None]:
        """Give an agent's signs of life for the block, in which its loop runs."""
        activity.beat()
        self._given[activity] = None
        try:
            yield
        finally:
            del self._given[activity]

    async def give(self, threshold: float, every: float = USUAL.agents) -> None:
        """Give them in Trio's loop, until cancelled.

        Args:
            threshold: Seconds without one after which an agent is hung.
            every: Seconds between two, at least.
        """
        interval = interval_of(threshold, every)
        while True:
            await trio.sleep_until(next_look(interval))
            for activity in self._given:
                activity.beat()


def interval_of(threshold: float, every: float) -> float:
    """Return the seconds between two signs of life of an agent's loop.

    >>> interval_of(90.0, 1.0), interval_of(6.0, 1.0), interval_of(math.inf, 1.0)
    (10.0, 1.0, 1.0)
    """
    return max(every, threshold / BEATS_IN_TIME) if threshold < math.inf else every


def _age(now: float, since: float | None) -> float | None:
    return None if since is None else round(now - since, 3)


def _moment(text: str | None) -> datetime | None:
    try:  # it may come from a process that writes what it likes
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _bounded(seconds: float) -> float:
    return seconds if seconds < LONGEST_WAIT else LONGEST_WAIT  # also where it is no number
