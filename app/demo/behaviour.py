"""What the simulated Claude does of its own accord: look something up, do something, say so.

It understands nothing. It picks the tools whose words occur in the goal, makes their arguments from
their JSON schemas, the goal and what earlier tools answered, and it is the same every time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from .answers import Reply
from .rules import Body, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOKING: Final = {"list", "find", "get", "recall", "show", "search", "read", "audit", "compare"}
_OF_THE_RUNTIME: Final = {"read_more"}
_IGNORED: Final = set(
    re.findall(
        r"\w+",
        "a an and are as at be by do for from give have i in is it its me my of on or our please "
        "so that the them then this to up us was we what which with you your today",
    )
)


def next_reply(body: Body) -> Reply:
    """Return what is said to a conversation as it stands."""
    conversation = _Conversation.read(body)
    if _may_search(body, conversation):
        found = f"Found on two pages that do not exist: {conversation.goal:.200}."
        return Reply(
            text=f"{found} (simulated search: nothing was looked up)",
            searched=conversation.goal[:100],
        )
    phases = {0: (True, False), 1: (False,)}.get(len(conversation.called), ())
    for looking in phases:
        for tool in _by_fit(body.get("tools", ()), conversation, looking=looking):
            arguments = _arguments(tool["input_schema"], conversation, looking=looking)
            if arguments is not None:
                verb = "look at" if looking else "take care of"
                subject = tool["name"].replace("_", " ")
                return Reply(
                    text=f"I will {verb} this with {subject}.", tools=((tool["name"], arguments),)
                )
    done = " and ".join(conversation.called) or "no tool"
    found = f" It answered: {conversation.last_result:.200}" if conversation.last_result else ""
    return Reply(text=f"Done, by {done}: {conversation.goal:.200}.{found} (simulated reply)")


def _may_search(body: Body, conversation: _Conversation) -> bool:
    """Whether the goal speaks of the web, which the agent may search and has not yet."""
    can = any(tool.get("name") == "web_search" for tool in body.get("tools", ()))
    return can and "web" in conversation.words and not conversation.has_searched


@dataclass(frozen=True, slots=True)
class _Conversation:
    goal: str
    words: frozenset[str]
    today: date
    called: tuple[str, ...]
    last_result: str
    known_ids: tuple[str, ...]
    """Those that tools answered, the newest answer first."""
    has_searched: bool = False
    """Whether the API has searched the web for it."""

    @classmethod
    def read(cls, body: Body) -> _Conversation:
        messages = body["messages"]
        opening = text_of(messages[0]["content"])
        marked = re.search(r"<goal>\s*(.*?)\s*</goal>", opening, re.DOTALL)
        goal = re.sub(r"\[simulate:.*?\]", "", marked[1] if marked else opening).strip()
        moments = re.findall(r"\b\d{4}-\d\d-\d\d\b", opening)
        context = re.search(r"<context>(.*)</context>", opening, re.DOTALL)
        results = [
            text_of([block])
            for message in messages[1:]
            if message["role"] == "user" and isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        ]
        told = [*reversed(results), *(context.groups() if context else ())]
        return cls(
            goal=goal.rstrip("."),
            words=_words(goal),
            today=date.fromisoformat(moments[-1]) if moments else date(2026, 1, 5),
            called=tuple(
                block["name"]
                for message in messages
                if message["role"] == "assistant" and isinstance(message["content"], list)
                for block in message["content"]
                if block["type"] == "tool_use"
            ),
            has_searched=any(
                block["type"] == "server_tool_use"
                for message in messages
                if isinstance(message["content"], list)
                for block in message["content"]
            ),
            last_result=results[-1] if results else "",
            known_ids=tuple(found for text in told for found in _ids(text)),
        )


def _ids(text: str) -> list[str]:
    try:
        waiting = [json.loads(text)]
    except ValueError:
        return []
    found = []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            if isinstance(value.get("id"), str):
                found.append(value["id"])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


@lru_cache(maxsize=1_000)  # names and descriptions of tools come with each request
def _words(text: str) -> frozenset[str]:
    """Return the words that mean something, cut so that "drafting" is like "draft"."""
    words = re.findall(r"[a-z]+", text.lower().replace("_", " "))
    return frozenset(re.sub(r"(ing|s|ed|e)$", "", word) for word in words if word not in _IGNORED)


def _by_fit(
    tools: list[dict[str, Any]], conversation: _Conversation, *, looking: bool
) -> list[dict[str, Any]]:
    """Return the tools that may serve now, the one that fits the goal best first."""

    def fit(tool: dict[str, Any]) -> int:
        in_name = _words(tool["name"]) & conversation.words
        in_description = _words(tool.get("description", "")) & conversation.words
        return 3 * len(in_name) + len(in_description)

    candidates = [
        tool
        for tool in tools
        if "input_schema" in tool
        and tool["name"] not in _OF_THE_RUNTIME
        and tool["name"] not in conversation.called
        and (tool["name"].split("_")[0] in _LOOKING) == looking
        and fit(tool) > 0
    ]
    return sorted(candidates, key=lambda tool: (-fit(tool), tool["name"]))


def _arguments(
    schema: dict[str, Any], conversation: _Conversation, *, looking: bool
) -> dict[str, Any] | None:
    """Make arguments that keep the schema, or None where an id is needed that nobody told."""
    required = set(schema.get("required", ()))
    arguments = {}
    for name, described in schema.get("properties", {}).items():
        plain = _plain(described, schema)
        mentioned = _mentioned(plain.get("enum", ()), conversation)
        if mentioned:  # "those at stage a" comes before "move them to b"
            arguments[name] = mentioned[0 if looking else -1]
        elif name in required:
            value = _value(name, plain, schema, conversation)
            if value is None:
                return None
            arguments[name] = value
    return arguments


def _mentioned(options: Sequence[object], conversation: _Conversation) -> list[str]:
    """Return those options that occur in the goal, in its order."""
    words = [min(_words(word), default="") for word in re.findall(r"\w+", conversation.goal)]
    found = {
        words.index(stem): option
        for option in options
        if isinstance(option, str) and (stem := min(_words(option), default=None)) in words
    }
    return [found[position] for position in sorted(found)]


def _plain(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and leave the null out of what may be null."""
    if "$ref" in described:
        described = schema["$defs"][described["$ref"].rpartition("/")[2]]
    for option in described.get("anyOf", ()):
        if option.get("type") != "null":
            return _plain(option, schema)
    return described


def _value(
    name: str, described: dict[str, Any], schema: dict[str, Any], conversation: _Conversation
) -> Any:  # noqa: ANN401  (JSON)
    if "enum" in described:
        return described["enum"][0]
    kind = described.get("type")
    if kind in {"integer", "number"}:
        return _number(described, conversation, whole=kind == "integer")
    if kind == "boolean":
        return False
    if kind == "array":
        items = _plain(described.get("items", {"type": "string"}), schema)
        item = _value(name, items, schema, conversation)
        return None if item is None else [item]
    if kind == "object":
        of = described.get("additionalProperties")
        number = isinstance(of, dict) and of.get("type") in {"number", "integer"}
        return {"total": 1} if number else {"note": conversation.goal[:80]}
    return _text(name, described, conversation)


def _text(name: str, described: dict[str, Any], conversation: _Conversation) -> str | None:
    if name == "id" or name.endswith("_id"):
        return next(iter(conversation.known_ids), None)
    today = conversation.today
    week = f"{today.isocalendar().year}-W{today.isocalendar().week:02}"
    if described.get("format") == "date":
        return today.isoformat()
    if described.get("format") == "date-time":
        return f"{today.isoformat()}T17:00:00Z"
    if "pattern" in described:
        options = (today.isoformat(), week, today.isoformat()[:7])
        return next((text for text in options if re.search(described["pattern"], text)), None)
    names = re.findall(r"(?<!^)\b[A-Z][\w'-]*(?: [A-Z][\w'-]*)*", conversation.goal)
    quoted = re.findall(r"[\"“'](.+?)[\"”']", conversation.goal)
    if name in {"body", "content", "summary", "text", "value"}:
        text = f"{conversation.goal}: simulated {name}"
    elif name in {"name", "title", "company", "contact", "target", "key"}:
        text = (quoted or names or [conversation.goal])[0]
    else:
        text = conversation.goal
    return text[: min(described.get("maxLength", 120), 120)].strip() or "simulated"


def _number(
    described: dict[str, Any], conversation: _Conversation, *, whole: bool
) -> int | float | None:
    least = described.get("minimum", described.get("exclusiveMinimum", 0))
    most = described.get("maximum", 1_000_000)
    in_goal = [
        float(found.replace(",", ""))
        for found in re.findall(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])", conversation.goal)
    ]
    value = next((number for number in in_goal if least <= number <= most), least + (least < most))
    return int(value) if whole else value
