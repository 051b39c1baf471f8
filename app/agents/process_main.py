"""The process of an agent that has one of its own; started by `app.agents.process`, by nobody else.

Its input is a socket to the daemon: from there comes what it is to run, with all secrets, so that
none is among its arguments, and over there goes what the agent asks of the store. Its output is its
log. The agent has the main thread, as in any program, so that it may handle signals. Trio has
another, so that it hears of a stop and of the daemon's death however the agent blocks; the agent's
heartbeat is nevertheless that of its own loop.

The daemon's death is noticed by the end of the socket. Linux's PR_SET_PDEATHSIG would be no help:
it speaks of the death of the thread that started the process.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from typing_extensions import override

from actp_supervise import Restart, Supervisor, open_supervisor
from actp_supervise.bridge import asyncio_child
from actp_supervise.service import bind_log_context
from app.agents.activity import Activity
from app.agents.contract import load_agent_class
from app.agents.host import run_agent, run_routine
from app.agents.own_hands import open_own_hands, wanted_of
from app.agents.setup import make_context
from app.agents.tool_list import listed_tools
from app.agents.traces import start_tracing, stop_tracing
from app.agents.wire import (
    MOST_TOOLS,
    Answer,
    Call,
    Crash,
    Ended,
    FromDaemon,
    GiveUp,
    HandsAre,
    Refusal,
    Report,
    Stop,
    Wait,
    Wire,
    WireError,
    Work,
    answer_of,
    call_of,
    error_of,
)
from app.logs import configure_logs
from app.store.protocol import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.hands import Hands
    from app.store.verbs import Arguments, R, Verb

REPORT_INTERVAL: Final = 0.05
"""Seconds between two reports of what the agent does, at least."""

HANDS_INTERVAL: Final = 1.0
"""Seconds between two looks whether the agent's tools are others, or work again."""

Jobs: TypeAlias = "queue.SimpleQueue[Callable[[], None]]"


def main() -> None:
    """Be the agent's process."""
    # What the agent starts must inherit neither the socket nor a wish to read from it.
    sock = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    configure_logs(sys.stderr, redact=str, as_json=True)
    # Told to all processes by a service manager, it is the daemon's to pass on.
    signal.signal(signal.SIGTERM, lambda *_: None)
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_run_trio, args=(sock, jobs), daemon=True).start()
    while True:
        jobs.get()()


def _run_trio(sock: socket.socket, jobs: Jobs) -> None:
    """Run the agent to its end, and then end the process, whatever the main thread is at."""
    status = 1
    try:
        trio.run(_main, sock, jobs)
        status = 0
    except BaseException:
        traceback.print_exc()
        raise  # to nobody: the process ends before
    finally:
        stop_tracing()
        logging.shutdown()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)  # threads that the agent has left behind are not waited for


async def _main(sock: socket.socket, jobs: Jobs) -> None:
    wire: Wire[FromDaemon] = Wire(sock, FromDaemon)
    work = await wire.receive()
    if not isinstance(work, Work):
        return
    sys.path[:] = work.modules
    bind_log_context(**work.log_fields)
    start_tracing(os.environ, work.setup.worker_id)
    activity = ReportedActivity(trio.lowlevel.current_clock().current_time)
    calls = Calls(wire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.take_answers)
        async with trio.open_nursery() as sending:
            sending.start_soon(wire.send)
            async with trio.open_nursery() as reporting:
                reporting.start_soon(_report, wire, activity)
                crash = await _live(work, calls, activity, jobs, wire)
                reporting.cancel_scope.cancel(reason="the agent has ended")
            wire.put(_report_of(activity))
            wire.put(Ended(crash))
            wire.close()
        nursery.cancel_scope.cancel(reason="all is sent")


async def _live(
    work: Work, calls: Calls, activity: Activity, jobs: Jobs, wire: Wire[FromDaemon]
) -> Crash | None:
    """Run the agent to its end; how it crashed, if it did."""
    crash = None
    ended = trio.Event()
    in_main = partial(_in_main_thread, jobs)

    async def life() -> None:
        nonlocal crash
        try:
            async with _own_hands(work, wire) as hands:
                await asyncio_child(_agent, isolation="thread", in_thread=in_main)(
                    work, calls, activity, hands
                )
        except Exception as error:  # noqa: BLE001  (the daemon is told)
            in_one_line = "".join(traceback.format_exception_only(error)).strip()
            crash = Crash(in_one_line, "".join(traceback.format_exception(error)))
        finally:
            ended.set()

    async with open_supervisor(name="process", limit=None, shutdown_timeout=math.inf) as tree:
        tree.start_soon(life, name=work.setup.agent_id, restart=Restart.TEMPORARY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_asked, calls, tree)
            await ended.wait()
            nursery.cancel_scope.cancel(reason="the agent has ended")
        await tree.shutdown()
    return crash


@asynccontextmanager
async def _own_hands(work: Work, wire: Wire[FromDaemon]) -> AsyncIterator[Hands | None]:
    """Open the tools that the file gives the agent, and tell the daemon which there are."""
    if not work.hands:
        yield None
        return

    async with trio.open_nursery() as nursery:

        def opened(hands: Hands) -> None:
            nursery.start_soon(_tell_of_hands, work, hands, wire)

        async with open_own_hands(wanted_of(work.hands), work.variables, opened) as hands:
            yield hands
            nursery.cancel_scope.cancel(reason="the agent has ended")


async def _tell_of_hands(work: Work, hands: Hands, wire: Wire[FromDaemon]) -> None:
    """Tell the daemon which tools there are, and again whenever that has changed, for ever."""
    cls = load_agent_class(work.setup.class_path)
    told: HandsAre | None = None
    while True:
        tools = listed_tools(cls, hands, work.setup.options.approve)
        now = HandsAre(tools[:MOST_TOOLS], hands.problems[:MOST_TOOLS])
        if now != told:
            wire.put(now)
            told = now
        await trio.sleep(HANDS_INTERVAL)


async def _in_main_thread(jobs: Jobs, function: Callable[[], None]) -> None:
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def job() -> None:
        try:
            function()
        finally:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(ended.set)

    jobs.put(job)
    await ended.wait()


async def _stop_when_asked(calls: Calls, tree: Supervisor) -> None:
    await calls.stop.wait()
    await tree.shutdown()


async def _agent(work: Work, calls: Calls, activity: Activity, hands: Hands | None) -> None:
    """Run the agent, or its routine; in asyncio."""
    cls = load_agent_class(work.setup.class_path)
    context = make_context(
        work.setup,
        store=DaemonStore(calls, work.where),
        activity=activity,
        wait_for_work=calls.wait_for_work,
        hands=hands,
        is_routine=work.method is not None,
    )
    if work.method is None:
        await run_agent(cls, context, work.setup.poll_interval)
    else:
        await run_routine(cls, context, work.method, work.goal)


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


async def _report(wire: Wire[FromDaemon], activity: ReportedActivity) -> None:
    while True:
        activity.changed = trio.Event()
        wire.put(_report_of(activity))
        await trio.sleep(REPORT_INTERVAL)
        await activity.changed.wait()


def _report_of(activity: Activity) -> Report:
    return Report(activity.state(), trio.current_time())


@dataclass(slots=True)
class _Asked:
    answered: trio.Event = field(default_factory=trio.Event)
    answer: Answer | Refusal | None = None


class Calls:
    """What the daemon is asked to do.

    Args:
        wire: The way there.
    """

    def __init__(self, wire: Wire[FromDaemon]) -> None:
        self.stop = trio.Event()
        """Set when the agent is to stop."""
        self._wire = wire
        self._numbers = count(1)
        self._open: dict[int, _Asked] = {}

    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        """Ask the daemon to do a verb of the store.

        Raises:
            StoreError: If the arguments cannot be handed over, or as the verb raises.
        """
        number = next(self._numbers)
        try:
            call = call_of(number, verb, arguments)
            answer = await self._ask(call)
        except WireError as error:
            raise StoreError(f"{verb.name}: {error}") from error
        result: R = answer_of(answer.content, verb)
        return result

    async def wait_for_work(self, seconds: float) -> None:
        """Wait so long, or until a task is posted."""
        await self._ask(Wait(next(self._numbers), seconds))

    async def _ask(self, call: Call | Wait) -> Answer:
        self._wire.put(call)
        asked = self._open[call.number] = _Asked()
        try:
            await asked.answered.wait()
        finally:
            del self._open[call.number]
            if not asked.answered.is_set():
                self._wire.put(GiveUp(call.number))
        if isinstance(asked.answer, Refusal):
            raise error_of(asked.answer.kind, asked.answer.text)
        assert asked.answer is not None  # noqa: S101  (for mypy)
        return asked.answer

    async def take_answers(self) -> None:
        """Hand on the answers, until the daemon is gone: then the process ends at once."""
        while (message := await self._wire.receive()) is not None:
            if isinstance(message, Stop):
                self.stop.set()
            elif not isinstance(message, Work):
                asked = self._open.get(message.number)
                if asked is not None:  # else it was given up meanwhile
                    asked.answer = message
                    asked.answered.set()
        os.killpg(0, signal.SIGKILL)  # with all that the agent has started


class DaemonStore(Store):
    """The daemon's store.

    Args:
        calls: The way to the daemon.
        where: Where the data is, in words.
    """

    def __init__(self, calls: Calls, where: str) -> None:
        self._calls = calls
        self._where = where

    @property
    @override
    def where(self) -> str:
        return self._where

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        return await self._calls.perform(verb, arguments)


if __name__ == "__main__":
    main()
