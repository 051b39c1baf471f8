"""Claude below the real SDK: a transport in place of the network, which knows what was used.

Replies and refusals are those of `app.demo.claude`, without its server. What the daemon should have
booked is reckoned here from the replies themselves.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import anthropic
import httpx2
from typing_extensions import override

from actp_supervise.bridge import run_in_trio
from app.demo.answers import Answer, Failure, Garbage, HangUp, Reply
from app.demo.claude import SimulatedClaude
from app.demo.http1 import Request, Response

from .plan import What

if TYPE_CHECKING:
    import random
    from collections import deque
    from collections.abc import AsyncIterator

    from anthropic import AsyncAnthropic

LATENCY: Final = (0.5, 8.0)
"""Seconds that a reply takes, from and to."""

LONG_LATENCY: Final = (60.0, 500.0)
"""The same of one in fifty, so that leases have to be renewed."""


def trouble(what: What, rng: random.Random) -> Answer:
    """Return how a call ends to which this happens."""
    match what:
        case What.OVERLOADED:
            return Failure(status=rng.choice((500, 529, 529, 504)))
        case What.RATE_LIMITED:
            return Failure(status=429, headers={"retry-after": str(rng.randint(1, 60))})
        case What.NO_REPLY:
            return HangUp(after=rng.choice((0.0, 30.0)))
        case What.CUT_OFF:
            return HangUp(in_the_middle=True)
        case What.NONSENSE:
            return Garbage(body=rng.choice((b"", b"<html>", b'{"type": "message"}', b"\xff{")))
        case What.REFUSAL:
            return Reply(text="I will not.", stop_reason="refusal")
        case What.SPEND_LIMIT:
            return Failure(
                status=429,
                message="You have reached your monthly spend limit.",
                error_code="enforced_spend_limit_reached",
            )
        case _:
            pass
    raise ValueError(f"{what} happens to no call")


class Caller(Protocol):
    """The process that calls, and what watches it."""

    @property
    def is_dead(self) -> bool:
        """Whether it is dead."""

    def asks(self, body: dict[str, Any]) -> object:
        """Take note that it asks for a reply."""

    def gets(
        self, agent_id: str, body: dict[str, Any], usage: dict[str, Any], *, whole: bool
    ) -> object:
        """Take note of a reply: what was used for it, and whether all of it arrives."""

    def note(self, text: str) -> object:
        """Take note of what has come of a call."""


class Claude:
    """The one API that all daemons of a world call.

    Args:
        rng: Decides how long a reply takes, and how what fails does.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._usual = SimulatedClaude()

    def client(self, agent_id: str, troubles: deque[What], caller: Caller) -> AsyncAnthropic:
        """Return a client of the real SDK whose calls end here.

        Args:
            agent_id: Who calls.
            troubles: What is to happen to its next calls; each is taken out.
            caller: The process that calls.
        """
        transport = _Transport(self, agent_id, troubles, caller)
        return anthropic.AsyncAnthropic(
            api_key="sk-ant-simulated",
            base_url="http://claude.simulated",
            http_client=anthropic.DefaultAsyncHttpxClient(transport=transport),
        )

    async def answer(
        self,
        caller: Caller,
        agent_id: str,
        request: Request,
        what: What | None,
    ) -> Response | None:
        """Answer a call, in Trio.

        Args:
            caller: The process that calls.
            agent_id: Which of its agents.
            request: The call, its body parsed.
            what: What happens to it, where anything does.
        """
        claude = self._usual
        if what is not None:
            claude = SimulatedClaude()
            claude.plan(trouble(what, self._rng))
        response = await claude.handle(request)
        if response is not None and response.status == 200:
            usage = _usage(b"".join(response.parts))
            if usage is not None:
                caller.gets(agent_id, request.parsed, usage, whole=not response.broken_off)
        return response

    def latency(self) -> float:
        """Return the seconds that the next reply takes."""
        span = LONG_LATENCY if self._rng.random() < 0.02 else LATENCY
        return round(self._rng.uniform(*span), 3)


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        claude: Claude,
        agent_id: str,
        troubles: deque[What],
        caller: Caller,
    ) -> None:
        self._claude = claude
        self._agent_id = agent_id
        self._troubles = troubles
        self._caller = caller

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        asked: dict[str, Any] = json.loads(body) if body else {}
        if not self._caller.is_dead and request.url.path.endswith("/v1/messages"):
            self._caller.asks(asked)
        await asyncio.sleep(self._claude.latency())
        if self._caller.is_dead:
            raise httpx2.ConnectError("the process is dead")
        what = self._troubles.popleft() if self._troubles else None
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Request(request.method, request.url.raw_path.decode(), headers, body, asked)
        response = await run_in_trio(self._claude.answer, self._caller, self._agent_id, call, what)
        if response is None:
            self._caller.note(f"{self._agent_id} asks Claude: hung up")
            raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")
        word = "broken off" if response.broken_off else str(response.status)
        told = word if what is None else f"{word} ({what})"
        self._caller.note(f"{self._agent_id} asks Claude: {told}")
        return httpx2.Response(
            response.status, headers=dict(response.headers), stream=_Body(response)
        )


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: Response) -> None:
        self._response = response

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = self._response.parts
        if self._response.broken_off:
            yield parts[0][: len(parts[0]) // 2]
            raise httpx2.RemoteProtocolError("peer closed connection without sending complete body")
        for part in parts:
            yield part


def _usage(body: bytes) -> dict[str, Any] | None:
    """Return what a reply says was used, with its model; None where it is no reply."""
    try:
        message = json.loads(body)
    except ValueError:
        return _streamed_usage(body)
    if not isinstance(message, dict) or "usage" not in message:
        return None
    return {"model": message["model"], **message["usage"]}


def _streamed_usage(body: bytes) -> dict[str, Any] | None:
    usage: dict[str, Any] = {}
    events = rb"^event: message_(?:start|delta)\ndata: (.*)$"  # the others say nothing of it
    for data in re.findall(events, body, re.MULTILINE):
        try:
            event = json.loads(data)
        except ValueError:
            return None
        if event["type"] == "message_start":
            usage = {"model": event["message"]["model"], **event["message"]["usage"]}
        elif event["type"] == "message_delta":
            usage |= event.get("usage", {})
    return usage or None
