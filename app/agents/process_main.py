"""The process of an agent that has one of its own; started by `app.agents.process`, by nobody else.

Its input is a socket to the daemon: from there comes what it is to run, with all secrets, so that
none is among its arguments, and over there goes what the agent asks of the store. Its output is its
log. The agent has a thread, so that this one hears of SIGTERM and of the daemon's death however the
agent blocks; its heartbeat is nevertheless that of its own loop.

The daemon's death is noticed by the end of the socket. Linux's PR_SET_PDEATHSIG would be no help:
it speaks of the death of the thread that started the process.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from typing_extensions import override

from actp_supervise import Restart, Supervisor, open_supervisor
from actp_supervise.bridge import asyncio_child, run_in_trio
from app.agents.activity import Activity
from app.agents.client import make_client
from app.agents.contract import AgentContext, load_agent_class
from app.agents.handle import agent_store
from app.agents.host import run_agent, run_routine
from app.agents.wire import VERBS, Kind, Wire, WireError, Work, error_of
from app.logs import bind_log_context, configure_logging, make_redactor
from app.store.protocol import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT_INTERVAL: Final = 0.05
"""Seconds between two reports of what the agent does, at least."""


def main() -> None:
    """Be the agent's process."""
    # What the agent starts must inherit neither the socket nor a wish to read from it.
    with socket.socket(fileno=os.dup(0)) as sock:
        with open(os.devnull) as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        configure_logging(sys.stderr, redact=str, as_json=True)
        trio.run(_main, sock)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)  # threads that the agent has left behind are not waited for


async def _main(sock: socket.socket) -> None:
    wire = Wire(sock)
    first = await wire.receive()
    if first is None:
        return
    work: Work = pickle.loads(first.content)  # noqa: S301  (the daemon's)
    sys.path[:] = work.modules
    bind_log_context(**work.log_fields)
    activity = ReportedActivity(trio.lowlevel.current_clock().current_time)
    calls = Calls(wire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.take_answers)
        async with trio.open_nursery() as sending:
            sending.start_soon(wire.send)
            async with trio.open_nursery() as reporting:
                reporting.start_soon(_report, wire, activity)
                crash = await _live(work, calls, activity)
                reporting.cancel_scope.cancel(reason="the agent has ended")
            wire.put(Kind.STATE, content=activity.state())
            wire.put(Kind.ENDED, content=crash)
            wire.close()
        nursery.cancel_scope.cancel(reason="all is sent")


async def _live(work: Work, calls: Calls, activity: Activity) -> tuple[str, str] | None:
    """Run the agent to its end; how it crashed, if it did: in one line, and the traceback."""
    crash = None
    ended = trio.Event()

    async def life() -> None:
        nonlocal crash
        try:
            await asyncio_child(_agent, isolation="thread")(work, calls, activity)
        except Exception as error:  # noqa: BLE001  (the daemon is told)
            in_one_line = "".join(traceback.format_exception_only(error)).strip()
            crash = in_one_line, "".join(traceback.format_exception(error))
        finally:
            ended.set()

    async with open_supervisor(name="process", limit=None, shutdown_timeout=math.inf) as tree:
        tree.start_soon(life, name=work.agent_id, restart=Restart.TEMPORARY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_asked, tree)
            await ended.wait()
            nursery.cancel_scope.cancel(reason="the agent has ended")
        await tree.shutdown()
    return crash


async def _stop_when_asked(tree: Supervisor) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await tree.shutdown()


async def _agent(work: Work, calls: Calls, activity: Activity) -> None:
    """Run the agent, or its routine; in asyncio."""
    cls = load_agent_class(work.class_path)
    context = AgentContext(
        agent_id=work.agent_id,
        model=work.model,
        worker_id=work.worker_id,
        instance=work.instance,
        run_id=work.run_id,
        store=agent_store(cast("Store", DaemonStore(calls, work.where)), activity),
        activity=activity,
        claude=partial(make_client, work.api_key, work.base_url),
        wait_for_work=partial(run_in_trio, calls.call, "wait_for_work"),
        prices=work.prices,
        daily_budget_usd=work.daily_budget_usd,
        timezone=work.timezone,
        task_lease=work.task_lease,
        redact=make_redactor(work.secrets),
    )
    if work.method is None:
        await run_agent(cls, context, work.poll_interval)
    else:
        await run_routine(cls, context, work.method)


class ReportedActivity(Activity):
    """What the agent does; `changed` when it has said something."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.changed = trio.Event()
        self._trio = trio.lowlevel.current_trio_token()

    @override
    def beat(self) -> None:
        super().beat()
        self._tell()

    @override
    def progress(
        self, doing: str, *, task_id: str | None = None, step: int = 0, within: float | None = None
    ) -> None:
        super().progress(doing, task_id=task_id, step=step, within=within)
        self._tell()

    @override
    def wait(self, doing: str, seconds: float) -> None:
        super().wait(doing, seconds)
        self._tell()

    @override
    def throttle(self, seconds: float, why: str) -> None:
        super().throttle(seconds, why)
        self._tell()

    @override
    def unthrottle(self) -> None:
        super().unthrottle()
        self._tell()

    @override
    def pause(self, reason: str, *, until: str | None = None) -> None:
        super().pause(reason, until=until)
        self._tell()

    def _tell(self) -> None:
        with suppress(trio.RunFinishedError):  # a thread may go on for a moment longer
            self._trio.run_sync_soon(self._note, idempotent=True)

    def _note(self) -> None:
        self.changed.set()


async def _report(wire: Wire, activity: ReportedActivity) -> None:
    while True:
        activity.changed = trio.Event()
        wire.put(Kind.STATE, content=activity.state())
        await trio.sleep(REPORT_INTERVAL)
        await activity.changed.wait()


@dataclass(slots=True)
class _Call:
    answered: trio.Event = field(default_factory=trio.Event)
    answer: Any = None
    error: Exception | None = None


class Calls:
    """What the daemon is asked to do.

    Args:
        wire: The way there.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._numbers = count(1)
        self._open: dict[int, _Call] = {}

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Have something done; in Trio.

        Raises:
            StoreError: If it cannot be handed over, or as the verb raises.
        """
        number = next(self._numbers)
        try:
            self._wire.put(Kind.CALL, number, (name, args, kwargs))
        except WireError as error:
            raise StoreError(f"{name}: {error}") from error
        call = self._open[number] = _Call()
        try:
            await call.answered.wait()
        finally:
            del self._open[number]
            if not call.answered.is_set():
                self._wire.put(Kind.CANCEL, number)
        if call.error is not None:
            raise call.error
        return call.answer

    async def take_answers(self) -> None:
        """Hand on the answers, until the daemon is gone: then the process ends at once."""
        while (message := await self._wire.receive()) is not None:
            call = self._open.get(message.number)
            if call is None:  # given up meanwhile
                continue
            content = pickle.loads(message.content)  # noqa: S301  (the daemon's)
            if message.kind is Kind.ANSWER:
                call.answer = content
            else:
                call.error = error_of(*content)
            call.answered.set()
        os.killpg(0, signal.SIGKILL)  # with all that the agent has started


class DaemonStore:
    """The daemon's store.

    Args:
        calls: The way to the daemon.
        where: Where the data is, in words.
    """

    def __init__(self, calls: Calls, where: str) -> None:
        self._calls = calls
        self.where = where

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (a verb of the store)
        if name not in VERBS:
            raise AttributeError(f"the store has no verb {name!r}")
        return partial(self._calls.call, name)


if __name__ == "__main__":
    main()
