"""Methods of an agent as tools of the model: described, checked, answered, logged.

    @tool
    async def list_deals(self, stage: Stage | None = None) -> JSON:
        '''List deals. ...'''

The method's signature becomes the schema and its docstring the description. It returns JSON, and
raises `ToolError` with a text for the model where it cannot do what was asked.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import uuid
from datetime import date, datetime
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic
from anthropic.lib.tools import BetaAsyncFunctionTool, ToolError
from typing_extensions import override

from actp_supervise.service import clean_json, shorten
from app.store.protocol import JSON, StoreError, ToolCall

from .handle import finish_anyway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic.types.tool_param import InputSchema

    from .contract import AgentContext

__all__ = ["JSON", "AgentTool", "ToolError", "as_json", "tool", "tool_methods"]

MethodT = TypeVar("MethodT", bound="Callable[..., Awaitable[JSON]]")

logger = logging.getLogger(__name__)

TOOL_TIMEOUT: Final = 120.0
"""Seconds after which a tool without a word counts as hung."""

MOST_SHOWN: Final = 20_000
"""Characters of an answer that the model is shown."""

MOST_LOGGED: Final = 2_000
"""Characters of arguments and answers that are kept in the log."""

_MARK: Final = "__is_tool__"


def tool(method: MethodT) -> MethodT:
    """Make a method a tool of the model."""
    setattr(method, _MARK, True)
    return method


def tool_methods(agent: object) -> list[MethodType]:
    """Return the methods that are tools, by name: a fixed order keeps the prompt's cache valid."""
    methods = inspect.getmembers(agent, lambda member: getattr(member, _MARK, False))
    return [method for _, method in sorted(methods)]


class AgentTool(BetaAsyncFunctionTool[Any]):
    """A tool for the SDK's tool runner.

    Args:
        method: What it does.
        context: The agent's.
        task_id: The task for which it is called, if any.
    """

    def __init__(
        self,
        method: MethodType,
        context: AgentContext,
        *,
        task_id: str | None,
    ) -> None:
        description, schema = _described(method.__func__)
        super().__init__(method, description=description, input_schema=schema)
        self._context = context
        self._task_id = task_id

    @override
    async def call(self, input: object) -> str:
        """Call it, and answer the model; every error is a `ToolError` that may be shown."""
        self._context.activity.wait(f"tool {self.name}", TOOL_TIMEOUT)
        clock = asyncio.get_running_loop().time
        started = clock()
        answer, error = None, None
        try:
            answer = self._context.redact(await self._carry_out(input))
            answer = shorten(answer, MOST_SHOWN, ends=True)
        except ToolError as refused:
            error = self._context.redact(str(refused))
            raise
        finally:
            seconds = clock() - started
            await finish_anyway(self._record(input, seconds, answer, error))
            self._context.activity.wait(f"tool {self.name} is done", 0.0)
        return answer

    async def _carry_out(self, arguments: object) -> str:
        if not isinstance(arguments, dict):
            raise ToolError("Invalid arguments. They must be an object")
        try:
            return as_json(await super().call(arguments))
        except ToolError:
            raise
        except ValueError as error:
            if isinstance(error.__cause__, pydantic.ValidationError):
                raise ToolError(_field_errors(error.__cause__)) from None
            raise self._failed(error) from error
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ToolError:
        extra = {"action": "tool_failed", "tool": self.name}
        logger.error("Tool %s failed", self.name, exc_info=error, extra=extra)
        return ToolError(
            f"{self.name} failed for a reason that is not in its arguments. Do not repeat the "
            "call: go on without it, and say in the end what could not be done."
        )

    async def _record(
        self, arguments: object, seconds: float, answer: str | None, error: str | None
    ) -> None:
        arguments = clean_json(arguments, self._context.redact)
        text = as_json(arguments)
        call = ToolCall(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self._task_id,
            tool=self.name,
            arguments=(
                arguments
                if isinstance(arguments, dict) and len(text) <= MOST_LOGGED
                else {"shortened": shorten(text, MOST_LOGGED, ends=True)}
            ),
            duration=seconds,
            error=error or (None if answer is not None else "cut short"),
            result=None if answer is None else shorten(answer, MOST_LOGGED, ends=True),
        )
        try:
            await self._context.store.record_tool_call(call)
        except StoreError:
            logger.exception("A call of %s is not in the log", self.name)


@functools.cache
def _described(function: Callable[..., Awaitable[JSON]]) -> tuple[str, InputSchema]:
    """Return a tool's description and schema, made once: the SDK never frees what it makes them by.

    That would be some 12 kB for each tool of each task, with all that the tool refers to.
    """
    tool = BetaAsyncFunctionTool[Any](MethodType(function, object()))
    return tool.description, tool.input_schema


def as_json(value: JSON) -> str:
    """Write what a tool returned as JSON; moments in ISO 8601, what is None left out of rows."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def _field_errors(error: pydantic.ValidationError) -> str:
    """Say which arguments are wrong, and how; without what stands around them."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "Invalid arguments. " + "; ".join(problems)
