"""Agents that run in processes of their own, for the tests; what they do is told by their task."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from agents_at_work import QuickAgent

from actp_supervise import current_child
from app.agents.outcomes import HandBack, Outcome, RoutineFailedError
from app.agents.tools import JSON, tool
from app.agents.work import Worker
from app.store.protocol import StoreError

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
        await self.context.store.aclose()  # does nothing
        try:
            await self.context.store.touch_worker("other", "other-run", {}, silent_after=1.0)
        except StoreError as error:
            said.append("not its to call" if "not for an agent" in str(error) else str(error))
        return " ".join(said)

    async def say_nonsense(self, content: str = "") -> None:
        """Send the daemon what is no message."""
        message = bytes.fromhex(content)
        os.write(_wire(), struct.pack("!I", len(message)) + message)
        await asyncio.sleep(1000)

    async def wait_for_ever(self) -> None:
        self.context.activity.throttle(math.inf, "for ever")
        await asyncio.sleep(1000)

    async def chatter(self) -> None:
        """Send the daemon messages that mean nothing, as many as it takes."""
        content = bytes([0x82, 0xA4]) + b"type" + b"\xa6GiveUp" + b"\xa6number" + b"\x01"
        messages = (struct.pack("!I", len(content)) + content) * 1000
        while True:
            os.write(_wire(), messages)
            await asyncio.sleep(0)

    async def forge(self) -> None:
        """Print what looks like a line of another agent."""
        line = {
            "time": "2001-01-01T00:00:00Z",
            "level": "error",
            "logger": "app.supervisor",
            "message": "content has lost all",
            "agent_id": "content",
            "run": "another",
            "worker_id": "another",
        }
        print(json.dumps(line), flush=True)

    async def handle_signals(self) -> str:
        """Handle a signal as a program of its own may, in both ways."""
        got: list[str] = []
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.append, "loop")
        signal.signal(signal.SIGUSR2, lambda *_: got.append("plain"))
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        while len(got) < 2:  # noqa: ASYNC110  (a handler of signals sets no event of asyncio's)
            await asyncio.sleep(0.01)
        return " ".join(sorted(got))

    async def leave_in_session(self) -> str:
        process = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
        return str(process.pid)

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

    async def die(self) -> None:
        """Be a routine whose process dies in the midst of its task."""
        token = uuid.uuid4().hex
        task = await self.context.store.begin_task(
            "its-task",
            self.context.agent_id,
            "nothing",
            worker_id=self.context.worker_id,
            instance=self.context.instance,
            token=token,
            lease=self.context.task_lease,
        )
        os._exit(3 if task is not None else 4)


def _wire() -> int:
    (wire,) = (fd for fd in range(3, 100) if _is_socket_to_daemon(fd))
    return wire


def _is_socket_to_daemon(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with sock:
        return sock.family == socket.AF_UNIX and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED
        ) not in {0, os.getpid()}


class Strange:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled-in-the-daemon",)


class Unstartable(Told):
    def __init__(self, context: Any) -> None:
        raise RuntimeError("cannot be made")


class Asking(QuickAgent):
    """The social agent with a tool that a person has to approve."""

    @tool(approve=True)
    async def send_mail(self, to: str) -> JSON:
        """Send a mail."""
        return {"sent": to, "pid": os.getpid()}

    @tool(effect="read")
    async def approve_all(self) -> JSON:
        """Try to decide about what it has asked for itself."""
        (row,) = await self.store.approvals()
        await self.store.decide_approval(row.id, approve=True, decided_by="itself")
        return {}


class Conversing(QuickAgent):
    """The social agent as it ships, but less patient."""
