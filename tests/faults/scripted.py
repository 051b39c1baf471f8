"""Work for daemons that are killed: agents whose effects are noted outside, and their Claude.

The goal of a task says which tools are called, reply by reply: ``No 7: look, keyed+once, pay``.
Each call of a tool that changes something is noted in a file that knows nothing of the daemon's
records, when it begins and when it ends. What was done twice shows there and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import trio

from app.demo.answers import stream_response
from app.demo.http1 import Request, Response, serve_connection
from app.demo.rules import check_body, check_headers, text_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from daemons import Place

AGENTS = """
import asyncio
import json
import pathlib
import random

from app.agents.base import DomainAgent
from app.agents.tools import current_call, tool

NOTES = pathlib.Path(__file__).with_name("notes.jsonl")


def note(name, what, phase):
    call = current_call()
    line = {"tool": name, "what": what, "phase": phase, "key": call.key, "task": call.task_id}
    with NOTES.open("ab", buffering=0) as notes:
        notes.write(json.dumps(line).encode() + b"\\n")


async def act(name, what):
    note(name, what, "began")
    await asyncio.sleep(random.uniform(0, 0.1))
    note(name, what, "ended")
    return {"done": what}


class Noting(DomainAgent):
    prompt = "Do what the goal says."

    @tool(effect="read")
    async def look(self, what: str):
        '''Look.'''
        return {"seen": what}

    @tool(effect="keyed", target=("what",))
    async def keyed(self, what: str):
        '''Do something that knows its key.'''
        return await act("keyed", what)

    @tool(effect="once")
    async def once(self, what: str):
        '''Do something that knows no key.'''
        return await act("once", what)

    @tool(effect="once", approve=True)
    async def pay(self, what: str):
        '''Do something that needs approval.'''
        return await act("pay", what)

    @tool(effect="keyed", target=("what",), approve=True)
    async def grant(self, what: str):
        '''Do something that needs approval and knows its key.'''
        return await act("grant", what)
"""

PLANS = (
    "look, keyed, once",
    "look, keyed+once",
    "look, pay, keyed",
    "keyed, once, look+pay",
    "look, grant, once",
    "once, pay+grant",
)
"""What the tasks ask for, in turn."""

CUT_OFF = "cut off before it knew how the call ended"
"""In what the model is told of a call whose end nobody knows."""


def install(place: Place) -> None:
    """Have the social and the content agent be of the class whose effects are noted."""
    place.use_class(AGENTS, "Noting")
    place.environ["CONTENT_AGENT_CLASS"] = "own:Noting"


@dataclass(frozen=True)
class Note:
    """One line of what a tool has noted."""

    tool: str
    what: str
    phase: str
    key: str
    task: str


def notes(place: Place) -> list[Note]:
    """Return all that tools have noted, in order."""
    return [Note(**json.loads(line)) for line in _lines(place)]


def how_many_notes(place: Place) -> int:
    return len(_lines(place))


def _lines(place: Place) -> list[bytes]:
    path = place.folder / "notes.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def goal(number: int) -> str:
    return f"No {number}: {PLANS[number % len(PLANS)]}"


class ScriptedClaude:
    """Replies as the goal says, and counts what it was asked.

    Of a call whose end nobody knows it is told; then it calls again, but only for every other task.

    Args:
        rng: Spreads how long a reply takes.
        latency: The most seconds that one takes.
    """

    def __init__(self, rng: random.Random, latency: float = 0.1) -> None:
        self.served: Counter[int] = Counter()
        """The number of a task -> replies."""
        self.told: Counter[int] = Counter()
        """The number of a task -> calls of its `once` that were asked for again, being told."""
        self._rng = rng
        self._latency = latency
        self._numbers = count(1)

    async def serve(
        self,
        *,
        port: int = 0,
        through: Callable[[trio.SocketStream], trio.abc.Stream] = lambda stream: stream,
        task_status: trio.TaskStatus[str],
    ) -> None:
        """Serve on loopback until cancelled; `started` gets the address.

        Args:
            port: Where; 0 for any that is free.
            through: What each connection passes through.
            task_status: Gets the address.
        """

        async def serve(stream: trio.SocketStream) -> None:
            await serve_connection(through(stream), self._handle)

        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        await trio.serve_listeners(serve, listeners)

    async def _handle(self, request: Request) -> Response | None:
        check_headers(request.headers)
        # The API would refuse a conversation that does not hang together, and so does this.
        body = check_body(json.loads(request.body), request.headers)
        number, calls = self._next(body["messages"])
        self.served[number] += 1
        await trio.sleep(self._rng.uniform(0, self._latency))
        request_id = f"req_{next(self._numbers)}"
        return stream_response(self._message(body, calls), request_id)

    def _next(self, messages: list[dict[str, Any]]) -> tuple[int, list[tuple[str, str]]]:
        """Return which task a conversation is about, and the calls of the next reply."""
        found = re.search(r"No (\d+): ([\w, +]+)", text_of(messages[0]["content"]))
        assert found is not None
        number, steps = int(found[1]), [step.split("+") for step in found[2].split(", ")]
        said = [message for message in messages if message["role"] == "assistant"]
        again = [message for message in said if "again" in json.dumps(message["content"])]
        if not again and number % 2 and self._is_told_of_once(messages):
            self.told[number] += 1
            return number, [("once", f"No {number} again")]
        position = len(said) - len(again)
        names = steps[position] if position < len(steps) else []
        return number, [(name, f"No {number}") for name in names]

    def _is_told_of_once(self, messages: list[dict[str, Any]]) -> bool:
        last = messages[-1]["content"]
        told = [block for block in last if block.get("type") == "tool_result"]
        return any(
            CUT_OFF in text_of([block]) and text_of([block]).startswith("once") for block in told
        )

    def _message(self, body: dict[str, Any], calls: list[tuple[str, str]]) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": "On it." if calls else "Done."}]
        content += (
            {
                "type": "tool_use",
                "id": f"toolu_{next(self._numbers):08}",
                "name": name,
                "input": {"what": what},
            }
            for name, what in calls
        )
        return {
            "id": f"msg_{next(self._numbers)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": "tool_use" if calls else "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 100,
                "output_tokens": 20,
                "cache_read_input_tokens": 0,
                "cache_creation_input_tokens": 0,
            },
        }
