"""Replies of the model: put together from a stream, and checked before anything is made of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from .prices import Usage
from .usage import usage_of

DEEPEST: Final = 100
"""How deep what a reply holds may be nested: more cannot be recorded, or sent again."""

LARGEST: Final = 2**63
"""The number above which a whole number is nonsense: no store could keep it."""

_CHARACTERS_PER_TOKEN: Final = 3


class OddReply(ValueError):
    """What came is no reply; the message says in what way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply of the model."""

    content: list[dict[str, Any]]
    """Its blocks, as the API sent them."""
    stop_reason: str | None
    stop_details: dict[str, Any] | None
    model: str
    usage: Usage
    message_id: str | None
    request_id: str | None = None


def read_reply(message: object, request_id: str | None = None) -> Reply:
    """Check a message of the API.

    Args:
        message: The message, as JSON.
        request_id: What the API calls the request.

    Raises:
        OddReply: If it is none, or holds what cannot be recorded or sent again.
    """
    if not isinstance(message, dict) or message.get("type") != "message":
        raise OddReply("it is no message")
    model, content = message.get("model"), message.get("content")
    if not isinstance(model, str) or not isinstance(content, list):
        raise OddReply("it has no model or no content")
    try:
        usage = usage_of(message.get("usage"))
    except ValueError as error:
        raise OddReply(str(error)) from error
    details = message.get("stop_details")
    reason, name = message.get("stop_reason"), message.get("id")
    return Reply(
        content=[_block(block) for block in content],
        stop_reason=reason if isinstance(reason, str) else None,
        stop_details=details if isinstance(details, dict) else None,
        model=model,
        usage=usage,
        message_id=name if isinstance(name, str) else None,
        request_id=request_id,
    )


_TEXTS: Final = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name")}


def _block(block: object) -> dict[str, Any]:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise OddReply("a block of it has no type")
    for name in _TEXTS.get(block["type"], ()):
        if not isinstance(block.get(name), str):
            raise OddReply(f"a {block['type']} block has no {name}")
    _check_values(block)
    if block["type"] == "tool_use" and not isinstance(block.get("input"), dict):
        # The API would refuse to be sent it. So the tool does, which has no argument of that name.
        return {**block, "input": {"invalid_arguments": block.get("input")}}
    return block


def _check_values(value: object) -> None:
    """Look through a JSON value, without recursion."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > DEEPEST:
            raise OddReply("it is nested too deeply")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise OddReply("it has a number that is none")
        elif isinstance(item, int) and abs(item) > LARGEST:
            raise OddReply("it has a number that is too large")


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  (JSON)
    """Read JSON that another program wrote.

    Raises:
        OddReply: If it is none, or nested so deeply that it cannot be read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OddReply("it is no JSON") from error


class Assembly:
    """A message as it comes in, event by event."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.complete = False
        self._inputs: dict[int, str] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._characters = 0

    def add(self, event: object) -> None:
        """Take in one event.

        Raises:
            OddReply: If it makes no sense where it comes.
        """
        if not isinstance(event, dict):
            raise OddReply("an event of the stream is no object")
        kind = event.get("type")
        try:
            if kind == "message_start":
                self.message = dict(event["message"])
            elif kind == "content_block_start":
                self._blocks[int(event["index"])] = dict(event["content_block"])
            elif kind == "content_block_delta":
                self._extend(int(event["index"]), event["delta"])
            elif kind == "message_delta":
                self._finish(event)
            elif kind == "message_stop":
                self.complete = True
        except OddReply:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OddReply(f"its event {kind} makes no sense") from error

    def result(self) -> dict[str, Any]:
        """Return the message that has come in.

        Raises:
            OddReply: If the input of a tool is no JSON.
        """
        message = dict(self.message or {})
        for index, text in self._inputs.items():
            if message.get("stop_reason") == "max_tokens":
                continue  # cut off, and never used
            self._blocks[index]["input"] = parse_json(text) if text else {}
        message["content"] = [self._blocks[index] for index in sorted(self._blocks)]
        return message

    def usage_so_far(self) -> Usage | None:
        """Return what a stream that was cut off has used at least; None if it did not say.

        The tokens of the reply are estimated by its characters, and rather high.
        """
        if self.message is None:
            return None
        try:
            usage = dict(self.message["usage"])
            seen = self._characters // _CHARACTERS_PER_TOKEN + 1
            usage["output_tokens"] = max(int(usage.get("output_tokens") or 0), seen)
            return usage_of(usage)
        except (KeyError, TypeError, ValueError):
            return None

    def _extend(self, index: int, delta: dict[str, Any]) -> None:
        block, kind = self._blocks[index], delta["type"]
        self._characters += sum(len(each) for each in delta.values() if isinstance(each, str))
        match kind:
            case "text_delta":
                block["text"] = _joined(block.get("text"), delta["text"])
            case "thinking_delta":
                block["thinking"] = _joined(block.get("thinking"), delta["thinking"])
            case "input_json_delta":
                self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case _:  # a signature, a summary, or what is new: whole values
                block.update({name: each for name, each in delta.items() if name != "type"})

    def _finish(self, event: dict[str, Any]) -> None:
        if self.message is None:
            raise OddReply("its stream has no beginning")
        self.message.update(event["delta"])
        # Its counts are of the whole message; those that it leaves out stay as they were.
        counts = {name: count for name, count in event["usage"].items() if count is not None}
        self.message["usage"] = {**self.message["usage"], **counts}


def _joined(before: object, more: object) -> str:
    if not isinstance(more, str) or not isinstance(before, str | None):
        raise OddReply("a text of its stream is none")
    return (before or "") + more
