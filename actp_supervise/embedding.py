"""How the scheduler sits in its supervisor: the one place that knows the inside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .nursery import engine_of

if TYPE_CHECKING:
    from .events import Event
    from .nursery import Supervisor


class Embedding:
    """What the scheduler's parts need of its supervisor, beside what any user of one can do."""

    __slots__ = ("_engine", "_hub", "is_enabled_for", "supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._engine = engine_of(supervisor)
        self._hub = self._engine.hub
        self.is_enabled_for = self._hub.is_enabled_for
        """Whether an event of a kind would reach anything; asked before much is made of one."""

    @property
    def is_stopping(self) -> bool:
        """Whether the supervisor has begun to stop, so that it starts nothing any more."""
        return self._engine.stopping

    def emit(self, kind: type[Event], *names: str, **details: object) -> None:
        """Send an event of the scheduler, or of the job named, where anything would see it."""
        if self.is_enabled_for(kind):
            self._hub.emit(kind, (*self.supervisor.path, *names), details)
