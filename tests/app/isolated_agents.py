"""Agents that run in processes of their own, for the tests; what they do is told by their task."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from agents_at_work import QuickAgent

from actp_supervise import current_child
from app.agents.outcomes import HandBack, Outcome, RoutineFailedError
from app.agents.work import Worker

if TYPE_CHECKING:
    from app.store.protocol import TaskRow

logger = logging.getLogger(__name__)


class Told:
    """Does with each task what its goal says."""

    def __init__(self, context: Any) -> None:
        self.context = context

    async def run_as_daemon(self, poll_interval: float) -> None:
        await Worker(self.context, self._do).run(poll_interval)

    async def _do(self, task: TaskRow) -> Outcome:
        word, _, rest = task.goal.partition(" ")
        result = await getattr(self, word)(*rest.split())
        return Outcome(failure=None, result={"pid": os.getpid(), "said": result})

    async def nothing(self) -> None:
        """Do the task."""

    async def say(self, *words: str) -> None:
        print(*words, flush=True)

    async def sleep(self, seconds: str) -> str:
        await asyncio.sleep(float(seconds))
        return "asked" if current_child().stopping else "not asked"

    async def block(self, seconds: str) -> None:
        time.sleep(float(seconds))  # noqa: TID251, ASYNC251  (that is the point)

    async def spin(self) -> None:
        while True:
            pass

    async def fail(self) -> None:
        raise LookupError("there is no such thing")

    async def exit(self, status: str) -> None:
        print("the last word", flush=True)
        os._exit(int(status))

    async def segfault(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    async def devour(self) -> None:
        self.food = bytearray(2**62)

    async def linger(self) -> None:
        threading.Thread(target=time.sleep, args=(1000,)).start()  # noqa: TID251

    async def talk(self) -> None:
        logger.warning("something to say", extra={"action": "talked", "number": 7})
        print("a bare line")
        try:
            raise ValueError("as an example")
        except ValueError:
            logger.exception("it went wrong")

    async def flood(self) -> None:
        for _ in range(200_000):
            print("noise " * 10)

    async def leave(self) -> str:
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        return str(process.pid)

    async def argue(self) -> str:
        """Try what the store does not take; says what it was told."""
        said = []
        for value in (object(), Strange(), sys):
            try:
                await self.context.store.finish_effect("key", value)
            except Exception as error:  # noqa: BLE001
                said.append(type(error).__name__)
        try:
            await self.context.store.aclose()
        except AttributeError:
            said.append("no aclose")
        return " ".join(said)

    async def many(self) -> str:
        """Ask for much at once, and give some of it up."""
        store, agent_id = self.context.store, self.context.agent_id
        keys = [uuid.uuid4().hex for _ in range(50)]
        await asyncio.gather(*(store.remember(agent_id, key, "x" * 10_000) for key in keys))
        given_up = asyncio.ensure_future(store.recall(agent_id, limit=50))
        await asyncio.sleep(0)
        given_up.cancel()
        return str(len(await store.recall(agent_id, limit=100)))

    async def rest(self) -> None:
        raise HandBack("the model is busy", count_attempt=False, delay=30.0)

    async def good(self) -> None:
        """Be a routine."""
        print("routine", current_child().name, flush=True)

    async def long(self) -> None:
        """Be a routine that takes long."""
        await self.context.store.remember("social", "pid", str(os.getpid()))
        await asyncio.sleep(1000)

    async def bad(self) -> None:
        raise RoutineFailedError("it came to nothing")

    async def vanish(self) -> None:
        os._exit(0)


class Strange:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled-in-the-daemon",)


class Unstartable(Told):
    def __init__(self, context: Any) -> None:
        raise RuntimeError("cannot be made")


class Conversing(QuickAgent):
    """The social agent as it ships, but less patient."""
