"""The moments of one job that wait for the journal: claims to make, ends to report. No Trio."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .jobs import Entry
    from .schedule import Firing


@final
class Claims:
    """The moments of one job that the journal has a part in, and when it may be asked for them."""

    __slots__ = (
        "entry",
        "failures",
        "has_turn",
        "in_hand",
        "missed",
        "only_untold",
        "restored",
        "retry_at",
        "to_run",
        "untold",
    )

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.restored = False
        """Whether the journal has said where the job goes on."""
        self.to_run: deque[Firing] = deque()
        """Moments to claim and then run, oldest first; at most one where the job coalesces."""
        self.missed: deque[Firing] = deque()
        """Moments to claim only so that one daemon records them as missed."""
        self.in_hand: Firing | None = None
        """The moment whose claim is under way."""
        self.untold: deque[Firing] = deque()
        """Claimed moments that are over; how they ended is still to be reported to the journal."""
        self.only_untold = False
        """Whether the call that failed last was a report of an end: a claim may still be
        answered."""
        self.has_turn = False
        """Whether the job has a turn at the journal, or waits for one."""
        self.failures = 0
        """How often in a row the journal gave no answer for this job."""
        self.retry_at = 0.0
        """Trio's time before which the journal is not asked again."""

    def add(self, firings: Sequence[Firing]) -> None:
        """Add moments that have come due, oldest first."""
        to_run = [firing for firing in firings if firing.missed is None]
        if to_run and self.entry.spec.coalesce:
            while self.to_run:
                older = self.to_run.popleft()
                older.missed = _coalesced_into(to_run[-1])
                self.missed.append(older)
        self.missed += [firing for firing in firings if firing.missed is not None]
        self.to_run += to_run

    def put_back(self, firing: Firing) -> None:
        """Take back a moment whose claim got no answer, though the journal may have recorded it."""
        if firing.missed is None:
            firing.missed = self.why_superseded
        if firing.run is None and firing.missed is None:
            self.to_run.appendleft(firing)
        else:
            self.missed.appendleft(firing)

    @property
    def why_superseded(self) -> str | None:
        """Why moments older than these do not run, as the job coalesces; None if they run."""
        if self.to_run and self.entry.spec.coalesce:
            return _coalesced_into(self.to_run[-1])
        return None

    def let_go(self) -> list[Firing]:
        """Remove all moments that were still to be claimed, and return them."""
        firings = [*self.missed, *self.to_run]
        self.missed.clear()
        self.to_run.clear()
        return firings


def _coalesced_into(newer: Firing) -> str:
    return f"coalesced into the run of {newer.moment}"
