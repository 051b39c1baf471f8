"""When a reason is told: once when it has lasted, and once when it is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from app.reasons import Name, Reason, ReasonKind
from app.web.words import duration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

LASTS: Final = timedelta(minutes=1)
"""How long a reason has to last before it is told, and to be gone before it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Over:
    """A reason that was told and holds no more."""

    reason: Reason
    at: datetime
    """When it was first seen to be gone."""


@dataclass(frozen=True, slots=True)
class News:
    """What is to be told at one time."""

    begun: tuple[Reason, ...] = ()
    over: tuple[Over, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.begun or self.over)

    def __add__(self, other: News) -> News:
        return News(self.begun + other.begun, self.over + other.over)

    def for_channel(self, channel: str) -> News:
        """Return what a channel is to tell: all but that it does not work itself."""

        def is_its_own(reason: Reason) -> bool:
            return reason.key is ReasonKind.ALERTS_FAILING and reason.what == channel

        return News(
            tuple(each for each in self.begun if not is_its_own(each)),
            tuple(each for each in self.over if not is_its_own(each.reason)),
        )

    def message(self, worker: str, zone: tzinfo) -> Message:
        """Put it into words.

        Args:
            worker: What the daemon is called.
            zone: In which times of day are told.
        """
        lines = [
            f"{each.text}{_since(each, zone)}\n  What to do: {each.advice}" for each in self.begun
        ]
        lines += [f"Over: {each.reason.text}{_lasted(each)}" for each in self.over]
        counts = [
            f"{len(self.begun)} new" if self.begun else "",
            f"{len(self.over)} over" if self.over else "",
        ]
        title = f"{worker}: {', '.join(filter(None, counts))}"
        return Message(title=title, body="\n".join(lines))


def _since(reason: Reason, zone: tzinfo) -> str:
    if reason.since is None:
        return ""
    return f" (since {reason.since.astimezone(zone):%H:%M %Z})"


def _lasted(over: Over) -> str:
    since = over.reason.since
    return "" if since is None else f" (it lasted {duration((over.at - since).total_seconds())})"


class Plan:
    """What is known to have been told, and what is to be told next.

    Args:
        told: The reasons that were told earlier and are not over yet.
    """

    def __init__(self, told: Iterable[Reason] = ()) -> None:
        self._told = {reason.name: reason for reason in told}
        self._seen: dict[Name, datetime] = {}
        self._gone: dict[Name, datetime] = {}

    @property
    def told(self) -> tuple[Reason, ...]:
        """What was told and is not over."""
        return tuple(self._told.values())

    def look(self, reasons: Iterable[Reason], now: datetime, *, quiet: bool = False) -> News:
        """Take up what holds now, and return what is to be told.

        What begins and ends within the quiet hours is never told, what lasts is told after them.

        Args:
            reasons: Those that hold now.
            now: The present moment.
            quiet: Whether nothing may be told just now.
        """
        holds = {reason.name: reason for reason in reasons}
        self._seen = {name: self._seen.get(name, now) for name in holds}
        gone = self._told.keys() - holds
        self._gone = {name: self._gone.get(name, now) for name in self._told if name in gone}
        if quiet:
            return News()
        begun = [
            reason
            for name, reason in holds.items()
            if name not in self._told and now - self._seen[name] >= LASTS
        ]
        over = [Over(self._told[name], at) for name, at in self._gone.items() if now - at >= LASTS]
        self._told.update((reason.name, reason) for reason in begun)
        for each in over:
            del self._told[each.reason.name]
        return News(tuple(begun), tuple(over))


def is_quiet(hours: tuple[time, time] | None, now: datetime, zone: tzinfo) -> bool:
    """Whether a moment is within hours of a zone, which may go over midnight.

    >>> from datetime import UTC
    >>> night, day = (time(22), time(7)), (time(9), time(17))
    >>> [is_quiet(night, datetime(2026, 1, 1, hour, tzinfo=UTC), UTC) for hour in (21, 22, 3, 7)]
    [False, True, True, False]
    >>> [is_quiet(day, datetime(2026, 1, 1, hour, tzinfo=UTC), UTC) for hour in (8, 9, 16, 17)]
    [False, True, True, False]
    """
    if hours is None:
        return False
    begin, end = hours
    moment = now.astimezone(zone).time()
    return begin <= moment < end if begin < end else moment >= begin or moment < end
