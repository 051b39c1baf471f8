"""What a person has approved, carried out by a tool of the user's: as it stands, and once.

No model has a word in it. The tool gets the fields of the row that was approved; a row that has
been changed or rejected since is left alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import clean_json, shorten
from app.hands import HandError, OutcomeUnknownError
from app.items import KINDS, item_of
from app.store.protocol import DomainTable, Verdict

from .direct import NoSuchHandError, call_hand
from .outcomes import HandBack, Outcome
from .tools import as_json

if TYPE_CHECKING:
    from app.items import Item, Kind, Release

    from .contract import AgentContext
    from .spec import ReleaseTool

MOST_RESULT: Final = 1_000
"""Characters of a tool's answer that are kept with what it carried out."""

AWAY: Final = 60.0
"""Seconds until a tool that is away is looked for again."""


async def carry_out(context: AgentContext, task_id: str, release: Release) -> Outcome:
    """Carry out an item that a person has approved.

    Args:
        context: The agent's, whose hands have the tool.
        task_id: The task that it is done for.
        release: What was approved.

    Raises:
        HandBack: If the tool is away just now.
    """
    kind = KINDS[release.kind]
    found = await item_of(context.store, kind, release.id)
    if found is None:
        return _failed(f"there is no {kind.one} {release.id}")
    item, _ = found
    why_not = _why_not(kind, item, release)
    if why_not is not None:
        return _failed(why_not)
    tool = context.options.release
    if tool is None:
        return _failed("the file of agents names no tool that carries it out (release)")
    try:
        answer = await call_hand(
            context,
            tool.tool,
            arguments_of(kind, item, tool),
            about=f"release {release.review}",
            task_id=task_id,
        )
    except NoSuchHandError as error:
        away = ", ".join(() if context.hands is None else context.hands.problems)
        reason = f"{error}: {away}" if away else str(error)
        if not away:
            return await _settle(context, kind, item, "failed", reason)
        raise HandBack(reason, delay=AWAY, alone=True) from None
    except OutcomeUnknownError as error:
        return await _settle(context, kind, item, "unknown", str(error))
    except HandError as error:
        return await _settle(context, kind, item, "failed", str(error))
    return await _settle(context, kind, item, "done", answer)


def _why_not(kind: Kind, item: Item, release: Release) -> str | None:
    """Return why an item is not to be carried out; None where a person wants it as it stands."""
    decided = [review for review in item.reviews if review.verdict is not Verdict.EDITED]
    if not decided or decided[0].id != release.review:
        return f"the {kind.one} is {item.status}, and not by the approval that this is about"
    if item.status != Verdict.APPROVED:
        return f"the {kind.one} is {item.status} already"
    return None


def arguments_of(kind: Kind, item: Item, tool: ReleaseTool) -> dict[str, Any]:
    """Return what a tool is called with: the fields of the item, by the names that it has."""
    known = dataclasses.asdict(item)
    named = tool.arguments or {name: name for name in kind.released}
    return {
        parameter: known[field]
        for parameter, field in named.items()
        if known.get(field) is not None
    }


async def _settle(
    context: AgentContext, kind: Kind, item: Item, status: str, answer: object
) -> Outcome:
    """Keep what came of it, with the item and as the outcome of the task."""
    text = answer if isinstance(answer, str) else as_json(answer)
    text = shorten(str(clean_json(text, context.redact)), MOST_RESULT)
    values: dict[str, Any] = {"status": status, "result": text}
    match answer:
        case {"from_outside": str(source)} if item.from_outside is None:
            values["from_outside"] = source
    if kind.table is DomainTable.ENGAGEMENT_ACTIONS:
        values["settled_at"] = await context.store.ping()
    await context.store.update(kind.table, item.id, values)
    failure = None if status == "done" else f"{status}: {text}"
    return Outcome(failure=failure, result=_result(f"{kind.one} {item.id} {status}: {text}"))


def _failed(why: str) -> Outcome:
    return Outcome(failure=why, result=_result(why))


def _result(text: str) -> dict[str, Any]:
    return {"text": text, "turns": 0, "tool_calls": 0, "usd": 0.0}
