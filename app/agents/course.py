"""What comes next in a conversation, by how the last reply ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .history import History, Said

MOST_TOKENS: Final = 64_000
"""Tokens that a reply may have after it was cut off: each of the current models can do that."""

LAST_REPLIES: Final = 3
"""How many replies before the last one the model is told that they end."""

MOST_EMPTY: Final = 2
"""How often an empty reply is asked for again."""

COMPACT_AT: Final = 150_000
"""Tokens above which a conversation is summed up; the API's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a conversation keeps to."""

    model: str
    fallback_model: str | None
    max_tokens: int
    max_turns: int
    needs_tool: bool
    """Whether it has failed where no tool was called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the model for its next reply."""

    model: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Carry out the calls of tools that have no answer yet."""


@dataclass(frozen=True, slots=True)
class Compact:
    """The next step: to sum the conversation up."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the model something before it is asked again."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The conversation is over."""

    failure: str | None
    """Why it counts as failed; None where it went well."""


Step = Ask | Answer | Compact | Tell | End

_EMPTY: Final = (
    "Your last reply was empty. Continue with the goal; if it is reached, answer with the summary "
    "for the operator."
)
_NO_TOOL: Final = (
    "You have called no tool, and nothing happens by text alone. Continue: do with the tools what "
    "the goal asks for."
)
_FEW_LEFT: Final = (
    "You have {left} repl{s} left. Finish what matters most, and keep the last one for the "
    "summary: what was done, and what is left to do."
)
_SUMMED_UP: Final = "The conversation up to here was summed up. Continue with the goal."


def next_step(history: History, rules: Rules) -> Step:
    """Return what is to be done next."""
    last = history.last
    if last is None:
        return _ask(history, rules)
    match last.stop_reason:
        case "tool_use" if last.uses:
            return _after_tools(history, rules, last)
        case "end_turn" | "stop_sequence" | "tool_use":
            return _after_an_end(history, rules, last)
        case "compaction" if history.told is None:
            return Tell("summed_up", _SUMMED_UP)
        case "pause_turn" | "compaction":
            return _ask(history, rules)
        case "max_tokens":
            return _after_a_cut(history, rules)
        case "model_context_window_exceeded":
            return Compact()
        case "refusal":
            if rules.fallback_model is not None and history.refusals == 1:
                return _ask(history, rules)
            return End(_refusal(last))
        case other:
            return End(f"it stopped for an unknown reason: {other}")


def model_of(history: History, rules: Rules) -> str:
    """Return which model is asked next: once the first has refused, the second if there is one."""
    return rules.fallback_model or rules.model if history.refusals else rules.model


def _after_tools(history: History, rules: Rules, last: Said) -> Step:
    if history.replies >= rules.max_turns:  # nobody would see what its tools answer
        return End(
            f"it still called tools after {history.replies} replies, the most turns that are "
            "allowed (MAX_TURNS)"
        )
    if history.open_uses:
        return Answer()
    if last.tokens > COMPACT_AT:
        return Compact()
    return _ask(history, rules)


def _after_an_end(history: History, rules: Rules, last: Said) -> Step:
    """Judge a reply that wants to be the last one."""
    if history.told is not None:
        return _ask(history, rules)
    if not last.text.strip():
        if history.notes["empty"] >= MOST_EMPTY:
            return End("it ended with an empty reply")
        return Tell("empty", _EMPTY)
    if rules.needs_tool and not history.called.total():
        if history.notes["no_tool"]:
            return End("it ended without having called any tool, which its goal needs")
        return Tell("no_tool", _NO_TOOL)
    return End(None)


def _after_a_cut(history: History, rules: Rules) -> Step:
    before = _most(rules, history.cuts - 1)
    if _most(rules, history.cuts) == before:
        return End(f"the reply was cut off: it reached max_tokens, {before} of them at last")
    return _ask(history, rules)


def _ask(history: History, rules: Rules) -> Step:
    left = rules.max_turns - history.replies
    if left <= 0:
        return End(
            f"it was not done after {history.replies} replies, the most turns that are allowed "
            "(MAX_TURNS)"
        )
    users_turn = bool(history.messages) and history.messages[-1]["role"] == "user"
    if left <= LAST_REPLIES and history.replies and users_turn and not history.notes["turns"]:
        return Tell("turns", _FEW_LEFT.format(left=left, s="y" if left == 1 else "ies"))
    return Ask(model=model_of(history, rules), max_tokens=_most(rules, history.cuts))


def _most(rules: Rules, cuts: int) -> int:
    """Return how many tokens a reply may have when one with that many was cut off."""
    return min(rules.max_tokens << cuts, max(rules.max_tokens, MOST_TOKENS))


def _refusal(last: Said) -> str:
    details = last.details or {}
    reasons = filter(None, (details.get("category"), details.get("explanation")))
    told = ": ".join(str(reason) for reason in reasons)
    return f"{last.model} refused to go on with this" + (f" ({told})" if told else "")
