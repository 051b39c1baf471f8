"""The conversation about a task as it is read: each call of a tool with its answer. Pure."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.hands import is_from_outside
from app.web.words import as_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from app.store.protocol import JSON, ToolCall, Turn


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of a tool."""

    tool: str
    arguments: str
    """As JSON, for people."""
    duration: float | None
    """Seconds; None where it is not known, or not over."""
    answer: str | None = None
    """What the model was told; None where it has not been yet."""
    failed: bool = False
    outside: bool = False
    """Whether the answer holds what other people wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What a reply of the model took."""

    prompt_tokens: int
    cached_tokens: int
    """Of these, what was read from the cache, at a tenth of the price."""
    output_tokens: int
    usd: float
    """With what tries that came to nothing have cost."""
    seconds: float
    """From the question to the answer, waits between tries included."""


@dataclass(slots=True, kw_only=True)
class Step:
    """What somebody said, with the calls of tools that it asks for."""

    id: str
    role: str
    """user or assistant."""
    step: int
    at: datetime | None
    system: str | None = None
    """What the model is told before the first word, where this is the opening."""
    took: Took | None = None
    """What a reply of the model took, where that was recorded."""
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outside: bool = False
    """Whether what is said holds what other people wrote, such as the results of a search."""


def transcript(turns: Sequence[Turn], logged: Iterable[ToolCall] = ()) -> list[Step]:
    """Put a conversation together.

    Args:
        turns: Its turns, the oldest first.
        logged: The calls of tools that were logged for it, the oldest first; they know how long
            each took.
    """
    durations: dict[str, deque[float]] = defaultdict(deque)
    for call in logged:
        durations[_name(call.tool, call.arguments)].append(call.duration)
    steps: list[Step] = []
    waiting: dict[str, Call] = {}
    for turn in turns:
        if turn.role == "tool":
            for block in _blocks(turn.content):
                _answer(block, waiting)
            continue
        meta = turn.meta or {}
        step = Step(
            id=turn.id,
            role=turn.role,
            step=turn.step,
            at=turn.created_at,
            system=meta.get("system"),
            took=_took(meta),
        )
        for block in _blocks(turn.content):
            step.outside |= is_from_outside(block, said_by_us=turn.role == "user")
            _read(block, step, waiting, durations)
        steps.append(step)
    return steps


def _took(meta: Mapping[str, Any]) -> Took | None:
    """Return what a reply took; None of one that an earlier release has recorded."""
    found = {each.name: meta.get(each.name) for each in fields(Took)}
    known = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return Took(**known) if len(known) == len(found) else None  # type: ignore[arg-type]


def _read(
    block: dict[str, Any],
    step: Step,
    waiting: dict[str, Call],
    durations: dict[str, deque[float]],
) -> None:
    match block.get("type"):
        case "text":
            step.texts.append(str(block.get("text", "")))
        case "thinking":
            step.thoughts.append(str(block.get("thinking", "")))
        case "tool_use":
            tool, arguments = str(block.get("name")), block.get("input")
            known = durations[_name(tool, arguments)]
            call = Call(
                tool=tool,
                arguments=as_json(arguments),
                duration=known.popleft() if known else None,
            )
            step.calls.append(call)
            waiting[str(block.get("id"))] = call
        case "tool_result":
            _answer(block, waiting)
        case _:
            step.texts.append(as_json(block))


def _answer(block: dict[str, Any], waiting: dict[str, Call]) -> None:
    call = waiting.pop(str(block.get("tool_use_id")), None)
    if call is not None:
        call.answer = "\n".join(_texts(block.get("content")))
        call.failed = bool(block.get("is_error"))
        call.outside = is_from_outside(block)


def _blocks(content: JSON) -> Iterator[dict[str, Any]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}
        return
    for block in content if isinstance(content, list) else [content]:
        yield block if isinstance(block, dict) else {"type": "text", "text": str(block)}


def _texts(content: JSON) -> Iterator[str]:
    if content is None:
        return
    for block in _blocks(content):
        text = str(block["text"]) if block.get("type") == "text" else as_json(block)
        try:  # what tools answer is JSON on one line
            yield as_json(json.loads(text))
        except ValueError:
            yield text


def _name(tool: str, arguments: JSON) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True, default=str)}"
