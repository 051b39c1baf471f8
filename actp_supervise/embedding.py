"""What the scheduler uses of its supervisor; no other module of it reaches the engine."""

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
        """Whether an event of a kind would reach a callback, a stream or the log."""

    @property
    def is_stopping(self) -> bool:
        """Whether the supervisor has begun to stop, so that it starts nothing any more."""
        return self._engine.stopping

    def emit(self, kind: type[Event], *names: str, **details: object) -> None:
        """Send an event of the scheduler, or of the job named, where anything would see it."""
        if self.is_enabled_for(kind):
            self._hub.emit(kind, (*self.supervisor.path, *names), details)
