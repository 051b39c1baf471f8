"""A whole service: a supervisor, with signals, systemd and a watch on the loop around it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from actp_supervise.child import ChildState, record_of
from actp_supervise.errors import SupervisorClosedError
from actp_supervise.nursery import Supervisor, engine_of, open_supervisor

from .loop_watch import LoopWatch
from .signals import StopSignals
from .systemd import ServiceManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Unpack

    from actp_supervise.spec import SupervisorOptions

_WELL = frozenset(
    {ChildState.STARTING, ChildState.RUNNING, ChildState.FINISHED, ChildState.STOPPED}
)


@asynccontextmanager
async def open_service(
    *, environ: Mapping[str, str] = os.environ, **options: Unpack[SupervisorOptions]
) -> AsyncIterator[Supervisor]:
    """Run a supervisor as a service, until SIGTERM or SIGINT.

    The block is the start: when it is left, systemd is told ``READY=1``. From then on it is told
    what is wrong, and ``WATCHDOG=1`` while the loop turns. Code that blocks the loop is logged
    while it does, with its child and its stack. The first signal stops the children in reverse
    order, each with its own `shutdown_timeout` to finish what is in flight; a second cancels them.

    The signals stay handled to the end of the process.

    Args:
        environ: The environment, with what a service manager has put into it.
        options: Those of `open_supervisor`.

    Example:
        ::

            async with open_service(name="mail") as service:
                await service.start(serve_app, livez, "127.0.0.1", 8080, name="http")
                service.start_soon(deliver, name="deliver", shutdown_timeout=30.0)
    """
    signals = StopSignals()
    signals.register()
    manager = ServiceManager(environ)
    watch = LoopWatch()
    failure: Exception | None = None
    async with trio.open_nursery() as around:
        await around.start(watch.run)
        try:
            async with open_supervisor(**options) as supervisor:
                service = _Service(supervisor, signals, watch)
                around.start_soon(service.stop_when_asked, manager)
                try:
                    yield supervisor
                except SupervisorClosedError:  # a signal came during the start
                    if not service.stopping:
                        raise
                else:
                    await around.start(manager.run, service)
        except Exception as error:  # noqa: BLE001  (raised below, and bare: not in a group)
            failure = error
        around.cancel_scope.cancel(reason="the service has ended")
    if failure is not None:
        raise failure


class _Service:
    """A service as its manager sees it."""

    def __init__(self, supervisor: Supervisor, signals: StopSignals, watch: LoopWatch) -> None:
        self._supervisor = supervisor
        self._signals = signals
        self._watch = watch

    @property
    def stopping(self) -> bool:
        return self._signals.stop_event.is_set()

    def status_line(self) -> str:
        problem = self._watch.problem()
        children = self._supervisor.children
        wrong = [f"{each.name} {each.state}" for each in children if each.state not in _WELL]
        return "; ".join(([problem] if problem else []) + wrong) or f"{len(children)} children run"

    async def stop_when_asked(self, manager: ServiceManager) -> None:
        """Stop the children when a signal comes, and cancel them when another does."""
        await self._signals.stop_event.wait()
        manager.stopping()
        self._supervisor.request_shutdown()
        with self._signals.patience:
            await trio.sleep_forever()
        for child in self._supervisor.children:
            engine_of(self._supervisor).begin_stop(record_of(child), timeout=0.0)
