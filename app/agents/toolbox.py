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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import pydantic

from actp_supervise.service import clean_json
from app.store.protocol import ApprovalRow, ApprovalStatus, Effect, EffectState, ToolCall

from .approvals import Gate, check_approved, note_of
from .handle import end, finish_anyway
from .outcomes import Parked
from .paging import MORE, Pages
from .tools import Call, Tool, ToolError, as_json, in_call
from .traces import span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .contract import AgentContext
    from .traces import Span
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
_ASK_AGAIN: Final = (
    "{tool} was begun with these arguments, and then the program was cut off before it knew how "
    "the call ended: it may have had its effect, or not. Approve to have it called once more."
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
    arguments: object = None
    """What the tool was called with."""
    note: str = ""
    """What a person has said of the call."""
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Toolbox:
    """The tools of one conversation.

    Args:
        context: The agent's.
        tools: Its tools.
        key: Names the work: effects that an earlier try had under it do not happen again.
        transcript: Where answers are recorded.
        gate: Asks a person where a tool needs it.
        server_tools: The entries of the tools that the API runs itself.
    """

    def __init__(
        self,
        context: AgentContext,
        tools: Sequence[Tool],
        key: str,
        transcript: Transcript,
        gate: Gate,
        server_tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._server_tools = server_tools
        self._context = context
        self._store = context.store
        self._tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._key = key
        self._transcript = transcript
        self._gate = gate
        self._approvals: dict[str, ApprovalRow] = {}
        """What was decided of the calls at hand, by their ids."""
        self._guarded: set[str] = set()
        """Those of them that a person has to approve."""
        self._parked: Parked | None = None
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

    async def answer(self, uses: Sequence[ToolUse], step: int) -> None:
        """Carry out calls side by side; each answer is recorded as it comes.

        Where a person has to approve some of them, none is begun before all are decided.

        Args:
            uses: The calls that have no answer yet.
            step: The reply that asks for them.

        Raises:
            LeaseEnded: If the task is another's by now.
            Parked: If a person has still to decide.
        """
        await self._ask(uses, step)
        longest = max(self._timeout(self._tools.get(use.name)) for use in uses)
        names = ", ".join(dict.fromkeys(use.name for use in uses))
        self._context.activity.wait(f"tool {names}", longest + _GRACE)
        calls = [asyncio.ensure_future(self._answer(use, step)) for use in uses]
        try:
            await asyncio.gather(*calls)
        finally:
            await end(*calls)
            self._context.activity.wait(f"tool {names} is done", 0.0)
        if self._parked is not None:
            raise self._parked

    async def _ask(self, uses: Sequence[ToolUse], step: int) -> None:
        """Ask for all calls that a person has to approve, each of which is asked for once.

        Raises:
            Parked: If one of them is not decided yet.
        """
        self._approvals, self._parked, self._guarded = {}, None, set()
        history = self._transcript.history
        last = history.last
        # What was asked for stays so, though the settings say otherwise by now: it may be denied.
        asked = await self._gate.asked_before() if self._transcript.is_resumed else []
        why = None if last is None else last.text or None
        for use in uses:
            tool = self._tools.get(use.name)
            if tool is None or not isinstance(use.arguments, dict):
                continue
            needed = self._gate.guards(tool, has_read_outside=history.has_read_outside)
            if not needed and (use.name, use.arguments) not in asked:
                continue
            self._guarded.add(use.id)
            if self._transcript.task_id is not None:
                self._approvals[use.id] = await self._gate.ask(
                    use.name, use.arguments, about=f"{step}/{use.id}", why=why
                )
        waiting = [
            approval.tool
            for approval in self._approvals.values()
            if approval.status is ApprovalStatus.WAITING
        ]
        if waiting:
            raise Parked(waiting)

    async def _answer(self, use: ToolUse, step: int) -> None:
        with span(
            f"execute_tool {use.name}",
            gen__ai_operation_name="execute_tool",
            gen__ai_tool_name=use.name,
            gen__ai_tool_call_id=use.id,
        ) as traced:
            await self._answer_one(use, step, traced)

    async def _answer_one(self, use: ToolUse, step: int, traced: Span) -> None:
        told = _Told(arguments=use.arguments)
        try:
            done = await self._carry_out(use, told)
        except Parked as parked:  # the other calls are carried out first
            self._parked = parked
            return
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
            "content": told.note + told.text,
        }
        if told.error:
            block["is_error"] = True
            traced.fail("tool_error")
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
        arguments = await self._approved(tool, use, arguments, told)
        call = self._call(tool, use, arguments)
        if tool.effect != "read":
            begun = await self._begin(call)
            while begun.state is Effect.UNKNOWN and tool.effect == "once":
                told.effect = call.key
                call, arguments = await self._again(tool, use, call, told, arguments)
                begun = await self._begin(call)
            if begun.state is Effect.DONE:
                return _block_of(begun)
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

    async def _approved(
        self, tool: Tool, use: ToolUse, arguments: dict[str, Any], told: _Told
    ) -> dict[str, Any]:
        """Return what a tool is to be called with: what a person has approved, where one has to.

        Raises:
            ToolError: If nobody approved it.
        """
        if use.id not in self._guarded:
            return arguments
        approval = self._approvals.get(use.id)
        if approval is None:  # there is no task that could wait, which is said by this
            approval = await self._gate.decided(tool.name, arguments, about=use.id, why=None)
        check_approved(approval)
        told.note, told.arguments = note_of(self._approvals, use.id), approval.arguments
        return approval.arguments

    async def _again(
        self, tool: Tool, use: ToolUse, call: Call, told: _Told, arguments: dict[str, Any]
    ) -> tuple[Call, dict[str, Any]]:
        """Return how a tool is called once more whose last call's end is unknown.

        A person who has to approve the tool's calls is asked about this too, and may change what it
        is called with. The new call has a key of its own, so that of each approval there is one.

        Raises:
            ToolError: If it is not to be called again.
            Parked: If that is not decided yet.
        """
        cut_short = _CUT_SHORT.format(tool=tool.name)
        if use.id not in self._guarded:
            raise ToolError(cut_short)
        decision = await self._gate.decided(
            tool.name, arguments, about=f"again {call.key}", why=_ASK_AGAIN.format(tool=tool.name)
        )
        if decision.status is not ApprovalStatus.APPROVED:
            comment = f" The operator writes: {decision.comment}" if decision.comment else ""
            raise ToolError(cut_short + comment)
        self._approvals[use.id] = decision
        told.note, told.arguments = note_of(self._approvals, use.id), decision.arguments
        key = hashlib.sha256(f"{call.key} {decision.id}".encode()).hexdigest()[:32]
        return replace(call, key=key), decision.arguments

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
        return Call(
            key=key,
            task_id=self._transcript.task_id,
            agent_id=self._context.agent_id,
            has_read_outside=self._transcript.history.has_read_outside,
        )

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
        return ToolCall(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self._transcript.task_id,
            tool=use.name,
            arguments=arguments_shown(clean_json(told.arguments, self._context.redact)),
            duration=asyncio.get_running_loop().time() - told.began,
            error=told.text if told.error else None,
            result=None if told.error else shortened(told.text),
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


def arguments_shown(arguments: object) -> dict[str, Any]:
    """Return the arguments of a call as its log has them."""
    text = as_json(arguments)
    if isinstance(arguments, dict) and len(text) <= MOST_LOGGED:
        return arguments
    return {"shortened": shortened(text)}


def shortened(text: str) -> str:
    """Return as much of a text as the log of calls keeps."""
    left = len(text) - MOST_LOGGED
    return text if left <= 0 else f"{text[:MOST_LOGGED]} ... ({left} characters more)"


def _field_errors(error: pydantic.ValidationError) -> str:
    """Return which arguments are wrong, and how; without what stands around them."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "Invalid arguments. " + "; ".join(problems)
