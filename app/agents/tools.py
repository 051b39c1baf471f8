"""Methods of an agent as tools of the model: what they are, and how they are described to it.

    @tool(effect="read")
    async def list_deals(self, stage: Stage | None = None) -> JSON:
        '''List deals. ...'''

The method's signature becomes the schema and its docstring the description. It returns JSON, and
raises `ToolError` with a text for the model where it cannot do what was asked; then it has done
nothing. `app.agents.toolbox` calls them.

A tool says by its effect what may happen to a call that was cut off in the middle, by a kill or
while the daemon moved:

- ``read`` changes nothing, and is simply called again.
- ``keyed`` is called again with the same `current_call().key`, by which whatever it changes knows
  that it has done so already. Asked for the same again in the same task, it is not called at all:
  the model gets the first answer. What sets something to a value, and so may be repeated, takes
  ``target="call"``: then each call has a key of its own.
- ``once`` (the default) is not called again: the model is told that nobody knows how it ended.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

import pydantic
from anthropic.lib.tools import BetaAsyncFunctionTool, BetaFunctionTool, ToolError
from typing_extensions import override

from app.store.protocol import JSON

if TYPE_CHECKING:
    from anthropic.types.tool_param import InputSchema

__all__ = [
    "JSON",
    "Call",
    "Tool",
    "ToolError",
    "as_json",
    "current_call",
    "tool",
    "tool_of",
    "tools_of",
]

MethodT = TypeVar("MethodT", bound=Callable[..., Awaitable[JSON]])

Effect = Literal["read", "keyed", "once"]

Target = tuple[str, ...] | Literal["call"]
"""The parameters that name what a keyed tool is about; ``call`` where each call stands alone."""

_MARK: Final = "__tool__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """What `tool` was told of a method."""

    effect: Effect
    target: Target
    timeout: float | None
    approve: bool | None
    acts: bool


_UNMARKED: Final = _Mark(effect="once", target=(), timeout=None, approve=None, acts=False)


@overload
def tool(method: MethodT, /) -> MethodT: ...


@overload
def tool(
    *,
    effect: Effect = "once",
    target: Target = (),
    timeout: float | None = None,
    approve: bool | None = None,
    acts: bool = False,
) -> Callable[[MethodT], MethodT]: ...


def tool(
    method: MethodT | None = None,
    /,
    *,
    effect: Effect = "once",
    target: Target = (),
    timeout: float | None = None,
    approve: bool | None = None,
    acts: bool = False,
) -> MethodT | Callable[[MethodT], MethodT]:
    """Make a method a tool of the model.

    Args:
        method: The method, where the decorator is used without parentheses.
        effect: What may be done about a call that was cut off; see the module.
        target: Of a keyed tool, the parameters that name what it is about: calls that are equal in
            these are the same. By default all of them. ``call``, where no two calls are the same.
        timeout: Seconds that a call may take, in place of the agent's TOOL_TIMEOUT.
        approve: Whether a person has to approve each call, where the operator has not said.
        acts: Whether it changes something that others than the operator see: then a person has to
            approve it in a conversation that has read what other people wrote.

    Raises:
        ValueError: If the effect is unknown, or a target is given that no key is made of.
    """
    if effect not in {"read", "keyed", "once"}:
        raise ValueError(f"effect must be 'read', 'keyed' or 'once', not {effect!r}")
    if target and effect != "keyed":
        raise ValueError(f"only a keyed tool has a target, and this one is {effect!r}")
    mark = _Mark(effect=effect, target=target, timeout=timeout, approve=approve, acts=acts)

    def decorate(method: MethodT) -> MethodT:
        named = () if target == "call" else target
        unknown = set(named) - inspect.signature(method).parameters.keys()
        if unknown:
            raise ValueError(f"target: {method.__name__} has no parameter {min(unknown)!r}")
        setattr(method, _MARK, mark)
        return method

    return decorate if method is None else decorate(method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool(ABC):
    """What the model may call: a method of an agent, or what one of its hands gives it."""

    name: str
    effect: Effect
    target: Target = ()
    timeout: float | None
    approve: bool | None
    acts: bool = False
    """Whether it changes something that others than the operator see."""

    @property
    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """What the API is told of it."""

    @abstractmethod
    async def call(self, arguments: dict[str, Any]) -> JSON:
        """Check the arguments by the schema and carry the call out.

        Raises:
            ToolError: If nothing came of it; the text is for the model.
            ValueError: If they do not keep it; its cause is pydantic's error.
        """

    def needs_approval(self, *, has_read_outside: bool) -> bool:
        """Return whether a person has to approve a call.

        Args:
            has_read_outside: Whether the conversation has read text that other people wrote, which
                may be what makes the model want the call.
        """
        return bool(self.approve) or (self.acts and has_read_outside)

    def target_of(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a call is about, so that the same is done once; None where it stands alone.

        Letters' case and spaces around a text do not matter.
        """
        if self.effect != "keyed" or self.target == "call":
            return None
        named = self.target or tuple(arguments)
        return {
            name: value.strip().casefold() if isinstance(value, str) else value
            for name, value in arguments.items()
            if name in named and value is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTool(Tool):
    """A method of an agent as a tool."""

    method: MethodType

    @property
    def _described(self) -> tuple[str, InputSchema]:
        return _described(getattr(self.method, "__func__", self.method))

    @property
    @override
    def definition(self) -> dict[str, Any]:
        description, schema = self._described
        return {"name": self.name, "description": description, "input_schema": schema}

    @override
    async def call(self, arguments: dict[str, Any]) -> JSON:
        method = self.method
        function = getattr(method, "__func__", None)
        checked = (
            _checked(method) if function is None else partial(_checked(function), method.__self__)
        )
        try:
            return await checked(**arguments)
        except pydantic.ValidationError as error:
            raise ValueError(f"Invalid arguments for function {self.name}") from error


def tools_of(agent: object) -> list[Tool]:
    """Return the tools of an agent or of its class, by name.

    A fixed order keeps the prompt's cache valid.
    """
    # Looked at without being asked for: a property of the agent would run, and may want the tools.
    marked = (name for name in dir(agent) if hasattr(inspect.getattr_static(agent, name), _MARK))
    methods = [getattr(agent, name) for name in sorted(marked)]
    return [_tool(method, getattr(method, _MARK)) for method in methods]


def _tool(method: MethodType, mark: _Mark) -> Tool:
    return MethodTool(
        name=str(method.__name__),
        effect=mark.effect,
        target=mark.target,
        timeout=mark.timeout,
        approve=mark.approve,
        acts=mark.acts,
        method=method,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool(Tool):
    """A function as a tool, or a method that is not async; the latter runs in a thread."""

    function: BetaAsyncFunctionTool[Any] | BetaFunctionTool[Any]

    @property
    @override
    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.function.description,
            "input_schema": self.function.input_schema,
        }

    @override
    async def call(self, arguments: dict[str, Any]) -> JSON:
        if isinstance(self.function, BetaAsyncFunctionTool):
            return await self.function.call(arguments)
        return await asyncio.to_thread(self.function.call, arguments)


def tool_of(function: Callable[..., Any]) -> Tool:
    """Return a function or a bound method as a tool; one without a mark is `once`."""
    mark: _Mark = getattr(function, _MARK, _UNMARKED)
    if isinstance(function, MethodType) and inspect.iscoroutinefunction(function):
        return _tool(function, mark)
    kind = BetaAsyncFunctionTool if inspect.iscoroutinefunction(function) else BetaFunctionTool
    return FunctionTool(
        name=str(getattr(function, "__name__", "tool")),
        effect=mark.effect,
        target=mark.target,
        timeout=mark.timeout,
        approve=mark.approve,
        acts=mark.acts,
        function=kind(function),
    )


@functools.cache
def _described(function: Callable[..., Awaitable[JSON]]) -> tuple[str, InputSchema]:
    """Return a tool's description and schema, made once: the SDK never frees what it makes them by.

    That would be some 12 kB for each tool of each task, with all that the tool refers to.
    """
    tool = BetaAsyncFunctionTool[Any](MethodType(function, object()))
    return tool.description, tool.input_schema


@functools.cache
def _checked(function: Callable[..., Awaitable[JSON]]) -> Callable[..., Awaitable[JSON]]:
    """Return what checks a call's arguments as the SDK does, which would make it for each call."""
    return pydantic.validate_call(function)


# For the tool itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool."""

    key: str
    """Names the effect: of a keyed tool the same for the same target in the same task."""
    task_id: str | None
    agent_id: str
    has_read_outside: bool = False
    """Whether the conversation has read text that other people wrote."""


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Return the call that a tool carries out, from within it.

    Raises:
        RuntimeError: If no tool is being called here.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("current_call() is for a tool that the model has called") from None


def has_read_outside() -> bool:
    """Return whether what is done here is for a model that has read what other people wrote."""
    call = _current.get(None)
    return call is not None and call.has_read_outside


def in_call(call: Call) -> None:
    """Make this the call that the present asyncio task carries out."""
    _current.set(call)


# Answers.


def as_json(value: JSON) -> str:
    """Write what a tool returned as JSON; moments in ISO 8601, what is None left out of rows."""
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: JSON) -> JSON:
    """Return what a tool returned as values that JSON has."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value
