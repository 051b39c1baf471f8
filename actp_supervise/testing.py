"""Helpers for tests of supervised programs.

A child that crashes on schedule, ways to wait for a state or an event, and a wall clock that
follows Trio's. All are for virtual time: ``trio.run(..., clock=MockClock(autojump_threshold=0))``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar, final

import trio

from .checks import as_utc, check_seconds, is_number, shown
from .child import current_child, record_of
from .errors import SupervisionError
from .events import Event, EventStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .child import Child, ChildState
    from .nursery import Supervisor

EventT = TypeVar("EventT", bound=Event)


def crashing(
    *lives: float, error: Callable[[], BaseException] = RuntimeError
) -> Callable[..., Awaitable[None]]:
    """Return a child's function that crashes on schedule, in place of a real one.

    Its n-th run lives the n-th of `lives`, then crashes; when they are used up, a run lives until
    it is asked to stop. Started with `Supervisor.start`, it is ready at once.

    Args:
        lives: Seconds.
        error: Makes what it crashes with.

    Example::

        supervisor.start_soon(crashing(0.0, 60.0), name="database")
    """
    schedule: Iterator[float] = iter(lives)

    async def crashing(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        life = next(schedule, None)
        with current_child().cancel_on_stop():
            if life is None:
                await trio.sleep_forever()
            else:
                await trio.sleep(life)
                raise error()

    return crashing


async def wait_for_state(child: Child, *states: ChildState) -> ChildState:
    """Wait until a child is in one of these states, and return which.

    Raises:
        SupervisionError: If its supervisor stops before that.
    """
    async with EventStream(record_of(child).home.hub, max_buffer=1) as news:
        while child.state not in states:
            if await anext(news, None) is None:
                raise SupervisionError(
                    f"child {child.name!r} is {child.state}, not {' or '.join(states)}, "
                    "and its supervisor is gone"
                )
    return child.state


async def wait_for_event(
    supervisor: Supervisor, kind: type[EventT], *, child: str | None = None
) -> EventT:
    """Wait for the next event of a kind from this supervisor or those below it, and return it.

    Args:
        supervisor: Where to listen.
        kind: Such as `events.ChildCrashed`.
        child: The name of the child that it has to be about; None for any.

    Raises:
        SupervisionError: If the supervisor stops before that.
    """
    async with supervisor.subscribe() as stream:
        async for event in stream:
            if isinstance(event, kind) and child in (None, event.path[-1]):
                return event
    about = "" if child is None else f" of child {child!r}"
    raise SupervisionError(f"no {kind.__name__}{about} before the supervisor was gone")


@final
class TrioWallClock:
    """A wall clock that follows Trio's and can be set, for tests in virtual time.

    With Trio's ``MockClock`` a year of schedules passes in moments.

    Args:
        start: What it shows now, or when it is first looked at if it is made outside `trio.run`;
            aware.

    Raises:
        TypeError: If `start` is no datetime.
        ValueError: If it is naive.
    """

    def __init__(self, start: datetime) -> None:
        self._start = as_utc(start, "start")
        self._zone = start.tzinfo
        try:
            self._since: float | None = trio.current_time()
        except RuntimeError:
            self._since = None
        self._callbacks: dict[object, Callable[[], object]] = {}

    def now(self) -> datetime:
        """Return the present moment, in the zone of `start`."""
        time = trio.current_time()
        if self._since is None:
            self._since = time
        elapsed = timedelta(seconds=time - self._since)
        return (self._start + elapsed).astimezone(self._zone)

    def step(self, seconds: float) -> None:
        """Set it forward, or back by a negative number, as a user or a laptop's sleep does.

        Raises:
            TypeError: If `seconds` is no number.
            ValueError: If it is not finite, or leads out of the calendar.
        """
        check_seconds("seconds", abs(seconds) if is_number(seconds) else seconds, finite=True)
        try:
            start = self._start + timedelta(seconds=seconds)
        except OverflowError:
            raise ValueError(
                f"seconds must not lead beyond the years 1 to 9999, not {seconds!r}"
            ) from None
        self._start = start
        for callback in tuple(self._callbacks.values()):
            callback()

    def on_step(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Register a callback for after each step; return a function that unregisters it.

        Raises:
            TypeError: If it cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {shown(callback)}")
        key = object()
        self._callbacks[key] = callback

        def unregister() -> None:
            self._callbacks.pop(key, None)

        return unregister
