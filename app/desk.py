"""The store as the agents of this daemon use it: what the last beat has told is not asked again.

Between two beats an agent need not ask the database whether there is a task, whether its claim
still holds, or who has a named lease. Where there was no beat for a while, each call goes to the
database as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import trio
from typing_extensions import override

from actp_supervise import Backoff
from actp_supervise.clock import SystemWallClock
from app.looks import USUAL
from app.store.protocol import Before, Lease, LeaseHolder, Store, StoreError, TaskRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actp_supervise.clock import WallClock
    from app.store.clock import StoreClock
    from app.store.protocol import ApprovalRow, Beat, TaskFilter, TaskStatus
    from app.store.verbs import Seconds

TASK_BACKOFF: Final = Backoff(initial=5.0, factor=4.0, maximum=3600.0)
"""How long a task waits after each attempt that failed; its agent does others meanwhile."""


@dataclass(slots=True)
class _Claim:
    """A claim that an agent of this daemon holds."""

    task: TaskRow
    wanted_until: float
    """Until when its worker may be taken to be at work, though it has not asked again."""
    lease: float
    """Seconds that it holds once it is prolonged."""
    prolonged_at: datetime
    """When it was last prolonged, by the wall clock."""
    state: Lease = Lease.HELD


@dataclass(slots=True)
class AskedLeases:
    """Named leases that the next beat asks for."""

    names: set[str] = field(default_factory=set)
    answered: trio.Event = field(default_factory=trio.Event)
    holders: dict[str, LeaseHolder] = field(default_factory=dict)
    error: StoreError | None = None


class Desk(Before):
    """A store that answers from the last beat what that beat has told.

    Args:
        store: The store behind it.
        clock: Told with each beat what the store's clock shows.
        fresh: Seconds for which a beat's answer is relied on.
        wall_clock: Tells that the machine has slept, or that its clock was set.
    """

    def __init__(
        self,
        store: Store,
        clock: StoreClock | None = None,
        *,
        fresh: float = USUAL.fresh,
        wall_clock: WallClock | None = None,
    ) -> None:
        super().__init__(store)
        self._fresh = fresh
        self._wall_clock = wall_clock or SystemWallClock()
        self._asked_at = self._wall_clock.now()
        self._clock = clock
        self.wake: Callable[[str], object] = lambda _: None
        """Called with an agent_id that has work, or a claim that ended."""
        self.wake_all: Callable[[], object] = lambda: None
        self._fresh_until = float("-inf")
        self._claims: dict[str, _Claim] = {}  # by token
        self._work: dict[str, int] = {}  # agent_id -> how often it was said to have work
        self._asked = AskedLeases()
        self._names: set[str] = set()  # of leases that were asked for before

    # For the beat.

    def tokens(self) -> list[str]:
        """Return the claims that are to be prolonged."""
        now, self._asked_at = trio.current_time(), self._wall_clock.now()
        self._claims = {
            token: claim for token, claim in self._claims.items() if claim.wanted_until > now
        }
        return [token for token, claim in self._claims.items() if claim.state is not Lease.LOST]

    def ask_for_leases(self) -> AskedLeases:
        """Return the named leases that this beat is to ask for; the next ones are for the next."""
        asked, self._asked = self._asked, AskedLeases()
        return asked

    def heard(self, beat: Beat, asked: AskedLeases, *, asked_at: float) -> None:
        """Take in what a beat has told.

        Args:
            beat: Its answer.
            asked: What it asked for, of `ask_for_leases`.
            asked_at: When it was sent, by Trio's time.
        """
        self._fresh_until = asked_at + self._fresh
        if self._clock is not None:
            self._clock.follow(beat.now, took=trio.current_time() - asked_at)
        for held in self._claims.values():
            held.prolonged_at = max(held.prolonged_at, self._asked_at)
        for ended in beat.ended:
            claim = self._claims.get(ended.token)
            if claim is not None:
                claim.state = ended.state
                self.wake(claim.task.agent_type)
        for agent_id in beat.work:
            self.note_work(agent_id)
        asked.holders = {
            lease.name: LeaseHolder(instance=lease.instance, worker_id=lease.worker_id)
            for lease in beat.leases
        }
        asked.answered.set()

    def missed(self, asked: AskedLeases, error: StoreError) -> None:
        """Note that a beat was not answered."""
        asked.error = error
        asked.answered.set()

    def note_work(self, agent_id: str) -> None:
        """Note that an agent's queue may have a task, and wake the agent."""
        self._work[agent_id] = self._work.get(agent_id, 0) + 1
        self.wake(agent_id)

    # For the agents.

    @override
    async def add_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
        not_before: datetime | None = None,
        timeout: float | None = None,
        unique_key: str | None = None,
    ) -> TaskRow:
        task = await self.store.add_task(
            task_id,
            agent_type,
            goal,
            context=context,
            priority=priority,
            max_attempts=max_attempts,
            not_before=not_before,
            timeout=timeout,
            unique_key=unique_key,
        )
        self.note_work(agent_type)
        return task

    @override
    async def retry_task(self, task_id: str) -> TaskRow | None:
        task = await self.store.retry_task(task_id)
        if task is not None:
            self.note_work(task.agent_type)
        return task

    @override
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: Seconds
    ) -> TaskRow | None:
        seen = self._work.get(agent_type, 0)
        if not seen and self._is_fresh():
            return None
        await self._prolong_what_a_sleep_has_ended(agent_type)
        asked_at = self._wall_clock.now()
        task = await self.store.claim_task(
            agent_type, worker_id=worker_id, instance=instance, token=token, lease=lease
        )
        if task is not None:
            wanted_until = trio.current_time() + lease / 2
            self._claims[token] = _Claim(task, wanted_until, lease, asked_at)
        elif self._work.get(agent_type, 0) == seen:  # else there came one meanwhile
            self._work.pop(agent_type, None)
        return task

    async def _prolong_what_a_sleep_has_ended(self, agent_type: str) -> None:
        """Prolong claims that are over by the wall clock alone, as after a sleep of the machine.

        No beat has come since. Else the first of an agent's workers that looks for a task would
        take those of its siblings, which are at work.
        """
        now, at = trio.current_time(), self._wall_clock.now()
        for token, claim in list(self._claims.items()):
            is_over = (at - claim.prolonged_at).total_seconds() >= claim.lease
            if claim.task.agent_type == agent_type and is_over and claim.wanted_until > now:
                claim.state = await self.store.renew_task(claim.task.id, token, lease=claim.lease)
                claim.prolonged_at = at

    @override
    async def renew_task(self, task_id: str, token: str, *, lease: Seconds) -> Lease:
        claim = self._claims.get(token)
        if claim is None or not self._is_fresh():
            return await self.store.renew_task(task_id, token, lease=lease)
        # The beat prolongs it; a worker that died without a word asks no more, and it runs out.
        claim.wanted_until = trio.current_time() + lease / 2
        return claim.state

    @override
    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        ended = await self.store.finish_task(task_id, token, status, result=result, error=error)
        self._claims.pop(token, None)
        return ended

    @override
    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: Seconds = 0.0,
        error: str | None = None,
    ) -> bool:
        claim = self._claims.get(token)
        if count_attempt and claim is not None:
            delay = max(delay, TASK_BACKOFF.delay(claim.task.attempts))
        released = await self.store.release_task(
            task_id, token, count_attempt=count_attempt, delay=delay, error=error
        )
        self._claims.pop(token, None)
        return released

    @override
    async def park_task(self, task_id: str, token: str) -> bool:
        parked = await self.store.park_task(task_id, token)
        self._claims.pop(token, None)
        return parked

    @override
    async def decide_approval(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str,
        comment: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> ApprovalRow | None:
        row = await self.store.decide_approval(
            approval_id,
            approve=approve,
            decided_by=decided_by,
            comment=comment,
            arguments=arguments,
        )
        if row is not None:
            self.note_work(row.agent_id)
        return row

    @override
    async def hold_lease(self, name: str, instance: str, *, lease: Seconds) -> LeaseHolder:
        if name not in self._names or not self._is_fresh():
            holder = await self.store.hold_lease(name, instance, lease=lease)
            self._names.add(name)
            return holder
        asked = self._asked
        asked.names.add(name)
        await asked.answered.wait()
        if asked.error is not None:
            raise asked.error
        if name in asked.holders:
            return asked.holders[name]
        return await self.store.hold_lease(name, instance, lease=lease)

    @override
    async def drop_lease(self, name: str, instance: str) -> None:
        self._asked.names.discard(name)
        await self.store.drop_lease(name, instance)

    @override
    async def retry_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        retried = await self.store.retry_tasks(which, limit=limit)
        self._forget_beat()
        return retried

    @override
    async def cancel_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        concerned = await self.store.cancel_tasks(which, limit=limit)
        self._forget_beat()
        return concerned

    @override
    async def cancel_task(self, task_id: str) -> TaskRow | None:
        task = await self.store.cancel_task(task_id)
        if task is not None and task.cancel_requested:
            for claim in self._claims.values():
                if claim.task.id == task_id and claim.state is Lease.HELD:
                    claim.state = Lease.CANCEL_REQUESTED
                    self.wake(claim.task.agent_type)
        return task

    def _forget_beat(self) -> None:
        """Make each agent ask the store itself: which tasks have changed is unknown."""
        self._fresh_until = float("-inf")
        self.wake_all()

    def _is_fresh(self) -> bool:
        return trio.current_time() < self._fresh_until
