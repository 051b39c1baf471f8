"""How a supervisor ends: why, in which order its children stop, and what leaves its block."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from . import events as ev
from .child import ChildState, Intent
from .errors import sole
from .policies import ShutdownOrder

if TYPE_CHECKING:
    from .engine import Engine
    from .errors import RestartLimitExceeded


class Ending:
    """The end of one supervisor, which comes once."""

    __slots__ = (
        "_body",
        "_body_error",
        "_body_task",
        "_engine",
        "_failure",
        "_fatal",
        "_order",
        "begun",
        "closed",
    )

    def __init__(self, engine: Engine, order: ShutdownOrder, body: trio.CancelScope) -> None:
        self._engine = engine
        self._order = order
        self._body = body
        self._body_task = trio.lowlevel.current_task()
        self.begun = False  # from then on nothing is started
        self.closed = trio.Event()  # set when all children are gone
        self._failure: RestartLimitExceeded | None = None
        self._fatal: BaseException | None = None
        self._body_error: BaseException | None = None

    # It begins.

    def give_up(self, failure: RestartLimitExceeded) -> None:
        """Stop in order because the limit of restarts is exceeded."""
        self._failure = failure
        self.begin(f"supervisor {self._engine.name!r} gave up")

    def die(self, error: BaseException) -> None:
        """Stop in order because of an error that no supervisor handles, and pass it on."""
        if self._fatal is None:
            self._fatal = sole(error)
        if self.begun and isinstance(sole(error), KeyboardInterrupt):
            self.cancel_all()
        self.begin(f"supervisor {self._engine.name!r}: {type(self._fatal).__name__}")

    def shut_down(self) -> None:
        """Stop in order because somebody asks for it; if that is the body, it goes on."""
        self._begin()
        if trio.lowlevel.current_task() is not self._body_task:
            self._body.cancel(reason=f"supervisor {self._engine.name!r} was shut down")

    def begin(self, reason: str) -> None:
        """Stop in order, and cancel the body."""
        self._begin()
        self._body.cancel(reason=reason)

    def _begin(self) -> None:
        """Stop all children in order, in a task of its own."""
        if self.begun:
            return
        self.begun = True
        engine = self._engine
        engine.group.disband()
        for child in engine.children:
            if child.state is not ChildState.BACKING_OFF:
                continue
            if child.is_live:
                engine.ask(child, Intent.STOP)
            else:
                engine.stay_stopped(child)
        engine.spawn(self._stop_all)

    # The children are stopped.

    async def _stop_all(self) -> None:
        engine = self._engine
        children = engine.children
        if self._order is ShutdownOrder.TOGETHER:
            for child in children:
                engine.ask(child, Intent.STOP)
                if child._scope is not None:
                    engine.spawn(engine.see_off, child, child._scope)
        for child in reversed(children):
            scope = child._scope
            if scope is not None:
                engine.ask(child, Intent.STOP)
                await engine.see_off(child, scope)
        if engine.hub.wants(ev.SupervisorStopped):
            error = self._fatal or self._failure or self._body_error
            engine.hub.emit(ev.SupervisorStopped, engine.path, error=error)
        self.closed.set()
        engine.hub.close()

    def cancel_all(self) -> None:
        """Stop without asking, and all at once, down to the leaves."""
        for child in self._engine.children:
            self._engine.ask_soon(child, Intent.STOP, timeout=0.0)
            for subtree in child._subtrees:
                subtree.ending.cancel_all()

    # The block is left.

    @trio.lowlevel.enable_ki_protection
    async def close(self, error: BaseException | None) -> BaseException | None:
        """Leave the block: wait for the children, or stop them; return what is to be raised."""
        if error is None and not self.begun:
            parent = self._engine.parent
            try:
                with parent.cancel_on_stop() if parent else contextlib.nullcontext():
                    await self._engine.until_idle()
            except BaseException as interrupt:  # noqa: BLE001, ASYNC103  (returned, to be raised)
                error = interrupt
        if not isinstance(error, trio.Cancelled):
            self._body_error = error
        self._begin()
        while not self.closed.is_set():
            try:
                with trio.CancelScope(shield=True):  # bounded by the children's timeouts
                    await self.closed.wait()
            except KeyboardInterrupt as again:  # the second Ctrl-C
                error = again
                self.cancel_all()
        error = self._leaving(error)
        self._fatal = self._failure = self._body_error = None  # and the frames that they hold
        return error

    def is_because_of(self, error: BaseException) -> bool:
        """Whether an error leaves the block, as the cause why the supervisor gave up."""
        return self._failure is not None and self._failure.__cause__ is error

    def _leaving(self, error: BaseException | None) -> BaseException | None:
        failures = [e for e in (self._fatal, self._failure) if e is not None]
        if isinstance(self._fatal, KeyboardInterrupt) and isinstance(error, KeyboardInterrupt):
            error = None  # Ctrl-C twice is one
        if error is not None and not (failures and isinstance(error, trio.Cancelled)):
            failures.append(error)
        if len(failures) > 1:
            return BaseExceptionGroup(f"supervisor {self._engine.name!r} failed", failures)
        return failures[0] if failures else None
