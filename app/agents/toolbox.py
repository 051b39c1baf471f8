"""Carries out the calls of tools that a reply of the model asks for, side by side.

What a call may do after a kill is decided here, by the tool's effect (`app.agents.tools`): the
store knows which effects were begun and which have ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pydantic

from actp_supervise.service import clean_json
from app.store.protocol import Effect, EffectState, ToolCall

from .handle import end, finish_anyway
from .paging import MORE, Pages
from .tools import Call, Tool, ToolError, as_json, in_call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .contract import AgentContext
    from .transcript import Transcript

logger = logging.getLogger(__name__)

MOST_LOGGED: Final = 2_000
"""Characters of arguments and answers that are kept in the log of calls."""

LETTING_GO: Final = 1.0
"""Seconds that a call has to end once its time is over; then it is left behind."""

_GRACE: Final = 5.0
"""Seconds beyond the longest time-out after which an agent counts as hung."""

_CUT_SHORT: Final = (
    "{tool} was begun with these arguments, and then the program was cut off before it knew how "
    "the call ended: it may have had its effect, or not. Do not simply call it again. Find out "
    "whether it happened with a tool that reads, or say in your last answer that it is not known."
)
_TIMED_OUT: Final = "{tool} took longer than {seconds:g} s and was given up. "
_AFTER_TIME: Final = {
    "read": "It changes nothing, so you may call it again, with narrower arguments.",
    "keyed": "It may have had its effect. To call it again with the same arguments is safe.",
    "once": (
        "It may have had its effect, or not. Do not simply call it again: find out with a tool "
        "that reads, or say in your last answer that it is not known."
    ),
}

_NOT_APPROVED: Final = (
    "{tool} needs a person's approval, and there is nobody to ask: it was not called. Go on "
    "without it, and say in your last answer what you would have called it with, and why."
)

_READ_MORE: Final[dict[str, Any]] = {
    "name": MORE,
    "description": "Show a further page of a tool's answer that was too long for one.",
    "input_schema": {
        "type": "object",
        "properties": {
            "answer": {"type": "string", "description": "The name of the answer, from its _page."},
            "page": {"type": "integer", "minimum": 1, "description": "Which page."},
        },
        "required": ["answer", "page"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call of a tool, as a reply asks for it."""

    id: str
    name: str
    arguments: object


@dataclass(slots=True)
class _Told:
    """What the model is told of one call."""

    text: str = ""
    error: bool = False
    effect: str | None = None
    """The effect that has ended with it."""
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Toolbox:
    """The tools of one conversation.

    Args:
        context: The agent's.
        tools: Its tools.
        key: Names the work: effects that an earlier try had under it do not happen again.
        transcript: Where answers are recorded.
        server_tools: The entries of the tools that the API runs itself.
    """

    def __init__(
        self,
        context: AgentContext,
        tools: Sequence[Tool],
        key: str,
        transcript: Transcript,
        server_tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._server_tools = server_tools
        self._context = context
        self._store = context.store
        self._tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._key = key
        self._transcript = transcript
        self._pages = Pages(context.redact)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """What the API is told of the tools."""
        definitions = [
            *(tool.definition for tool in self._tools.values()),
            *map(dict, self._server_tools),
            _READ_MORE,
        ]
        return sorted(definitions, key=lambda definition: str(definition["name"]))

    def changes_something(self, name: str) -> bool:
        """Return whether a tool is one that does more than read."""
        return name in self._tools and self._tools[name].effect != "read"

    async def answer(self, uses: Sequence[ToolUse], step: int) -> None:
        """Carry out calls side by side; each answer is recorded as it comes.

        Args:
            uses: The calls that have no answer yet.
            step: The reply that asks for them.

        Raises:
            LeaseEnded: If the task is another's by now.
        """
        longest = max(self._timeout(self._tools.get(use.name)) for use in uses)
        names = ", ".join(dict.fromkeys(use.name for use in uses))
        self._context.activity.wait(f"tool {names}", longest + _GRACE)
        calls = [asyncio.ensure_future(self._answer(use, step)) for use in uses]
        try:
            await asyncio.gather(*calls)
        finally:
            await end(*calls)
            self._context.activity.wait(f"tool {names} is done", 0.0)

    async def _answer(self, use: ToolUse, step: int) -> None:
        told = _Told()
        try:
            done = await self._carry_out(use, told)
        except asyncio.CancelledError:
            told.text, told.error = "cut short", True
            await finish_anyway(self._store.record_tool_call(self._logged(use, told)))
            raise
        if done is not None:
            await self._transcript.add("tool", step, [{**done, "tool_use_id": use.id}])
            return
        block: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": use.id,
            "content": told.text,
        }
        if told.error:
            block["is_error"] = True
        await finish_anyway(
            self._transcript.answer(step, block, call=self._logged(use, told), effect=told.effect)
        )

    async def _carry_out(self, use: ToolUse, told: _Told) -> dict[str, Any] | None:
        """Carry out a call; or return the block by which it was answered before."""
        tool = self._tools.get(use.name)
        try:
            if use.name == MORE:
                told.text = self._read_more(use.arguments)
            elif tool is None:
                raise ToolError(f"There is no tool {use.name!r}.")
            elif not isinstance(use.arguments, dict):
                raise ToolError("Invalid arguments. They must be an object.")
            else:
                return await self._with_effect(tool, use, use.arguments, told)
        except ToolError as refused:
            told.text, told.error = self._context.redact(str(refused)), True
        return None

    async def _with_effect(
        self, tool: Tool, use: ToolUse, arguments: dict[str, Any], told: _Told
    ) -> dict[str, Any] | None:
        has_read_outside = self._transcript.history.has_read_outside
        if tool.needs_approval(has_read_outside=has_read_outside):
            raise ToolError(_NOT_APPROVED.format(tool=tool.name))
        call = self._call(tool, use, arguments)
        if tool.effect != "read":
            begun = await self._begin(call)
            if begun.state is Effect.DONE:
                return _block_of(begun)
            if begun.state is Effect.UNKNOWN and tool.effect == "once":
                told.effect = call.key
                raise ToolError(_CUT_SHORT.format(tool=tool.name))
        try:
            told.text = self._pages.first(
                await self._in_time(tool, call, arguments), f"{tool.name}-{use.id[-8:]}"
            )
        except ToolError:  # it did nothing, so that it may be called again
            if tool.effect == "keyed":
                await self._store.drop_effect(call.key)
            raise
        except TimeoutError:
            text = _TIMED_OUT + _AFTER_TIME[tool.effect]
            raise ToolError(text.format(tool=tool.name, seconds=self._timeout(tool))) from None
        except Exception as error:
            raise self._failed(tool, error) from error
        told.effect = call.key if tool.effect != "read" else None
        return None

    async def _begin(self, call: Call) -> EffectState:
        return await self._store.begin_effect(
            call.key, agent_id=call.agent_id, task_id=call.task_id, token=uuid.uuid4().hex
        )

    async def _in_time(self, tool: Tool, call: Call, arguments: dict[str, Any]) -> Any:  # noqa: ANN401  (JSON)
        """Call a tool, and leave it behind where it does not end in time."""

        async def work() -> Any:  # noqa: ANN401  (JSON)
            in_call(call)
            return await tool.call(arguments)

        working = asyncio.ensure_future(work())
        try:
            await asyncio.wait({working}, timeout=self._timeout(tool))
            in_time = working.done()
        finally:
            if not working.done():
                working.cancel()
                working.add_done_callback(_forget)
                await asyncio.wait({working}, timeout=LETTING_GO)  # noqa: ASYNC102  (bounded)
        if in_time:
            return _checked(working)
        raise TimeoutError

    def _timeout(self, tool: Tool | None) -> float:
        if tool is not None and tool.timeout is not None:
            return tool.timeout
        return self._context.options.tool_timeout

    def _call(self, tool: Tool, use: ToolUse, arguments: dict[str, Any]) -> Call:
        target = tool.target_of(arguments)
        about = use.id
        if target is not None:
            about = json.dumps(target, sort_keys=True, default=str)
        name = "\x1f".join((self._key, tool.name, about))
        key = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32]
        return Call(key=key, task_id=self._transcript.task_id, agent_id=self._context.agent_id)

    def _read_more(self, arguments: object) -> str:
        match arguments:
            case {"answer": str(answer), "page": int(page)}:
                return self._pages.read(answer, page)
            case _:
                raise ToolError("Invalid arguments. Give answer, a text, and page, a whole number.")

    def _failed(self, tool: Tool, error: Exception) -> ToolError:
        extra = {"action": "tool_failed", "tool": tool.name}
        logger.error("Tool %s failed", tool.name, exc_info=error, extra=extra)
        unknown = "" if tool.effect == "read" else " It may have had its effect all the same."
        return ToolError(
            f"{tool.name} failed for a reason that is not in its arguments.{unknown} Do not repeat "
            "the call: go on without it, and say in the end what could not be done."
        )

    def _logged(self, use: ToolUse, told: _Told) -> ToolCall:
        arguments = clean_json(use.arguments, self._context.redact)
        text = as_json(arguments)
        return ToolCall(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self._transcript.task_id,
            tool=use.name,
            arguments=(
                arguments
                if isinstance(arguments, dict) and len(text) <= MOST_LOGGED
                else {"shortened": _shortened(text)}
            ),
            duration=asyncio.get_running_loop().time() - told.began,
            error=told.text if told.error else None,
            result=None if told.error else _shortened(told.text),
        )


def _checked(working: asyncio.Task[Any]) -> Any:  # noqa: ANN401  (JSON)
    """Return what a call returned; wrong arguments are the model's fault and not the tool's."""
    if working.cancelled():
        raise RuntimeError("the tool raised CancelledError")
    error = working.exception()
    if error is None:
        return working.result()
    if isinstance(error, ValueError) and isinstance(error.__cause__, pydantic.ValidationError):
        raise ToolError(_field_errors(error.__cause__)) from None
    if isinstance(error, TimeoutError):  # of its own, which is a failure like any other
        raise RuntimeError("the tool raised TimeoutError") from error
    raise error


def _forget(working: asyncio.Task[Any]) -> None:
    if not working.cancelled():
        working.exception()  # looked at, or the loop would call it lost


def _block_of(begun: EffectState) -> dict[str, Any]:
    """Return the answer that an effect has ended with."""
    match begun.result:
        case [{"type": "tool_result", "content": content}]:
            return {"type": "tool_result", "content": content}
        case other:
            return {"type": "tool_result", "content": as_json(other)}


def _shortened(text: str) -> str:
    left = len(text) - MOST_LOGGED
    return text if left <= 0 else f"{text[:MOST_LOGGED]} ... ({left} characters more)"


def _field_errors(error: pydantic.ValidationError) -> str:
    """Say which arguments are wrong, and how; without what stands around them."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "Invalid arguments. " + "; ".join(problems)
