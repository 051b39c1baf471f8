"""What becomes of a job's moments: runs, their outcomes, and the events that tell of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, final

from .errors import LONGEST_MESSAGE, ErrorText, is_group, leaves_of, one_line
from .events import Event

MEMBERS_NAMED: Final = 3
"""How many members of a group of errors `describe` names; it counts the others."""

UNINFORMATIVE: Final = frozenset(
    {"", "Exceptions from Trio nursery", "unhandled errors in a TaskGroup"}
)
"""Messages of error groups that a nursery made: they say nothing of what failed, only their members
do."""


class Overlap(StrEnum):
    """What happens when a run is due while the last one of its job is still under way."""

    SKIP = "skip"
    """The new run is left out, and recorded as skipped."""
    QUEUE = "queue"
    """The new run waits for its turn. `misfire_grace` and `coalesce` apply to runs that wait."""
    REPLACE = "replace"
    """The run under way is stopped, as a child is stopped; then the new run begins."""
    ALLOW = "allow"
    """Both run."""


class Outcome(StrEnum):
    """How a run ended, or why there was none."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It raised."""
    TIMED_OUT = "timed_out"
    """It was cancelled after its job's `timeout`, even if it then returned or raised an error."""
    CANCELLED = "cancelled"
    """It was stopped: by the scheduler's end, or replaced."""
    SKIPPED = "skipped"
    """It never began: `Overlap.SKIP`, or its job was paused or removed while it waited."""
    MISSED = "missed"
    """It never began: too late by `misfire_grace`, or coalesced into a later one."""
    INTERRUPTED = "interrupted"
    """The daemon that ran it died before it ended."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What became of one moment of a job, or of one `Scheduler.run_now`.

    Two are equal if all of it is; moments are compared as points in time.
    """

    scheduled_at: datetime
    """The moment, by the schedule and without jitter."""
    started_at: datetime | None = None
    """By the wall clock; None if it never began."""
    finished_at: datetime | None = None
    """By the wall clock; None while it runs, and where the clock failed at its end."""
    outcome: Outcome | None = None
    """None while it runs."""
    error: str | None = None
    """One line on why it did not succeed."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: moments in ISO 8601."""
        return {
            "scheduled_at": self.scheduled_at.isoformat(),
            "started_at": None if self.started_at is None else self.started_at.isoformat(),
            "finished_at": None if self.finished_at is None else self.finished_at.isoformat(),
            "outcome": self.outcome,
            "error": self.error,
        }

    def __eq__(self, other: object) -> bool:
        return _key(self) == _key(other) if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(_key(self))


def _key(run: Run) -> tuple[object, ...]:
    # In UTC, since the two passes of an hour that comes twice are equal in their zone.
    moments = (run.scheduled_at, run.started_at, run.finished_at)
    instants = [None if moment is None else moment.astimezone(UTC) for moment in moments]
    return (*instants, run.outcome, run.error)


def describe(error: BaseException) -> str:
    """Return one line on what went wrong: of a group, what its members say."""
    if not is_group(error):
        return one_line(error)
    members = list(leaves_of(error))
    # Members that were cancelled are not what went wrong, unless there are no others.
    failed = [member for member in members if issubclass(type(member), Exception)] or members
    lines = list(dict.fromkeys(map(one_line, failed)))
    text = "; ".join(lines[:MEMBERS_NAMED])
    if len(lines) > MEMBERS_NAMED:
        text += f"; and {len(lines) - MEMBERS_NAMED} more"
    message = _MESSAGE.__get__(error)  # read past an override in the group's class
    if message not in UNINFORMATIVE:
        text = f"{message}: {text}"
    return text.partition("\n")[0][:LONGEST_MESSAGE]


_MESSAGE: Final[Any] = BaseExceptionGroup.__dict__["message"]


# Events, handed out with those of the scheduler's supervisor; a path ends with the job's name.


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunEvent(Event):
    run: Run

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        values = Event.to_dict(self)
        del values["run"]
        return values | self.run.to_dict()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(_RunEvent):
    """A run of a job began."""

    action: ClassVar[str] = "run_started"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(_RunEvent):
    """A run succeeded, or was stopped."""

    action: ClassVar[str] = "run_finished"
    level: ClassVar[int] = logging.INFO


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(_RunEvent):
    """A run failed, took longer than its timeout, or was interrupted."""

    action: ClassVar[str] = "run_failed"
    level: ClassVar[int] = logging.ERROR
    traceback: ErrorText | None
    """The formatted traceback, where it raised."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunMissed(_RunEvent):
    """A run that was due never began: it was missed or skipped."""

    action: ClassVar[str] = "run_missed"
    level: ClassVar[int] = logging.WARNING


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJumped(Event):
    """The wall clock and Trio's went apart: the wall clock was set, or the machine slept."""

    action: ClassVar[str] = "clock_jumped"
    level: ClassVar[int] = logging.WARNING
    seconds: float
    """By how much; negative if it was set back."""


EVENT_OF: Final = {
    Outcome.SUCCEEDED: RunFinished,
    Outcome.CANCELLED: RunFinished,
    Outcome.FAILED: RunFailed,
    Outcome.TIMED_OUT: RunFailed,
    Outcome.INTERRUPTED: RunFailed,
    Outcome.SKIPPED: RunMissed,
    Outcome.MISSED: RunMissed,
}
"""Which event tells of which outcome."""
