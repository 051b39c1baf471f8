"""The journal of a scheduler, which remembers fires when it is gone: the protocol, one in memory.

A journal may be slow, or away for a while. `JournalCalls` asks it one question, for a bounded time;
when it is asked again is in `turns`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, final, runtime_checkable

import trio

from .checks import as_utc, check_count, shown
from .events import log
from .runs import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

S = TypeVar("S")
T = TypeVar("T")

JOURNAL_TIMEOUT: Final = 5.0
"""Seconds that a journal has for an answer before it counts as away."""


class Journal(Protocol):
    """Where fires are remembered beyond the life of a scheduler, and shared by several daemons.

    Moments are in UTC. What a method raises is logged, and it is called again after a while.
    """

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        """Claim one moment of one job: exactly one of several daemons gets True.

        Asked again by the daemon that holds the claim, as after a lost answer, it is True again.
        """

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment."""

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed by any daemon; aware."""


@runtime_checkable
class RecoveringJournal(Journal, Protocol):
    """A journal that also knows of claims whose daemon died before it finished them."""

    async def take_interrupted(self, job_names: Collection[str]) -> Sequence[tuple[str, datetime]]:
        """Return claims of these jobs whose daemon died; each goes to one caller only."""


@runtime_checkable
class RememberingJournal(Journal, Protocol):
    """A journal that also remembers since when each job has had its schedule.

    With it, a deploy that changes a schedule is told from a daemon that was down.
    """

    async def scheduled_since(self, job_name: str, schedule: str, now: datetime) -> datetime | None:
        """Return since when a job has had this schedule; aware.

        Where the journal remembers another schedule of the job, it remembers this one from `now`
        on, and answers `now`. Where it remembers none, it does the same and answers None.
        """


@final
class MemoryJournal:
    """A journal that lives as long as the process: for tests, and across a scheduler's restarts.

    Args:
        keep: How many moments of each job are remembered, those claimed last.

    Raises:
        TypeError: If `keep` is no whole number.
        ValueError: If it is below 1.
    """

    def __init__(self, keep: int = 1000) -> None:
        check_count("keep", keep, minimum=1)
        self._keep = keep
        self._fires: dict[str, dict[datetime, tuple[str, str | None] | None]] = {}
        self._schedules: dict[str, tuple[str, datetime]] = {}

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        """Claim one moment of one job; only the first call gets True, as no answer is ever lost."""
        moment = as_utc(scheduled_at, "scheduled_at")
        fires = self._fires.setdefault(job_name, {})
        if moment in fires:
            return False
        fires[moment] = None
        if len(fires) > self._keep:
            del fires[next(iter(fires))]
        return True

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment."""
        moment = as_utc(scheduled_at, "scheduled_at")
        if moment in self._fires.get(job_name, ()):
            self._fires[job_name][moment] = (outcome, error)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""
        return max(self._fires.get(job_name, ()), default=None)

    async def scheduled_since(self, job_name: str, schedule: str, now: datetime) -> datetime | None:
        """Return since when a job has had this schedule, or None if it had none before."""
        known = self._schedules.get(job_name)
        if known is None or known[0] != schedule:
            self._schedules[job_name] = (schedule, now)
            return None if known is None else now
        return known[1]

    def fires(self, job_name: str) -> tuple[tuple[datetime, str | None, str | None], ...]:
        """Return moment, outcome and error of a job's fires, by moment; None while it runs."""
        fires = sorted(self._fires.get(job_name, {}).items())
        return tuple((moment, *(result or (None, None))) for moment, result in fires)


class JournalUnavailable(Exception):
    """The journal gave no answer, or a wrong one; the ``__cause__`` tells which."""


@final
class JournalCalls:
    """Asks a journal one question at a time, and each for a bounded time.

    What a method raises, and an answer that makes no sense, is logged and becomes a
    `JournalUnavailable`. Moments go in and out in UTC.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def can_recover(self) -> bool:
        """Whether the journal knows of moments that a dead daemon left."""
        return isinstance(self._journal, RecoveringJournal)

    async def claim(self, job_name: str, moment: datetime) -> bool:
        """Claim a moment."""
        call = partial(self._journal.claim, job_name, moment.astimezone(UTC))
        return await _ask("claim", call, _truth)

    async def finished(
        self, job_name: str, moment: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment."""
        call = partial(self._journal.finished, job_name, moment.astimezone(UTC), outcome, error)
        await _ask("finished", call, _nothing)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment that was claimed, if any."""
        call = partial(self._journal.last_fire, job_name)
        return await _ask("last_fire", call, _moment_or_none)

    async def scheduled_since(
        self, job_name: str, schedule: str | None, now: datetime
    ) -> datetime | None:
        """Return since when the job has had this schedule; None where the journal cannot tell."""
        if schedule is None or not isinstance(self._journal, RememberingJournal):
            return None
        call = partial(self._journal.scheduled_since, job_name, schedule, now.astimezone(UTC))
        return await _ask("scheduled_since", call, _moment_or_none)

    async def take_interrupted(self, job_names: Collection[str]) -> list[tuple[str, datetime]]:
        """Take over the moments that a dead daemon left; none where the journal knows of none."""
        if not isinstance(self._journal, RecoveringJournal):
            return []
        call = partial(self._journal.take_interrupted, job_names)
        return await _ask("take_interrupted", call, _moments_by_name)


async def _ask(verb: str, call: Callable[[], Awaitable[S]], read: Callable[[str, S], T]) -> T:
    problem: BaseException
    with trio.CancelScope(deadline=trio.current_time() + JOURNAL_TIMEOUT) as limit:
        try:
            return read(verb, await call())
        except Exception as error:  # noqa: BLE001  (whatever the user's journal raises)
            problem = error
        except BaseException as error:  # noqa: ASYNC103  (raised where it is no failure)
            if not _is_stray_cancellation(error):
                raise
            problem = error
    if limit.cancelled_caught:
        problem = trio.TooSlowError(f"no answer within {JOURNAL_TIMEOUT:g} s")
    why = describe(problem)
    log(logging.WARNING, "journal failed: %s: %s", verb, why, action="journal_failed")
    raise JournalUnavailable(f"the journal did not answer: {why}") from problem


def _is_stray_cancellation(error: BaseException) -> bool:
    """Return whether an error is a stray cancellation, as code under asyncio may raise one."""
    # asyncio's is known by its name: the library does not import asyncio for it.
    is_cancellation = isinstance(error, trio.Cancelled) or type(error).__name__ == "CancelledError"
    return is_cancellation and trio.current_effective_deadline() > trio.current_time()


# What is made of an answer.


def _nothing(verb: str, answer: object) -> None:
    pass


def _truth(verb: str, answer: object) -> bool:
    if answer is None:  # of a method that forgot its return, and by which nothing would ever run
        raise ValueError(f"{verb} answered with None")
    return bool(answer)


def _moment(verb: str, answer: object) -> datetime:
    if isinstance(answer, datetime) and answer.utcoffset() is None:
        raise ValueError(f"{verb} answered with a naive moment, {answer!r}")
    if not isinstance(answer, datetime):
        raise TypeError(f"{verb} answered with no moment, {shown(answer)}")
    return as_utc(answer, f"the answer of {verb}")


def _moment_or_none(verb: str, answer: datetime | None) -> datetime | None:
    return None if answer is None else _moment(verb, answer)


def _moments_by_name(
    verb: str, answer: Iterable[tuple[str, datetime]]
) -> list[tuple[str, datetime]]:
    return [(name, _moment(verb, moment)) for name, moment in answer]
