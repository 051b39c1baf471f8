"""What supervisors, children, schedulers and jobs are started with: options, each declared once.

An option is a field of the frozen value, with its default, its meaning and its check, and a line in
the `TypedDict` above it, which tells type checkers what ``start_soon(..., **options)`` takes.
"""

from __future__ import annotations

import difflib
import inspect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import tzinfo
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, final

from .checks import (
    check_count,
    check_name,
    check_seconds,
    check_sync_fn,
    check_type,
    is_async_fn,
    shown,
)
from .clock import SystemWallClock, WallClock, local_timezone
from .events import Event
from .journal import Journal
from .policies import (
    AutoShutdown,
    Backoff,
    Restart,
    RestartLimit,
    RestartPolicy,
    ShutdownOrder,
    Strategy,
)
from .runs import Overlap
from .triggers import as_timezone

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

SpecT = TypeVar("SpecT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class SupervisorOptions(TypedDict, total=False):
    """The options of `open_supervisor`; see `SupervisorSpec`."""

    name: str
    strategy: Strategy
    limit: RestartLimit | None
    backoff: Backoff
    shutdown_timeout: float | None
    shutdown_order: ShutdownOrder
    auto_shutdown: AutoShutdown
    on_event: Callable[[Event], object] | None
    rng: random.Random | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSpec:
    """What a supervisor is opened with.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a time is out of its range, or a name would spoil the printed tree.
    """

    name: str = "supervisor"
    """What it is called in events, logs and the printed tree."""
    strategy: Strategy = Strategy.ONE_FOR_ONE
    """Which children a restart takes with it."""
    limit: RestartLimit | None = RestartLimit()  # noqa: RUF009  (frozen)
    """How many restarts are too many; None never gives up."""
    backoff: Backoff = Backoff()  # noqa: RUF009  (frozen)
    """How long to wait before a restart; each child may have its own."""
    shutdown_timeout: float | None = None
    """Seconds that a child has to stop when asked, before it is cancelled; 0 cancels at once,
    ``inf`` waits for ever. None gives 5 s to a child that listens and cancels others at once. Each
    child may have its own."""
    shutdown_order: ShutdownOrder = ShutdownOrder.REVERSE
    """How the children are stopped at the end."""
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    """Whether it stops when significant children have ended."""
    on_event: Callable[[Event], object] | None = None
    """Called at once with each `Event` of this supervisor and those below; a plain function. An
    exception in it is logged and stops no child."""
    rng: random.Random | None = None
    """Where the backoff's jitter comes from; a fresh one where not given."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        for option, kind in (
            ("strategy", Strategy),
            ("backoff", Backoff),
            ("shutdown_order", ShutdownOrder),
            ("auto_shutdown", AutoShutdown),
        ):
            check_type(option, getattr(self, option), kind)
        if self.limit is not None:
            check_type("limit", self.limit, RestartLimit)
        if self.shutdown_timeout is not None:
            check_seconds("shutdown_timeout", self.shutdown_timeout)
        if self.on_event is not None:
            check_sync_fn("on_event", self.on_event)
        if self.rng is not None:
            check_type("rng", self.rng, random.Random)


class ChildOptions(TypedDict, total=False):
    """The options of `Supervisor.start_soon` and `Supervisor.start`; see `ChildSpec`."""

    restart: RestartPolicy
    backoff: Backoff | None
    shutdown_timeout: float | None
    watchdog: float | None
    significant: bool
    crash_ages: Sequence[float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What a child is started with, beside its name, function and arguments.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a time is out of its range, or a significant child is permanent.
    """

    restart: RestartPolicy = Restart.PERMANENT
    """When it is started again after it ended by itself: a `Restart`, or a pure function that
    returns a `Decision` for an `Exit`."""
    backoff: Backoff | None = None
    """How long to wait before a restart; the supervisor's where not given."""
    shutdown_timeout: float | None = None
    """Seconds to stop when asked; the supervisor's where not given."""
    watchdog: float | None = None
    """Seconds within which it must call ``current_child().beat()``, else it is cancelled as
    `Stalled`; None for no watchdog."""
    significant: bool = False
    """Whether its end counts for the supervisor's `auto_shutdown`."""
    crash_ages: tuple[float, ...] = ()
    """How many seconds ago it crashed before this program began; they count in the backoff's
    window."""
    reports_ready: bool = False
    """Whether it says itself when it is ready; given by `Supervisor.start`, not by callers."""
    temporary: bool = field(init=False)
    """Whether it leaves the supervisor's list when it ends."""

    def __post_init__(self) -> None:
        if not isinstance(self.restart, Restart):
            if not callable(self.restart):
                raise TypeError(
                    "restart must be of type Restart, or a function of an Exit, "
                    f"not {self.restart!r}"
                )
            check_sync_fn("restart", self.restart)
        if self.backoff is not None:
            check_type("backoff", self.backoff, Backoff)
        if self.shutdown_timeout is not None:
            check_seconds("shutdown_timeout", self.shutdown_timeout)
        if self.watchdog is not None:
            check_seconds("watchdog", self.watchdog, positive=True)
        check_type("significant", self.significant, bool)
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError("a significant child is never permanent: it would not end")
        for age in self.crash_ages:
            check_seconds("crash_ages", age)
        object.__setattr__(self, "temporary", self.restart is Restart.TEMPORARY)


def child_spec(function: str, *, reports_ready: bool, options: ChildOptions) -> ChildSpec:
    """Return the options of a child as a value; equal ones are one value, which saves memory.

    Args:
        function: What the caller called, for the message of an error.
        reports_ready: Whether the child says itself when it is ready.
        options: What the caller gave.

    Raises:
        TypeError, ValueError: As from `ChildSpec`.
    """
    try:
        return _shared_child_spec(reports_ready, **options)
    except TypeError:  # what cannot be hashed, or is wrong
        check_options(function, ChildOptions, options)
        given: dict[str, Any] = {**options}
        if "crash_ages" in given:
            given["crash_ages"] = _as_tuple("crash_ages", given["crash_ages"])
        return ChildSpec(reports_ready=reports_ready, **given)


@lru_cache(maxsize=256, typed=True)
def _shared_child_spec(reports_ready: bool, **options: Any) -> ChildSpec:  # noqa: ANN401, FBT001
    return ChildSpec(reports_ready=reports_ready, **options)


def _as_tuple(option: str, value: object) -> tuple[Any, ...]:
    try:
        return tuple(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{option} must be a sequence of numbers, not {value!r}") from None


class SchedulerOptions(TypedDict, total=False):
    """The options of `open_scheduler`; see `SchedulerSpec`."""

    name: str
    timezone: str | tzinfo | None
    wall_clock: WallClock | None
    journal: Journal | None
    on_event: Callable[[Event], object] | None
    shutdown_timeout: float | None
    history: int
    rng: random.Random | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """What a scheduler is opened with.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If the zone is unknown, or a number out of its range.
    """

    name: str = "scheduler"
    """What it is called in events, logs and the printed tree."""
    timezone: str | tzinfo | None = None
    """The zone of triggers that name none, as an IANA name or a tzinfo; the machine's where not
    given."""
    wall_clock: WallClock | None = None
    """What tells the time of day; the machine's clock where not given."""
    journal: Journal | None = None
    """Where fires are remembered. With it, moments that passed while no scheduler ran are made up
    for, and of several daemons that share it one fires each moment."""
    on_event: Callable[[Event], object] | None = None
    """Called at once with each `Event` of the scheduler and of its supervisor; a plain function. An
    exception in it is logged and stops no child."""
    shutdown_timeout: float | None = None
    """Seconds that a run has to stop when asked, before it is cancelled. None gives 5 s to a run
    that listens and cancels others at once."""
    history: int = 20
    """How many runs each `Job.history` keeps."""
    rng: random.Random | None = None
    """Where jitter comes from; a fresh one where not given."""
    zone: tzinfo = field(init=False)
    """The zone that `timezone` names."""
    clock: WallClock = field(init=False)
    """The clock that `wall_clock` names."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_count("history", self.history, minimum=1)
        if self.wall_clock is not None:
            check_wall_clock(self.wall_clock)
        if self.journal is not None:
            check_journal(self.journal)
        if self.on_event is not None:
            check_sync_fn("on_event", self.on_event)
        if self.shutdown_timeout is not None:
            check_seconds("shutdown_timeout", self.shutdown_timeout)
        if self.rng is not None:
            check_type("rng", self.rng, random.Random)
        zone = local_timezone() if self.timezone is None else as_timezone(self.timezone)
        object.__setattr__(self, "zone", zone)
        clock = SystemWallClock() if self.wall_clock is None else self.wall_clock
        object.__setattr__(self, "clock", clock)


def check_wall_clock(value: object) -> None:
    """Refuse what does not tell the time."""
    now = getattr(value, "now", None)
    if not callable(now) or inspect.isclass(value) or is_async_fn(now):
        raise TypeError(
            "wall_clock must be an object with the method now(), which is not async, or None, not "
            f"{shown(value)}"
        )


def check_journal(value: object) -> None:
    """Refuse what does not have a journal's three methods."""
    methods = ("claim", "finished", "last_fire")
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    if missing or inspect.isclass(value):
        raise TypeError(
            f"journal must be an object with the async methods {', '.join(methods)}, or None, not "
            f"{shown(value)}"
        )


class JobOptions(TypedDict, total=False):
    """The options of `Scheduler.add`; see `JobSpec`."""

    misfire_grace: float | None
    coalesce: bool
    overlap: Overlap
    jitter: float
    timeout: float | None
    rerun_interrupted: bool


SHORTEST_GRACE: Final = 1.0
"""Seconds. By a real clock every run is some milliseconds late, and some hundred where thousands of
jobs are due at once: with a shorter grace runs would be missed on a machine that is only busy."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """How a job is run, beside its name, function and trigger.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a number is out of its range.
    """

    misfire_grace: float | None = 3600.0
    """Seconds by which a run may be late, because the machine slept, the daemon was down, or it was
    busy; a later one is recorded as missed. At least 1; None for any."""
    coalesce: bool = True
    """Whether only the latest of several moments that are due at once runs; the others are recorded
    as missed."""
    overlap: Overlap = Overlap.SKIP
    """What happens when a run is due while the last still runs in this scheduler."""
    jitter: float = 0.0
    """Seconds by which the start of each run is put off at most, at random; it is always before the
    next moment."""
    timeout: float | None = None
    """Seconds after which a run is cancelled; None for no limit."""
    rerun_interrupted: bool = False
    """Whether a moment whose daemon died during the run is run again, unless it is too late."""
    grace: float = field(init=False)
    """The `misfire_grace`, ``inf`` for any."""

    def __post_init__(self) -> None:
        grace = math.inf
        if self.misfire_grace is not None:
            grace = check_seconds("misfire_grace", self.misfire_grace)
        if grace < SHORTEST_GRACE:
            raise ValueError(
                f"misfire_grace must be at least {SHORTEST_GRACE:g} s, or None, not "
                f"{shown(self.misfire_grace)}: by a real clock every run is a little late, and "
                "would be missed; give None for any lateness"
            )
        check_type("coalesce", self.coalesce, bool)
        if not isinstance(self.overlap, Overlap):
            raise TypeError(f"overlap must be an Overlap, not {shown(self.overlap)}")
        jitter = check_seconds("jitter", self.jitter, finite=True)
        check_type("rerun_interrupted", self.rerun_interrupted, bool)
        if self.timeout is not None:
            timeout = check_seconds("timeout", self.timeout, positive=True)
            object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "jitter", jitter)
        object.__setattr__(self, "grace", grace)


def job_spec(options: JobOptions) -> JobSpec:
    """Return the options of a job as a value; equal ones are one value, which saves memory.

    Raises:
        TypeError, ValueError: As from `JobSpec`.
    """
    try:
        return _shared_job_spec(**options)
    except TypeError:  # what cannot be hashed, or is wrong
        check_options("add", JobOptions, options)
        return JobSpec(**options)


@lru_cache(maxsize=256, typed=True)
def _shared_job_spec(**options: Any) -> JobSpec:  # noqa: ANN401
    return JobSpec(**options)


def check_options(function: str, allowed: type, options: object) -> None:
    """Refuse an option that does not exist, and name the one that was perhaps meant."""
    assert isinstance(options, dict)  # noqa: S101  (for mypy)
    known: list[str] = list(allowed.__annotations__)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function}() got an unexpected option {name!r}{hint}")


def takes_options_of(spec: type) -> Callable[[FunctionT], FunctionT]:
    """Show the fields of a spec as the options of a function, in ``help()`` and to tools."""

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=each.default,
                annotation=each.type,
            )
            for each in fields(spec)
            if each.init and each.name != "reports_ready"
        ]
        shown = signature.replace(parameters=[*own, *options])
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return decorate


def policy_name(policy: RestartPolicy) -> str:
    """Return what a restart policy is called in a snapshot."""
    return str(policy) if isinstance(policy, Restart) else name_of(policy)


def name_of(async_fn: object) -> str:
    """Return the name that a child or job gets from its function."""
    while isinstance(async_fn, partial):
        async_fn = async_fn.func
    name = str(getattr(async_fn, "__name__", type(async_fn).__name__))
    return name if name.strip() and name.isprintable() else ascii(name)


def free_name(base: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """Return a name that is not taken, numbered where it has to be.

    Args:
        base: The name where it is free.
        taken: The names that are not free.
        numbers: The last number given to each base; kept by the caller.
    """
    name = base
    while name in taken:
        numbers[base] = numbers.get(base, 1) + 1
        name = f"{base}-{numbers[base]}"
    return name
