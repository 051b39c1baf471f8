"""Where fires are remembered beyond the life of a scheduler, and how a journal is asked.

A journal may be slow, or away for a while. `PatientJournal` asks it again and again, as long as it
makes sense; it is used inside children of a supervisor, which may be asked to stop meanwhile.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, final, runtime_checkable

import trio

from .child import current_child
from .events import logger
from .policies import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

T = TypeVar("T")

JOURNAL_TIMEOUT: Final = 5.0
"""Seconds that a journal has for an answer before it is asked again."""

JOURNAL_BACKOFF: Final = Backoff(initial=1.0, maximum=60.0)
"""How long to wait before a journal that failed is asked again."""


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
        """Return the latest moment of a job that was claimed by anybody; aware."""


@runtime_checkable
class RecoveringJournal(Journal, Protocol):
    """A journal that also knows of claims whose daemon died before it finished them."""

    async def take_interrupted(self, job_names: Collection[str]) -> Sequence[tuple[str, datetime]]:
        """Hand over such moments of these jobs: each goes to one caller, as if just claimed."""


@final
class MemoryJournal:
    """A journal that lives as long as the process: for tests, and across a scheduler's restarts.

    Args:
        keep: How many moments of each job are remembered, those claimed last.
    """

    def __init__(self, keep: int = 1000) -> None:
        self._keep = keep
        self._fires: dict[str, dict[datetime, tuple[str, str | None] | None]] = {}

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        """Claim one moment of one job; only the first caller gets True."""
        fires = self._fires.setdefault(job_name, {})
        if scheduled_at in fires:
            return False
        fires[scheduled_at] = None
        if len(fires) > self._keep:
            del fires[next(iter(fires))]
        return True

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment."""
        if scheduled_at in self._fires.get(job_name, ()):
            self._fires[job_name][scheduled_at] = (outcome, error)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""
        return max(self._fires.get(job_name, ()), default=None)

    def fires(self, job_name: str) -> tuple[tuple[datetime, str | None, str | None], ...]:
        """Return moment, outcome and error of a job's fires, by moment; None while it runs."""
        fires = sorted(self._fires.get(job_name, {}).items())
        return tuple((moment, *(result or (None, None))) for moment, result in fires)


class NoAnswer(Exception):
    """The journal did not answer while it was of use; the last error is the cause."""


@final
class PatientJournal:
    """Asks a journal until it answers, until that is of no use, or until its child is to stop.

    Each method raises `NoAnswer` in the last two cases. Moments go in and out in UTC.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def can_recover(self) -> bool:
        """Whether it knows of moments that a dead daemon left."""
        return isinstance(self._journal, RecoveringJournal)

    async def claim(
        self, job_name: str, moment: datetime, *, is_too_late: Callable[[], bool]
    ) -> bool:
        """Claim a moment."""
        return await _ask(
            partial(self._journal.claim, job_name, moment.astimezone(UTC)), is_useless=is_too_late
        )

    async def finished(
        self, job_name: str, moment: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment; a cancellation waits for the try under way."""
        await _ask(
            partial(self._journal.finished, job_name, moment.astimezone(UTC), outcome, error),
            shield=True,
        )

    async def try_finished(
        self, job_name: str, moment: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment, in one try and outside of any child."""
        try:
            await self._journal.finished(job_name, moment.astimezone(UTC), outcome, error)
        except Exception as problem:  # noqa: BLE001
            _log(problem)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment that was claimed, if any."""

        async def checked() -> datetime | None:
            last = await self._journal.last_fire(job_name)
            if last is not None and last.tzinfo is None:
                raise ValueError(f"last_fire answered with a naive moment, {last!r}")
            return last

        return await _ask(checked)

    async def take_interrupted(self, job_names: Collection[str]) -> Sequence[tuple[str, datetime]]:
        """Take over the moments that a dead daemon left; none where the journal knows of none."""
        if not isinstance(self._journal, RecoveringJournal):
            return ()
        return await _ask(partial(self._journal.take_interrupted, job_names))


async def _ask(
    call: Callable[[], Awaitable[T]],
    *,
    is_useless: Callable[[], bool] = lambda: False,
    shield: bool = False,
) -> T:
    child = current_child()
    for attempt in count(1):
        try:
            with trio.fail_after(JOURNAL_TIMEOUT, shield=shield):
                return await call()
        except Exception as error:  # noqa: BLE001  (whatever the user's journal raises)
            problem = error
        _log(problem)
        if child.stopping or is_useless():
            raise NoAnswer(f"the journal did not answer: {problem!r}") from problem
        with child.cancel_on_stop():
            await trio.sleep(JOURNAL_BACKOFF.delay(attempt))
    raise AssertionError  # count() has no end


def _log(problem: Exception) -> None:
    logger.warning("journal failed: %r", problem, extra={"action": "journal_failed"})
