"""What the simulated Claude can answer, and how that looks on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .http1 import Response
from .rules import ERROR_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS: Final = 4
"""Words that a piece of a streamed text has; the API sends a few at once, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A message: some text, then calls of tools, by name and arguments."""

    text: str = ""
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    searched: str | None = None
    """What the API has searched the web for before the text, which cites what it found."""
    stop_reason: str | None = None
    """By default `tool_use` where tools are called, else `end_turn`."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Replaces numbers of the usage that is made up from the request."""
    after: float = 0.0
    """Seconds that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An HTTP error in the API's form."""

    status: int
    message: str = "simulated"
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """For example `retry-after`."""
    after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """A connection that is dropped."""

    in_the_middle: bool = False
    """Of the answer's body, rather than before any answer."""
    after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A success whose body is not what one asked for."""

    body: bytes
    content_type: str = "application/json"
    after: float = 0.0


Answer = Reply | Failure | HangUp | Garbage


def error_response(failure: Failure, request_id: str) -> Response:
    """Word an error as the API does."""
    error: dict[str, Any] = {
        "type": ERROR_TYPES.get(failure.status, "api_error"),
        "message": failure.message,
    }
    if failure.error_code is not None:
        error["details"] = {"error_code": failure.error_code}
    body = {"type": "error", "error": error, "request_id": request_id}
    return json_response(body, request_id, status=failure.status, headers=failure.headers)


def json_response(
    body: object,
    request_id: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with JSON."""
    sent = {"content-type": "application/json", "request-id": request_id, **(headers or {})}
    return Response(status, [json.dumps(body).encode()], sent)


def stream_response(message: Mapping[str, Any], request_id: str) -> Response:
    """Answer with a message as server-sent events."""
    parts = [
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in _events(message)
    ]
    return Response(
        200, parts, {"content-type": "text/event-stream; charset=utf-8", "request-id": request_id}
    )


def _events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        deltas: list[dict[str, Any]] = []
        if block["type"] == "web_search_tool_result":
            empty = block
        elif block["type"] == "text":
            empty = {**block, "text": ""}
            if "citations" in block:
                empty["citations"] = []
            words = re.findall(r"\s*\S+|\s+", block["text"])
            deltas = [
                {"type": "text_delta", "text": "".join(words[first : first + WORDS])}
                for first in range(0, len(words), WORDS)
            ]
            deltas += [
                {"type": "citations_delta", "citation": cited}
                for cited in block.get("citations", ())
            ]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {
        "type": "message_delta",
        "delta": delta,
        "usage": {
            name: usage[name] for name in ("output_tokens", "server_tool_use") if name in usage
        },
    }
    yield {"type": "message_stop"}
