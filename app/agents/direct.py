"""Calls of an agent's hands by its own code, and not by the model: for what a routine looks up.

They keep the rules of effects (`app.agents.tools`) as calls of the model do, and are in the log of
calls beside them.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.bridge import run_in_trio
from actp_supervise.service import clean_json, shorten
from app.hands import HandError, OutcomeUnknownError
from app.store.protocol import Effect, ToolCall

from .tools import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.hands import HandTool

    from .contract import AgentContext

MOST_LOGGED: Final = 2_000
"""Characters of an answer that the log of calls keeps."""


class NoSuchHandError(HandError):
    """The agent has no such tool; the message says why, where that is known."""


def tool_named(context: AgentContext, name: str) -> HandTool | None:
    """Return a tool of an agent's hands; None where it has none of that name."""
    if context.hands is None:
        return None
    return next((tool for tool in context.hands.tools() if tool.name == name), None)


def why_lacking(context: AgentContext, name: str) -> str:
    """Return why an agent lacks a hand, in words for an operator."""
    lacking = () if context.hands is None else context.hands.lacking
    return next((why for why in lacking if why.startswith(f"{name}: ")), f"{name}: not set up")


async def call_hand(
    context: AgentContext,
    name: str,
    arguments: Mapping[str, Any],
    *,
    about: str,
    task_id: str | None = None,
) -> Any:  # noqa: ANN401  (JSON)
    """Call a tool of an agent's hands.

    Args:
        context: The agent's.
        name: The tool.
        arguments: What it is called with.
        about: Names the effect: what is done under it is done once.
        task_id: The task that it is done for, if any.

    Raises:
        NoSuchHandError: If the agent has no such tool now.
        HandError: If nothing came of it.
        OutcomeUnknownError: If it may have had its effect, now or in an earlier try.
    """
    tool = tool_named(context, name)
    if tool is None or context.hands is None:
        raise NoSuchHandError(f"there is no tool {name!r} just now")
    key = hashlib.sha256(f"{context.agent_id} {name} {about}".encode()).hexdigest()[:32]
    if tool.effect != "read":
        begun = await context.store.begin_effect(
            key, agent_id=context.agent_id, task_id=task_id, token=uuid.uuid4().hex
        )
        if begun.state is Effect.DONE:
            return begun.result
        if begun.state is Effect.UNKNOWN and tool.effect == "once":
            raise OutcomeUnknownError(
                "it was begun before, and the program was cut off before it knew how that ended"
            )
    began = asyncio.get_running_loop().time()
    error: HandError | None = None
    answer: Any = None
    try:
        answer = await run_in_trio(context.hands.call, name, dict(arguments), key=key)
    except HandError as failed:
        error = failed
    seconds = asyncio.get_running_loop().time() - began
    call = ToolCall(
        id=uuid.uuid4().hex,
        agent_id=context.agent_id,
        run_id=context.run_id,
        task_id=task_id,
        tool=name,
        arguments=clean_json(dict(arguments), context.redact),
        duration=seconds,
        error=None if error is None else context.redact(str(error)),
        result=None if error is not None else shorten(as_json(answer), MOST_LOGGED),
    )
    await context.store.record_tool_call(call)
    if error is None:
        if tool.effect != "read":
            await context.store.finish_effect(key, answer)
        return answer
    if tool.effect != "read" and not isinstance(error, OutcomeUnknownError):
        await context.store.drop_effect(key)  # it did nothing, so that it may be tried again
    raise error
