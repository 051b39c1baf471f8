"""An agent in a process of its own, as the daemon sees it: `run_in_process`.

The process has no connection to the store. Each verb that its agent calls is done here, in the
daemon, so all that the daemon does with what passes through its store (events, metrics, an
operator's pause) holds unchanged, there is one connection, and one process that locks the database.
And what an agent has claimed is known here: when its process is killed its task goes back to the
queue at once, whoever killed it.

The process is asked to stop by SIGTERM. When its time is over it is killed with all that it has
started: its `finally` blocks do not run then.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import signal
import socket
import sys
from collections import deque
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise import current_child
from actp_supervise.process import MAX_LINE, ProcessExited, ProcessNotStarted, process_child
from app.agents.wire import VERBS, Kind, Wire, WireError, describe, read_plain
from app.agents.work import RELEASE_TIMEOUT
from app.store.protocol import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.agents.activity import Activity
    from app.agents.wire import Message, Work
    from app.store.protocol import TaskRow

logger = logging.getLogger(__name__)

LAST_WORDS: Final = 10
"""Lines of output that the error of a process that died shows."""

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
) -> None:
    """Run an agent, or one of its routines, in a process of its own, to its end.

    Args:
        work: What is to be run.
        store: The daemon's store.
        activity: Kept as the process reports it.
        wait_for_work: Returns after so many seconds, or sooner when a task was posted.

    Raises:
        AgentCrashedError: If it raised an error.
        AgentProcessError: If the process died.
        ProcessNotStarted: If there was none.
    """
    claims = Claims(store, activity)
    calls = {name: partial(claims.call, name) for name in VERBS} | {"wait_for_work": wait_for_work}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent = _AgentProcess(ours, activity, calls)
        why_back = None
        try:
            await agent.run(work, theirs)
        except AgentProcessError as error:
            why_back = f"while the agent did this: {error.in_short}"
            raise
        except Exception:
            why_back = "the agent crashed while it did this"
            raise
        finally:
            if current_child().stalled:
                why_back = f"the agent hung: {activity.what_is_missing()}"
            with trio.move_on_after(RELEASE_TIMEOUT, shield=True) as in_time:
                await claims.hand_back(why_back)  # noqa: ASYNC102
            if in_time.cancelled_caught:
                logger.warning("Task not handed back in time, its lease will end")


class Claims:
    """The store as an agent elsewhere uses it; knows which tasks that agent holds.

    Args:
        store: The daemon's.
        activity: The agent's.
    """

    def __init__(self, store: Store, activity: Activity) -> None:
        self._store = store
        self._activity = activity
        self._claiming: dict[str, Callable[[], Awaitable[TaskRow | None]]] = {}
        """By token: what claims the same task again, where there was no answer yet."""
        self._held: dict[str, str] = {}
        """token -> task"""

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Do what a verb of the store does."""
        verb = getattr(self._store, name)
        if name == "claim_task":
            if self._activity.held:
                return None
            return await self._claim(_token(name, args, kwargs), partial(verb, *args, **kwargs))
        answer = await verb(*args, **kwargs)
        if name in {"finish_task", "release_task"}:
            self._held.pop(_token(name, args, kwargs), None)
        return answer

    async def hand_back(self, error: str | None) -> None:
        """Hand back what is held still.

        Args:
            error: Why, where it counts as an attempt.
        """
        try:
            for token, task_id in self._held.items():
                await self._release(task_id, token, error)
            # An answer may have been lost; then this gets it, or a task that nobody has begun.
            for token, claim in self._claiming.items():
                task = await claim()
                if task is not None:
                    await self._release(task.id, token, None)
        except StoreError as failure:
            logger.warning("Task not handed back, its lease will end: %s", failure)

    async def _release(self, task_id: str, token: str, error: str | None) -> None:
        counts = error is not None
        await self._store.release_task(task_id, token, count_attempt=counts, error=error)

    async def _claim(
        self, token: str, claim: Callable[[], Awaitable[TaskRow | None]]
    ) -> TaskRow | None:
        self._claiming[token] = claim
        task = await claim()
        del self._claiming[token]
        if task is not None:
            self._held[token] = task.id
        return task


class _AgentProcess:
    """One process with an agent in it."""

    def __init__(
        self,
        sock: socket.socket,
        activity: Activity,
        calls: dict[str, Callable[..., Awaitable[Any]]],
    ) -> None:
        self._wire = Wire(sock)
        self._activity = activity
        self._calls = calls
        self._under_way: dict[int, trio.CancelScope] = {}
        self._offset = math.inf
        """What our clock shows when that of the process shows 0, or somewhat more."""
        self._ended: tuple[Any] | None = None
        """How the agent said that it ended."""
        self._nonsense: str | None = None
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)

    async def run(self, work: Work, theirs: socket.socket) -> None:
        """Start the process and serve it until it ends."""
        label = work.agent_id if work.method is None else f"{work.agent_id}.{work.method}"
        in_process = process_child(
            [sys.executable, "-u", "-m", "app.agents.process_main", label],
            stdin=theirs.fileno(),
            stop_group=False,  # what the agent started is its own to stop, once its work is done
            on_output=self._log,
        )
        self._wire.put(Kind.WORK, content=work)
        died: str | None = None
        not_started: ProcessNotStarted | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wire.send)
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
        (crash,) = self._ended
        if crash is not None:
            in_one_line, traceback = crash
            raise AgentCrashedError(f"{in_one_line}\n\nIn its process:\n\n{traceback.rstrip()}")

    async def _serve(
        self, nursery: trio.Nursery, living: trio.CancelScope, served: trio.Event
    ) -> None:
        """Do what the process asks for."""
        try:
            while (message := await self._wire.receive()) is not None:
                if message.kind is Kind.CALL:
                    nursery.start_soon(self._answer, message)
                elif message.kind is Kind.CANCEL:
                    if message.number in self._under_way:
                        self._under_way[message.number].cancel(reason="the agent gave it up")
                elif message.kind is Kind.STATE:
                    self._take_over(read_plain(message.content))
                elif message.kind is Kind.ENDED:
                    self._ended = (read_plain(message.content),)
        except WireError as error:
            self._nonsense = str(error)
            living.cancel(reason="the agent's process said what makes no sense")
        finally:
            served.set()

    def _take_over(self, state: dict[str, Any]) -> None:
        # Whatever was under way for the shortest time tells it best: ages must not be negative.
        self._offset = min(self._offset, trio.current_time() - state.pop("now"))
        self._activity.take_over(state, self._offset)

    async def _answer(self, message: Message) -> None:
        number = message.number
        with trio.CancelScope() as self._under_way[number]:
            try:
                name, args, kwargs = read_plain(message.content)
                answer = await self._calls[name](*args, **kwargs)
                self._wire.put(Kind.ANSWER, number, answer)
            except Exception as error:  # noqa: BLE001  (each is the caller's)
                self._wire.put(Kind.REFUSAL, number, describe(error))
        del self._under_way[number]

    def _log(self, line: str) -> None:
        """Log a line of output; those of the process's own log as what they are there."""
        record = _record(line)
        if record is None:
            self._last_words.append(line[:200])
            logger.info("%s", line, extra={"action": "agent_output"})
        else:
            logging.getLogger(record.name).handle(record)


_SIGNATURES: Final = {
    name: inspect.signature(getattr(Store, name))
    for name in ("claim_task", "finish_task", "release_task")
}


def _token(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    token: str = _SIGNATURES[name].bind(None, *args, **kwargs).arguments["token"]
    return token


def _record(line: str) -> logging.LogRecord | None:
    """Read a line of our log as JSON; None if it is none."""
    if not line.startswith('{"time": ') or len(line) >= MAX_LINE:
        return None
    try:
        fields = json.loads(line)
        level = logging.getLevelNamesMapping()[fields.pop("level").upper()]
        created = datetime.fromisoformat(fields.pop("time")).timestamp()
        name, text = str(fields.pop("logger")), fields.pop("message")
    # What an agent prints may look like a line of ours and be none.
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, OSError):
        return None
    except RecursionError:
        return None
    record = logging.LogRecord(name, level, "", 0, text, None, None)
    record.created = created
    error = fields.pop("error", None)
    record.exc_text = None if error is None else str(error)
    for key, value in fields.items():
        if not hasattr(record, key):
            setattr(record, key, value)
    return record


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
