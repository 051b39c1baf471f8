"""An agent in a process of its own, as the daemon sees it: `run_in_process`.

The process has no connection to the store. Each verb that its agent calls is done here, in the
daemon, so all that the daemon does with what passes through its store (events, metrics, an
operator's pause) holds unchanged, there is one connection, and one process that locks the database.
And what an agent has claimed is known here: when its process is killed its task goes back to the
queue at once, whoever killed it.

The process is asked to stop by a message, and by SIGTERM, which its agent may handle. When its time
is over it is killed with all that it has started: its `finally` blocks do not run then.

It is trusted with nothing but its own work. Its messages are of known types, bounded in length,
number and pace; it has none of the verbs about daemons and other agents; what it reports of itself
is put into bounds; and whatever it prints is logged as its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from actp_supervise import current_child
from actp_supervise.process import ProcessExited, ProcessNotStarted, process_child
from actp_supervise.service import shorten
from app.agents.claims import open_claims
from app.agents.output import AgentOutput
from app.agents.wire import (
    Answer,
    Call,
    Ended,
    FromAgent,
    GiveUp,
    HandsAre,
    Refusal,
    Report,
    Stop,
    Wait,
    Wire,
    WireError,
    arguments_of,
    describe,
    encode,
)
from app.store.protocol import (
    Approvals,
    Journal,
    Ledger,
    Memory,
    Queue,
    Reviews,
    Store,
    StoreError,
    Tables,
)
from app.store.verbs import verbs_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from app.agents.activity import Activity
    from app.agents.wire import Work
    from app.store.verbs import Verb

logger = logging.getLogger(__name__)

LAST_WORDS: Final = 10
"""Lines of output that the error of a process that died shows."""

LONGEST_CRASH: Final = 20_000
"""Characters of a crash's text that are kept."""

AT_ONCE: Final = 64
"""Calls of one agent that are done at once; the next is read when one of them has ended."""

PACE: Final = 2000.0
"""Messages a second that are read, or as many times `PACED_BYTES`."""

PACED_BYTES: Final = 16_384

MOST_OF_NAME: Final = 200
MOST_OF_TEXT: Final = 500
"""Characters of what a process says of its tools."""

VERBS: Final[dict[str, Verb[Any]]] = {
    **{
        name: verb
        for noun in (Queue, Journal, Ledger, Memory, Tables)
        for name, verb in verbs_of(noun).items()
    },
    **{
        name: verbs_of(Approvals)[name]
        for name in ("ask_approval", "park_task", "approval", "approvals")
    },
    "reviews": verbs_of(Reviews)["reviews"],
    "ping": verbs_of(Store)["ping"],
}
"""What an agent in a process of its own may ask of the store: nothing about daemons and agents,
and no decision about what it has asked a person for."""

READ_REST: Final = 1.0
"""Seconds for what a process that has ended had still sent."""


class AgentCrashedError(RuntimeError):
    """The agent raised an error in its process; the message ends with it."""


class AgentProcessError(RuntimeError):
    """The agent's process died, or said what makes no sense."""

    def __init__(self, in_short: str, *last_words: str) -> None:
        super().__init__("\n  ".join([f"the agent's process {in_short}", *last_words]))
        self.in_short = f"its process {in_short}"


async def run_in_process(
    work: Work,
    *,
    store: Store,
    activity: Activity,
    wait_for_work: Callable[[float], Awaitable[None]],
    on_hands: Callable[[HandsAre], object] = lambda _: None,
) -> None:
    """Run an agent, or one of its routines, in a process of its own, to its end.

    Args:
        work: What is to be run.
        store: The daemon's store.
        activity: Kept as the process reports it.
        wait_for_work: Returns after so many seconds, or sooner when a task was posted.
        on_hands: Told which tools it has, and whenever that changes.

    Raises:
        AgentCrashedError: If it raised an error.
        AgentProcessError: If the process died.
        ProcessNotStarted: If there was none.
    """
    ours, theirs = socket.socketpair()
    async with open_claims(store, activity, why=_why_back) as claims:
        with ours, theirs:
            process = _AgentProcess(ours, activity, claims, wait_for_work, on_hands)
            await process.run(work, theirs)


def _why_back(error: Exception) -> str:
    if isinstance(error, AgentProcessError):
        return f"while the agent did this: {error.in_short}"
    return "the agent crashed while it did this"


class _AgentProcess:
    """One process with an agent in it.

    Args:
        sock: Our end of the socket to it.
        activity: The agent's.
        store: Does the verbs that it calls.
        wait_for_work: Returns after so many seconds, or sooner when a task was posted.
        on_hands: Told which tools it has.
    """

    def __init__(
        self,
        sock: socket.socket,
        activity: Activity,
        store: Store,
        wait_for_work: Callable[[float], Awaitable[None]],
        on_hands: Callable[[HandsAre], object] = lambda _: None,
    ) -> None:
        self._on_hands = on_hands
        self._wire: Wire[FromAgent] = Wire(sock, FromAgent)
        self._activity = activity
        self._store = store
        self._wait_for_work = wait_for_work
        self._free = trio.Semaphore(AT_ONCE)
        self._under_way: dict[int, trio.CancelScope] = {}
        self._offset = math.inf
        """What our clock shows when that of the process shows 0, or somewhat more."""
        self._ended: Ended | None = None
        """How the agent said that it ended."""
        self._nonsense: str | None = None
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)

    async def run(self, work: Work, theirs: socket.socket) -> None:
        """Start the process and serve it until it ends."""
        agent_id, method = work.setup.agent_id, work.method
        output = AgentOutput(agent_id, self._last_words.append)
        in_process = process_child(
            [
                sys.executable,
                "-u",
                "-m",
                "app.agents.process_main",
                agent_id if method is None else f"{agent_id}.{method}",
            ],
            stdin=theirs.fileno(),
            stop_group=False,  # what the agent started is its own to stop, once its work is done
            on_output=output.log,
        )
        self._wire.put(work)
        died: str | None = None
        not_started: ProcessNotStarted | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wire.send)
            nursery.start_soon(self._ask_to_stop)
            with trio.CancelScope() as living:
                served = trio.Event()
                nursery.start_soon(self._serve, nursery, living, served)
                try:
                    await in_process()
                except ProcessExited as error:
                    died = _how(error.returncode)
                except ProcessNotStarted as error:
                    not_started = error
            theirs.close()  # no other copy is left, so reading comes to an end
            with trio.move_on_after(READ_REST):
                await served.wait()
            nursery.cancel_scope.cancel(reason="the process has ended")
        if not_started is not None:  # and bare: not in the nursery's group
            raise not_started
        self._judge(work, died)

    def _judge(self, work: Work, died: str | None) -> None:
        """Raise what is wrong with the end of the process, if anything is."""
        if self._nonsense is not None:
            raise AgentProcessError(f"said what it must not: {self._nonsense}")
        if died is not None:
            raise AgentProcessError(died, *self._last_words)
        if self._ended is None:
            if work.method is None and current_child().stopping:  # asked before it had begun
                return
            raise AgentProcessError("ended without a word")
        crash = self._ended.crash
        if crash is not None:
            in_one_line = shorten(crash.in_one_line, ends=True)
            traceback = shorten(crash.traceback, LONGEST_CRASH, ends=True)
            raise AgentCrashedError(f"{in_one_line}\n\nIn its process:\n\n{traceback.rstrip()}")

    async def _ask_to_stop(self) -> None:
        with current_child().cancel_on_stop():
            await trio.sleep_forever()
        self._wire.put(Stop())

    async def _serve(
        self, nursery: trio.Nursery, living: trio.CancelScope, served: trio.Event
    ) -> None:
        """Do what the process asks for."""
        ahead = trio.current_time()
        """By when, at this pace, what was read should have come."""
        try:
            while (message := await self._wire.receive()) is not None:
                await self._take(message, nursery)
                now = trio.current_time()
                ahead = max(ahead, now - 1.0) + (1 + self._wire.last_size / PACED_BYTES) / PACE
                await trio.sleep(max(0.0, ahead - now))
        except WireError as error:
            self._nonsense = str(error)
            living.cancel(reason="the agent's process said what makes no sense")
        finally:
            served.set()

    async def _take(self, message: FromAgent, nursery: trio.Nursery) -> None:
        match message:
            case Call() | Wait():
                if message.number in self._under_way:
                    raise WireError(f"call {message.number} is under way already")
                await self._free.acquire()
                self._under_way[message.number] = trio.CancelScope()
                nursery.start_soon(self._answer, message)
            case GiveUp():
                if message.number in self._under_way:
                    self._under_way[message.number].cancel(reason="the agent gave it up")
            case Report():
                # What was under way for the shortest time tells it best.
                self._offset = min(self._offset, trio.current_time() - message.now)
                self._activity.take_over(message.state, self._offset)
            case HandsAre():
                self._on_hands(_bounded(message))
            case Ended():
                self._ended = message

    async def _answer(self, message: Call | Wait) -> None:
        """Do a call, and have its answer sent, before another call may take its place."""
        number = message.number
        with self._under_way[number]:
            try:
                content = msgspec.Raw(encode(await self._do(message)))
                is_sent = self._wire.put(Answer(number, content))
            except Exception as error:  # noqa: BLE001  (each is the caller's)
                is_sent = self._wire.put(Refusal(number, *describe(error)))
            await is_sent.wait()
        del self._under_way[number]
        self._free.release()

    async def _do(self, message: Call | Wait) -> object:
        if isinstance(message, Wait):
            await self._wait_for_work(message.seconds)
            return None
        verb = VERBS.get(message.verb)
        if verb is None:
            raise StoreError(f"{shorten(message.verb, 100)!r} is not for an agent to call")
        return await verb.ask(self._store, arguments_of(message, verb))


def _bounded(told: HandsAre) -> HandsAre:
    """Return what a process says of its tools, with each text cut short."""
    tools = (
        dataclasses.replace(
            tool,
            name=shorten(tool.name, MOST_OF_NAME),
            source=shorten(tool.source, MOST_OF_NAME),
            effect=None if tool.effect is None else shorten(tool.effect, MOST_OF_NAME),
            approval=shorten(tool.approval, MOST_OF_NAME),
            description=shorten(tool.description, MOST_OF_TEXT),
        )
        for tool in told.tools
    )
    problems = (shorten(problem, MOST_OF_TEXT) for problem in told.problems)
    return HandsAre(tuple(tools), tuple(problems))


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
