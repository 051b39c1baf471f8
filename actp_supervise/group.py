"""How a group of children is restarted together (`Strategy.ONE_FOR_ALL`, `REST_FOR_ONE`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .child import ChildState, Intent
from .policies import Restart, affected

if TYPE_CHECKING:
    from .child import Child
    from .engine import Engine


class GroupRestart:
    """The children that are to be restarted together, and the task that does it.

    A child belongs to the group from the crash until it has been started again. Members stop in
    reverse start order, at once; when the longest of their delays is over they start in start
    order, each ready before the next. Whatever fails meanwhile joins, with the members that a
    restart of it takes along, so that some may be stopped a second time.

    Source:
        OTP's supervisor, which retries a group in the same way.
    """

    __slots__ = ("_engine", "_joined", "_members", "_news", "_running", "_start_at", "_starting")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._members: dict[Child, None] = {}
        self._start_at = 0.0
        self._starting: Child | None = None  # the member started last
        self._joined = False  # so that the orders of stopping and starting are to be made anew
        self._running = False
        self._news: trio.Event | None = None

    def __contains__(self, child: Child) -> bool:
        return child in self._members

    def awaits(self, child: Child) -> bool:
        """Say whether the group will start a member again: a temporary one it only stops."""
        return child in self._members and child.restart is not Restart.TEMPORARY

    def restart(self, failed: Child, delay: float) -> None:
        """Take a failed child and all that its strategy takes with it into the group."""
        engine = self._engine
        for member in affected(engine.strategy, engine.children, failed):
            # What somebody stopped stays stopped and what failed for good stays failed; but no
            # member starts while one that it may depend on is still on its way out.
            stays_out = member._held or member.state is ChildState.FAILED
            if member is failed or member.is_live or not stays_out:
                self._members[member] = None
        self._joined = True
        self._start_from(max(self._start_at, trio.current_time() + delay))
        if not self._running:
            self._running = True
            engine.spawn(self._run)

    def wait(self, child: Child) -> None:
        """Let a member that has ended wait for the others."""
        child.state = ChildState.BACKING_OFF
        child.restart_at = self._start_at

    def discard(self, child: Child) -> None:
        """Take a child out, if it is in: it will not be started again with the group."""
        if child in self._members:
            del self._members[child]
            self.look()

    def disband(self) -> None:
        """Take all children out, because their supervisor stops."""
        self._members.clear()
        self.look()

    def hurry(self) -> None:
        """Cut the group's delay short."""
        self._start_from(min(self._start_at, trio.current_time()))

    def _start_from(self, moment: float) -> None:
        self._start_at = moment
        for member in self._members:
            if not member.is_live:
                self.wait(member)
        self.look()

    def look(self) -> None:
        """Have the task look afresh, because a child has begun, got ready, ended, or left."""
        if self._news is not None:
            self._news.set()

    async def _run(self) -> None:
        while self._members:
            self._joined = False
            order = [child for child in self._engine.children if child in self._members]
            for child in reversed(order):
                await self._stop(child)
            for child in order:
                await self._start(child)
        self._start_at = 0.0
        self._running = False
        self._news = None

    async def _stop(self, child: Child) -> None:
        scope = child._scope
        if scope is not None and child in self._members and not self._joined:
            self._engine.ask(child, Intent.GROUP)
            await self._engine.see_off(child, scope)

    async def _start(self, child: Child) -> None:
        while child in self._members and not self._joined:
            self._news = trio.Event()
            if self._is_awaited(self._starting):
                await self._news.wait()
            elif trio.current_time() < self._start_at:
                with trio.move_on_at(self._start_at):
                    await self._news.wait()
            else:
                del self._members[child]
                self._starting = child
                self._engine.begin_run(child)

    @staticmethod
    def _is_awaited(child: Child | None) -> bool:
        """Whether the next member has to wait for this one, which is not ready yet."""
        if child is None:
            return False
        being_restarted = child.state is ChildState.STOPPING and child._intent is Intent.RESTART
        return being_restarted or child.state is ChildState.STARTING
