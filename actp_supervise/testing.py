"""What a test of a supervised program wants.

A child that crashes on schedule, ways to wait for a state or an event, a wall clock that follows
Trio's, runs that a seed repeats, and programs that are killed between two checkpoints. All are for
virtual time: ``trio.run(..., clock=MockClock(autojump_threshold=0))``.
"""

from __future__ import annotations

import random
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, final

import trio
import trio._core._run as trio_scheduler  # has no public way to be seeded

from .checks import as_utc, check_seconds, is_number, shown
from .child import current_child, record_of
from .errors import SupervisionError
from .events import Event, EventStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .child import Child, ChildState
    from .nursery import Supervisor

EventT = TypeVar("EventT", bound=Event)
PosArgsT = TypeVarTuple("PosArgsT")


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


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """In the block, make Trio choose by a seed which of several tasks goes first.

    With ``trio.run(..., clock=MockClock(autojump_threshold=0))`` in the block, and all chance of
    the program taken from the generator that this gives, one seed gives one run, event for event.

    Args:
        seed: Any number.
    """
    # As Trio's own plugin for hypothesis does; there is no public way.
    choice = trio_scheduler._r  # noqa: SLF001
    state, was_sorted = choice.getstate(), getattr(trio_scheduler, _SORTED)
    choice.seed(seed)
    setattr(trio_scheduler, _SORTED, True)
    try:
        yield random.Random(seed)
    finally:
        setattr(trio_scheduler, _SORTED, was_sorted)
        choice.setstate(state)


_SORTED: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"


class Killed(Exception):
    """A program that was killed would have had an effect."""


@final
class Mortal:
    """One life of a program, which can be killed between any two of its checkpoints.

    The tasks of a killed process are gone; those of a Trio program cannot be dropped. So `kill`
    cancels the program, and from then on `check` raises `Killed`. Whatever stands for the outer
    world in the test, a database for one, calls `check` first, so that nothing has an effect that
    the cleanup of a killed program still tries. Start anew with another `Mortal`.
    """

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self.is_dead = False
        """Whether it was killed."""

    def kill(self) -> None:
        """Kill it, now."""
        self.is_dead = True
        self._scope.cancel(reason="it is killed")

    def check(self) -> None:
        """Raise `Killed` if it is dead."""
        if self.is_dead:
            raise Killed("this program was killed")

    async def run(
        self,
        async_fn: Callable[[*PosArgsT], Awaitable[object]],
        *args: *PosArgsT,
        kill_after: int | None = None,
    ) -> None:
        """Run the program to its end, or to its kill.

        Args:
            async_fn: The program.
            args: Its arguments.
            kill_after: How many steps of its tasks it has, each from one checkpoint to the next;
                None for as many as it likes.
        """
        life_of_context.set(self)
        with self._scope:
            try:
                if kill_after is not None:
                    after_steps(kill_after, self.kill, of=self.has)
                await async_fn(*args)
            except trio.Cancelled:
                raise
            except BaseException:
                if not self.is_dead:
                    raise

    def has(self, task: trio.lowlevel.Task) -> bool:
        """Return whether a task belongs to it."""
        return task.context.get(life_of_context) is self


life_of_context: ContextVar[Mortal] = ContextVar("actp_supervise_testing_life")
"""The life in which a task runs."""


def after_steps(
    steps: int,
    act: Callable[[], object],
    *,
    of: Callable[[trio.lowlevel.Task], bool] = lambda _task: True,
) -> Callable[[], None]:
    """Do something between two checkpoints, after a number of steps of tasks. Called in Trio.

    Args:
        steps: How many, each from one checkpoint of a task to its next.
        act: What is done; it must not raise.
        of: Which tasks' steps count.

    Returns:
        A function that gives it up.
    """
    instrument = _AfterSteps(steps, act, of)
    trio.lowlevel.add_instrument(instrument)
    return instrument.give_up


class _AfterSteps(trio.abc.Instrument):
    def __init__(
        self, steps: int, act: Callable[[], object], of: Callable[[trio.lowlevel.Task], bool]
    ) -> None:
        self._left = steps
        self._act = act
        self._of = of

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left > 0 and self._of(task):
            self._left -= 1
            if self._left == 0:
                self.give_up()
                self._act()

    def give_up(self) -> None:
        with suppress(KeyError):
            trio.lowlevel.remove_instrument(self)
