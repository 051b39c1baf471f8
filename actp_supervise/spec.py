"""What a job and a scheduler are started with, as frozen values. They check themselves.

An option is declared here, with its check, and stands once more in the call that takes it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import Final, ParamSpec, TypeVar

from .checks import check_count, check_flag, check_seconds, check_type, shown
from .clock import WallClock
from .events import Event
from .journal import Journal
from .runs import Overlap
from .triggers import as_timezone

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST_GRACE: Final = 1.0
"""Seconds. By a real clock every run is some milliseconds late, and some hundred where thousands of
jobs are due at once: with a shorter grace runs would be missed on a machine that is only busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """How a job is run: the options of `Scheduler.add`, beside its function, name and trigger."""

    misfire_grace: float
    """Seconds by which a run may be late; ``inf`` for any."""
    coalesce: bool
    overlap: Overlap
    jitter: float
    timeout: float | None
    rerun_interrupted: bool

    def __post_init__(self) -> None:
        grace = check_seconds("misfire_grace", self.misfire_grace, or_none=True)
        if grace < SHORTEST_GRACE:
            raise ValueError(
                f"misfire_grace must be at least {SHORTEST_GRACE:g} s, or None, not "
                f"{shown(self.misfire_grace)}: by a real clock every run is a little late, and "
                "would be missed; give None for any lateness"
            )
        check_flag("coalesce", self.coalesce)
        if not isinstance(self.overlap, Overlap):
            raise TypeError(f"overlap must be an Overlap, not {shown(self.overlap)}")
        jitter = check_seconds("jitter", self.jitter, finite=True)
        check_flag("rerun_interrupted", self.rerun_interrupted)
        set_field = object.__setattr__  # the way to do it in a frozen dataclass
        if self.timeout is not None:
            timeout = check_seconds("timeout", self.timeout, positive=True, or_none=True)
            set_field(self, "timeout", timeout)
        set_field(self, "misfire_grace", grace)
        set_field(self, "jitter", jitter)


def shared(make: Callable[P, T]) -> Callable[P, T]:
    """Return a maker of frozen values that makes one for equal arguments.

    A hundred thousand jobs have a handful of different options. Arguments are equal if they are of
    the same type too: 1 is no flag, although it is equal to True.
    """
    cached = lru_cache(maxsize=1000, typed=True)(make)

    def share(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return cached(*args, **kwargs)  # type: ignore[arg-type]
        except TypeError:  # of one that cannot be hashed: it is wrong, and `make` says so by name
            return make(*args, **kwargs)

    return share


job_spec: Final = shared(JobSpec)
"""Makes a `JobSpec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """What `open_scheduler` is given."""

    name: str
    timezone: tzinfo
    wall_clock: WallClock
    journal: Journal | None
    on_event: Callable[[Event], object] | None
    shutdown_timeout: float | None
    history: int
    rng: random.Random

    def __post_init__(self) -> None:
        check_name(self.name)
        as_timezone(self.timezone)
        check_wall_clock(self.wall_clock)
        if self.journal is not None:
            check_journal(self.journal)
        if self.on_event is not None and not callable(self.on_event):
            raise TypeError(f"on_event must be callable, or None, not {shown(self.on_event)}")
        if self.shutdown_timeout is not None:
            check_seconds("shutdown_timeout", self.shutdown_timeout, or_none=True)
        check_count("history", self.history, minimum=1)
        check_type("rng", self.rng, random.Random)


def check_name(value: object) -> None:
    """Raise an error that names the option, unless the value can be a name."""
    check_type("name", value, str)
    if not value:
        raise ValueError("name must not be empty")


def check_wall_clock(value: object) -> None:
    """Raise a `TypeError` that names the option, unless the value tells the time."""
    now = getattr(value, "now", None)
    if not callable(now) or inspect.isclass(value) or inspect.iscoroutinefunction(now):
        raise TypeError(
            f"wall_clock must be an object with the method now(), which is not async, or None, "
            f"not {shown(value)}"
        )


def check_journal(value: object) -> None:
    """Raise a `TypeError` that names the option, unless the value has a journal's three methods."""
    methods = ("claim", "finished", "last_fire")
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    if missing or inspect.isclass(value):
        raise TypeError(
            f"journal must be an object with the async methods {', '.join(methods)}, or None, "
            f"not {shown(value)}"
        )
