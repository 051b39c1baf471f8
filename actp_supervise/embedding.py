"""How the scheduler sits in its supervisor: the one place that knows the insides of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .events import Event
    from .nursery import Supervisor


class Embedding:
    """What the scheduler's parts need of its supervisor, beside what any user of one can do."""

    __slots__ = ("_ending", "_hub", "is_wanted", "supervisor")

    is_wanted: Callable[[type[Event]], bool]
    """Whether anything would see an event of a kind; asked before an event is made of much."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        engine = supervisor._engine  # noqa: SLF001  (until `nursery` has a name for it)
        self._ending = engine.ending
        self._hub = engine.hub
        self.is_wanted = engine.hub.wants

    @property
    def is_stopping(self) -> bool:
        """Whether the supervisor has begun to stop, so that it starts nothing any more."""
        return self._ending.begun

    def emit(self, kind: type[Event], *names: str, **details: object) -> None:
        """Send an event of the scheduler, or of the job named, where anything would see it."""
        if self.is_wanted(kind):
            self._hub.emit(kind, (*self.supervisor.path, *names), **details)
