"""A simulated Claude: a real HTTP server that speaks the Messages API, for `--demo` and for tests.

It imports nothing of the rest of the app. In a Trio program:

    claude = SimulatedClaude()
    base_url = await nursery.start(serve_claude, claude)
    claude.plan(Failure(status=429, headers={"retry-after": "1"}), Reply(text="At last."))

What is planned is answered first, in order; after that it does what `behaviour` says. As a process
of its own, `python -m app.demo.claude --port 0` prints its address as the first line.

Whoever has only the goal of a task to write in can put these into it:

    [simulate: 529]            fail once with that status; [simulate: 529 x3] three times
    [simulate: 429 after 2]    likewise, with a `retry-after` of 2 seconds
    [simulate: drop x2]        drop the connection, twice
    [simulate: slow 2.5]       take 2.5 seconds longer for each reply
    [simulate: refusal]        end with that stop reason; max_tokens likewise
    [simulate: spend limit]    say that the month's money is spent, each time
    [simulate: endless]        call tools without end

A key that begins with `sk-ant-wrong` is a wrong key.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, OrderedDict, deque
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from .answers import (
    Answer,
    Failure,
    Garbage,
    HangUp,
    Reply,
    error_response,
    json_response,
    stream_response,
)
from .behaviour import next_reply
from .http1 import Request, Response, serve_connection
from .rules import Body, Refusal, check_body, check_headers, text_of
from .searching import searched

__all__ = ["Answer", "Failure", "Garbage", "HangUp", "Reply", "SimulatedClaude", "serve_claude"]

MODELS: Final = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")

_REMEMBERED: Final = 1000
"""Requests, conversations and prompts that are kept."""


async def serve_claude(
    claude: SimulatedClaude | None = None,
    *,
    port: int = 0,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a simulated Claude on loopback until cancelled.

    Args:
        claude: Who answers.
        port: Where; 0 for any that is free.
        task_status: Gets the base URL.
    """
    answering = claude or SimulatedClaude()

    async def serve(stream: trio.SocketStream) -> None:
        await serve_connection(stream, answering.handle)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    await trio.serve_listeners(serve, listeners)


class SimulatedClaude:
    """Who answers the requests.

    Args:
        latency: Seconds that each reply takes.
    """

    def __init__(self, *, latency: float = 0.0) -> None:
        self.requests: deque[Body] = deque(maxlen=_REMEMBERED)
        """The bodies of the requests for a message, the oldest first."""
        self.headers: deque[dict[str, str]] = deque(maxlen=_REMEMBERED)
        """Their headers."""
        self._latency = latency
        self._plan: deque[Answer] = deque()
        self._numbers: Counter[str] = Counter()
        self._failed: Memory = Memory()
        self._cached: Memory = Memory()

    def plan(self, *answers: Answer) -> None:
        """Have the next requests answered so, in order."""
        self._plan.extend(answers)

    async def handle(self, request: Request) -> Response | None:
        """Answer one HTTP request."""
        request_id = self._id("req")
        path = request.target.partition("?")[0]
        try:
            check_headers(request.headers)
            if (request.method, path) == ("GET", "/v1/models"):
                return json_response(_models(), request_id)
            # A path in front is what a gateway's address has.
            if request.method != "POST" or not path.endswith("/v1/messages"):
                raise Refusal(status=404, message="Not Found")
            body = check_body(_parse(request), request.headers)
        except Refusal as refusal:
            failure = Failure(status=refusal.status, message=refusal.message)
            return error_response(failure, request_id)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        return await self._answer(body, request_id)

    async def _answer(self, body: Body, request_id: str) -> Response | None:
        answer = self._plan.popleft() if self._plan else self._of_its_own_accord(body)
        await trio.sleep(answer.after + self._latency)
        match answer:
            case Failure():
                return error_response(answer, request_id)
            case Garbage():
                return Response(200, [answer.body], {"content-type": answer.content_type})
            case HangUp(in_the_middle=in_the_middle):
                if not in_the_middle:
                    return None
                message = self._message(Reply(text="This will not be read."), body)
                return replace(json_response(message, request_id), broken_off=True)
            case Reply():
                message = self._message(answer, body)
                if body.get("stream"):
                    return stream_response(message, request_id)
                return json_response(message, request_id)

    def _of_its_own_accord(self, body: Body) -> Answer:
        opening = text_of(body["messages"][0]["content"])
        markers = [marker.strip() for marker in re.findall(r"\[simulate:(.*?)\]", opening)]
        for marker in markers:
            failure = self._simulated_failure(marker, opening)
            if failure is not None:
                return failure
        reply = next_reply(body)
        for marker in markers:
            reply = _changed(reply, marker, body)
        return reply

    def _simulated_failure(self, marker: str, opening: str) -> Answer | None:
        if marker == "spend limit":
            return Failure(
                status=429,
                message="You have reached your monthly spend limit.",
                error_code="enforced_spend_limit_reached",
            )
        found = re.fullmatch(r"(\d{3}|drop)(?: after ([\d.]+))?(?: x(\d+))?", marker)
        if found is None:
            return None
        what, after, times = found.groups()
        if self._failed.count(f"{marker}\n{opening}") > int(times or 1):
            return None
        if what == "drop":
            return HangUp()
        return Failure(status=int(what), headers={"retry-after": after} if after else {})

    def _message(self, reply: Reply, body: Body) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        usage: dict[str, Any] = {}
        if reply.searched is not None:
            content += searched(self._id("srvtoolu"), reply.searched, reply.text)
            usage["server_tool_use"] = {"web_search_requests": 1}
        elif reply.text:
            content.append({"type": "text", "text": reply.text})
        content += (
            {"type": "tool_use", "id": self._id("toolu"), "name": name, "input": dict(arguments)}
            for name, arguments in reply.tools
        )
        return {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": reply.stop_reason or ("tool_use" if reply.tools else "end_turn"),
            "stop_sequence": None,
            "usage": {**self._usage(content, body), **usage, **reply.usage},
        }

    def _usage(self, content: list[dict[str, Any]], body: Body) -> dict[str, Any]:
        """Make up a usage: four characters a token, and a cache of what comes before messages."""
        prompt = json.dumps({"tools": body.get("tools"), "system": body.get("system")})
        said = json.dumps(body["messages"])
        asked = "cache_control" in body or "cache_control" in prompt or "cache_control" in said
        hit = asked and self._cached.count(prompt) > 1
        cached = _tokens(prompt)
        written = cached if asked and not hit else 0
        return {
            "input_tokens": _tokens(said) + (0 if asked else cached),
            "output_tokens": _tokens(json.dumps(content)),
            "cache_read_input_tokens": cached if hit else 0,
            "cache_creation_input_tokens": written,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written,
                "ephemeral_1h_input_tokens": 0,
            },
            "service_tier": "standard",
        }

    def _id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}_simulated_{self._numbers[kind]:06}"


class Memory:
    """How often each of the last so many texts was seen."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()

    def count(self, text: str) -> int:
        """Note that a text was seen, and return how often that is."""
        times = self._seen.pop(text, 0) + 1
        self._seen[text] = times
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return times


def _changed(reply: Reply, marker: str, body: Body) -> Reply:
    """Return the reply as a marker wants it."""
    slow = re.fullmatch(r"slow ([\d.]+)", marker)
    if slow is not None:
        return replace(reply, after=float(slow[1]))
    if marker in {"refusal", "max_tokens"} and not reply.tools:
        return replace(reply, stop_reason=marker)
    if marker == "endless" and body.get("tools"):
        return replace(reply, tools=((body["tools"][0]["name"], {}),))
    return reply


def _parse(request: Request) -> Any:  # noqa: ANN401  (JSON)
    if request.parsed is not None:
        return request.parsed
    try:
        return json.loads(request.body)
    except ValueError as error:
        raise Refusal(status=400, message=f"The request body is not valid JSON: {error}") from None


def _tokens(text: str) -> int:
    return len(text) // 4


def _models() -> dict[str, Any]:
    models = [
        {
            "type": "model",
            "id": model,
            "display_name": model.replace("-", " ").title(),
            "created_at": "2026-10-01T00:00:00Z",
        }
        for model in MODELS
    ]
    return {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}


async def _serve_and_say_where(claude: SimulatedClaude, port: int) -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_claude, claude, port=port))
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="app.demo.claude", description="A simulated Claude.")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds for each reply")
    given = parser.parse_args(arguments)
    try:
        trio.run(_serve_and_say_where, SimulatedClaude(latency=given.latency), given.port)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
