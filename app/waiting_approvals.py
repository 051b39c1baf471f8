"""Approvals that wait for a person: counted, and ended when their time is over.

A person who has set no time-out is waited for without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.clock import SystemWallClock
from app.event_kinds import EventKind
from app.health import WaitingApproval
from app.looks import USUAL
from app.store.protocol import ApprovalStatus, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actp_supervise.clock import WallClock
    from app.event_log import LoggedEvent
    from app.store.protocol import ApprovalRow, Store

LOOK_IDLE: Final = 600.0
"""Seconds between two looks while none waits: what is asked in this daemon is seen at once, and who
asked elsewhere looks there. An idle daemon is to ask the store little."""

SHOWN: Final = 50
"""Waiting calls that the health looks at, the youngest; of more than these only their number is
asked for."""

NEWS: Final = frozenset({EventKind.APPROVAL_ASKED, EventKind.APPROVAL_DECIDED})
"""What makes a look worth while."""


class WaitingApprovals:
    """How many wait, in all daemons that share the store.

    Args:
        store: Where the approvals are.
        wall_clock: The time of day.
    """

    def __init__(self, store: Store, wall_clock: WallClock | None = None) -> None:
        self._store = store
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self.count = 0
        """As of the last look."""
        self._rows: Sequence[ApprovalRow] = ()
        self._news = trio.Event()

    def notice(self, event: LoggedEvent) -> None:
        """Look soon, where an event is about approvals."""
        if event.kind in NEWS:
            self._news.set()

    def waiting(self) -> list[WaitingApproval]:
        """Return the calls that wait, for the health."""
        now = self._wall_clock.now()
        return [
            WaitingApproval(row.agent_id, row.tool, (now - row.created_at).total_seconds())
            for row in self._rows
        ]

    async def watch(self, every: float = USUAL.approvals) -> None:
        """Look now and then, until cancelled.

        Args:
            every: Seconds between two looks while some wait.
        """
        while True:
            self._news = trio.Event()
            await self.look()
            with trio.move_on_after(every if self.count else max(every, LOOK_IDLE)):
                await self._news.wait()

    async def look(self) -> None:
        """End what is overdue and count the rest; while the store is away the last count stays."""
        try:
            rows = await self._store.approvals(status=ApprovalStatus.WAITING, limit=SHOWN)
            expired = {row.id for row in await self._store.expire_approvals()} if rows else set()
            waiting = [row for row in rows if row.id not in expired]
            is_all = len(rows) < SHOWN
            count = len(waiting) if is_all else await self._store.count_waiting_approvals()
        except StoreError:
            return
        self._rows, self.count = waiting, count
