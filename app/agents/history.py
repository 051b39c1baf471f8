"""A conversation as it was recorded: what is to be sent next, and what is still to be done. Pure.

A conversation is rebuilt from its steps in just the way in which it was built when they were taken,
so after a restart the API is sent what it would have been sent without one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.hands import is_from_outside

from .toolbox import ToolUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.store.protocol import Turn

FORMAT: Final = 1
"""What the steps of a conversation look like; one of another format cannot be gone on with."""

NOT_SENT: Final = frozenset({"max_tokens", "refusal", "model_context_window_exceeded"})
"""Replies that are no part of what is sent later: their question is asked again."""

MOST_EARLIER: Final = 30
"""Calls of an earlier conversation that a new one is told of."""

_MOST_TEXT: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A reply of the model."""

    step: int
    content: list[dict[str, Any]]
    stop_reason: str | None
    model: str
    details: dict[str, Any] | None
    """Why the model refused."""
    tokens: int
    """The prompt and the reply together: what the next prompt will at least have."""

    @property
    def text(self) -> str:
        """All that it says in words."""
        return "\n\n".join(block["text"] for block in self.content if block["type"] == "text")

    @property
    def uses(self) -> list[ToolUse]:
        """The calls of our tools that it asks for."""
        return [
            ToolUse(id=block["id"], name=block["name"], arguments=block["input"])
            for block in self.content
            if block["type"] == "tool_use"
        ]


@dataclass(slots=True, kw_only=True)
class History:
    """A conversation up to now."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """What the API is sent."""
    last: Said | None = None
    """The last reply."""
    replies: int = 0
    """How many there were; summaries do not count."""
    called: Counter[str] = field(default_factory=Counter)
    """How often each tool was called, and answered without an error."""
    calls: int = 0
    cuts: int = 0
    """How many of the last replies in a row were cut off by max_tokens."""
    refusals: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    """What the model was told by us beside the opening, by kind."""
    told: str | None = None
    """What the model was told last of that, where it has not replied since."""
    step: int = 0
    """The number of the last reply, summaries included."""
    has_read_outside: bool = False
    """Whether the model was shown what other people wrote: it may ask for what they want."""
    _answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def open_uses(self) -> list[ToolUse]:
        """The calls of the last reply that have no answer yet."""
        if self.last is None or self.last.stop_reason != "tool_use":
            return []
        return [use for use in self.last.uses if use.id not in self._answers]

    def add(
        self, role: str, step: int, content: list[dict[str, Any]], meta: dict[str, Any] | None
    ) -> None:
        """Go on by one step.

        Args:
            role: user, assistant or tool.
            step: The reply that it belongs to; 0 for the opening.
            content: Its blocks.
            meta: What else was recorded of it.
        """
        known = meta or {}
        if role == "assistant":
            self._reply(step, content, known)
        elif role == "tool":
            self._answered(content)
        else:
            self.has_read_outside |= any(_is_outside(role, block) for block in content)
            self.told = str(known.get("note", "opening"))
            self.notes[self.told] += 1
            self._told(content)

    def _reply(self, step: int, content: list[dict[str, Any]], meta: dict[str, Any]) -> None:
        said = Said(
            step=step,
            content=content,
            stop_reason=meta.get("stop_reason"),
            model=str(meta.get("model")),
            details=meta.get("stop_details"),
            tokens=int(meta.get("tokens") or 0),
        )
        self.last, self.step, self.told, self._answers = said, step, None, {}
        self.has_read_outside |= any(_is_outside("assistant", block) for block in content)
        self.cuts = self.cuts + 1 if said.stop_reason == "max_tokens" else 0
        self.refusals += said.stop_reason == "refusal"
        if said.stop_reason == "compaction":
            if any(block.get("content") for block in content):
                self.messages = [{"role": "assistant", "content": content}]
            return
        self.replies += 1
        if content and said.stop_reason not in NOT_SENT:
            self.messages.append({"role": "assistant", "content": content})
            self.calls += len(said.uses)

    def _answered(self, blocks: list[dict[str, Any]]) -> None:
        if self.last is None:
            return
        uses = {use.id: use for use in self.last.uses}
        for block in blocks:
            use = uses.get(block.get("tool_use_id", ""))
            if use is not None and use.id not in self._answers:
                self._answers[use.id] = block
                self.has_read_outside |= is_from_outside(block)
                self.called[use.name] += not block.get("is_error", False)
        if not self.open_uses:
            self._told([self._answers[use.id] for use in self.last.uses])

    def _told(self, blocks: list[dict[str, Any]]) -> None:
        """Add to what the user says last: two messages of theirs in a row are one."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages[-1] = {
                "role": "user",
                "content": [*self.messages[-1]["content"], *blocks],
            }
        else:
            self.messages.append({"role": "user", "content": list(blocks)})


def last_conversation(turns: Sequence[Turn]) -> list[Turn]:
    """Return the steps of the last of a task's conversations: from its opening on."""
    openings = [n for n, turn in enumerate(turns) if turn.role == "user" and turn.step == 0]
    return list(turns[openings[-1] :]) if openings else []


def why_not_resumed(turns: Sequence[Turn], model: str) -> str | None:
    """Return why a conversation cannot be gone on with; None where it can.

    Args:
        turns: Its steps, the opening first.
        model: Which model is to go on with it.
    """
    opening = turns[0].meta or {}
    if opening.get("format") != FORMAT:
        return "it was recorded by another version"
    if opening.get("model") != model:
        return f"it was held with {opening.get('model')}, and the agent's model is {model} now"
    if not all(isinstance(turn.content, list) for turn in turns):
        return "a step of it cannot be read"
    return None


def earlier_calls(turns: Sequence[Turn]) -> list[str]:
    """Return in words what was called in conversations that are not gone on with.

    The new one is told, because nothing else keeps it from doing the same once more.
    """
    answers = {
        block.get("tool_use_id"): block
        for turn in turns
        if turn.role == "tool"
        for block in _blocks(turn)
    }
    lines = []
    for turn in turns:
        for block in _blocks(turn) if turn.role == "assistant" else ():
            if block.get("type") == "tool_use":
                answer = answers.get(block.get("id"))
                ended = (
                    "nobody knows how it ended" if answer is None else _short(answer.get("content"))
                )
                lines.append(f"{block.get('name')}({_short(block.get('input'))}): {ended}")
    return lines[-MOST_EARLIER:]


def has_read_outside(turns: Sequence[Turn]) -> bool:
    """Return whether the model was shown in any of these steps what other people wrote."""
    return any(_is_outside(turn.role, block) for turn in turns for block in _blocks(turn))


def _is_outside(role: str, block: dict[str, Any]) -> bool:
    return is_from_outside(block, said_by_us=role == "user")


def _blocks(turn: Turn) -> list[dict[str, Any]]:
    content = turn.content if isinstance(turn.content, list) else []
    return [block for block in content if isinstance(block, dict)]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} ..."
