"""How a group of children is restarted together (`Strategy.ONE_FOR_ALL`, `REST_FOR_ONE`)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from .policies import Intent, affected, belongs_to_group
from .record import ChildState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .policies import Strategy
    from .record import ChildRecord, Run


class Actions(Protocol):
    """What `GroupRestart` asks the engine to do."""

    def request_stop(self, child: ChildRecord, intent: Intent) -> None:
        """Ask the run of a child to end."""

    def begin_run(self, child: ChildRecord) -> None:
        """Start a child that does not run."""

    def wait_with_group(self, child: ChildRecord) -> None:
        """Show a member that does not run as waiting for the others."""

    def wake_at(self, moment: float) -> None:
        """Call `GroupRestart.start_next` at a moment."""


class GroupRestart:
    """The children that are to be restarted together, and how far that has come.

    A child belongs to the group from the crash until it has been started again. Members stop in
    reverse start order, at once; when the longest of their delays is over they start in start
    order, each ready before the next. A child that fails meanwhile joins, with the children that
    its own restart takes along, so that some members may be stopped a second time.

    `step` does what need not wait; the supervisor calls it whenever anything has changed.

    Source:
        OTP's supervisor, which retries a group in the same way.
    """

    __slots__ = (
        "_actions",
        "_first",
        "_starting",
        "_stopping",
        "_strategy",
        "_to_start",
        "_to_stop",
        "_version",
        "members",
        "start_at",
    )

    def __init__(self, strategy: Strategy, actions: Actions) -> None:
        self._strategy = strategy
        self._actions = actions
        self.members: set[ChildRecord] = set()
        self.start_at = 0.0  # when the first member may start
        self._to_stop: deque[ChildRecord] = deque()  # in start order; stopped from the end
        self._to_start: list[ChildRecord] = []  # the members in reverse start order, once made
        self._stopping: Run | None = None  # the run asked last; the next one waits for its end
        self._starting: ChildRecord | None = None  # the member started last
        # While the supervisor's list has this version, all children from `_first` on in start order
        # are members already. So a thousand children that crash at once cost a thousand steps, and
        # not a million.
        self._version: int | None = None
        self._first = 0

    def __contains__(self, child: ChildRecord) -> bool:
        return child in self.members

    def awaits(self, child: ChildRecord) -> bool:
        """Return whether the group will start a child again; a temporary member is only stopped."""
        return child in self.members and not child.spec.temporary

    def join(
        self, failed: ChildRecord, moment: float, children: Sequence[ChildRecord], version: int
    ) -> None:
        """Take a failed child, and all that its strategy takes with it, into the group.

        Args:
            failed: The child that ended by itself.
            moment: When its delay is over.
            children: All of the supervisor's children, in start order.
            version: Counts up whenever one is added to them, or leaves the group.
        """
        if not self.members:  # a new restart
            self.start_at = moment
            self._version = None
            self._to_stop.clear()
        self.start_at = max(self.start_at, moment)
        taken: Sequence[ChildRecord] = (failed,)
        if version != self._version or failed.order < self._first:
            position = bisect_left(children, failed.order, key=_order)
            taken = affected(self._strategy, children, position)
            if version == self._version:  # those from `_first` on are members
                taken = taken[: bisect_left(taken, self._first, key=_order)]
            self._version, self._first = version, taken[0].order
        self._add(taken, failed)

    def _add(self, taken: Sequence[ChildRecord], failed: ChildRecord) -> None:
        new = [
            child
            for child in taken
            if child not in self.members
            and belongs_to_group(
                failed=child is failed,
                live=child.run is not None,
                stopped_by_user=child.stopped_by_user,
                gave_up=child.state is ChildState.FAILED,
            )
        ]
        self.members.update(new)
        self._to_start = []
        if new and self._to_stop and new[-1].order > self._to_stop[0].order:
            self._to_stop = deque(sorted({*self._to_stop, *new}, key=_order))
        else:
            self._to_stop.extendleft(reversed(new))
        for child in (failed, *new):
            if child.run is None:
                self._actions.wait_with_group(child)

    def disband(self) -> None:
        """Take all children out, because their supervisor stops."""
        self.members.clear()

    def skip_delay(self, now: float) -> None:
        """Cut the group's delay short."""
        self.start_at = min(self.start_at, now)

    def step(self, now: float) -> bool:
        """Take one step that needs no wait; return whether there was one."""
        if not self.members:
            return False
        if self._stop_one():
            return True
        if self._is_free_to_start():
            # Not started here but in a task of its own: so a member that fails in its very first
            # step (its configuration is bad) has failed before the next one is started.
            self._actions.wake_at(max(now, self.start_at))
        return False

    def start_next(self, now: float) -> None:
        """Start the next member, if it is time for that."""
        if self.members and self._is_free_to_start() and now >= self.start_at:
            child = self._next_to_start()
            self.members.remove(child)
            self._starting = child
            self._actions.begin_run(child)

    def _stop_one(self) -> bool:
        while self._to_stop:
            child = self._to_stop[-1]
            if child.run is None or child not in self.members:
                self._to_stop.pop()
            elif self._stopping is None or self._stopping.over:
                self._stopping = child.run
                self._actions.request_stop(child, Intent.GROUP)
                return True
            else:
                return False
        return False

    def _is_free_to_start(self) -> bool:
        """Return whether all members are gone, and the one started last is ready."""
        child = self._starting
        if self._to_stop:
            return False
        if child is None or child.run is None:
            return True
        being_restarted = child.run.intent is Intent.RESTART
        return not (being_restarted or child.state is ChildState.STARTING)

    def _next_to_start(self) -> ChildRecord:
        if not self._to_start:
            self._to_start = sorted(self.members, key=_order, reverse=True)
        while (child := self._to_start.pop()) not in self.members:
            pass  # it left the group
        return child


_order = attrgetter("order")
"""Return a child's place in start order."""
