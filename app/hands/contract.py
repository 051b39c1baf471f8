"""What a hand is: tools for an agent beyond its own methods, and what is known of each.

Another kind of hand is a module that has a `Kind`, and a line in `app.hands.kinds`. Hands live on
Trio's side, where the supervisor is: an agent's asyncio code calls them by `run_in_trio`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import pydantic

Json: TypeAlias = Any
"""A value that JSON has; moments and `Decimal` are written as text."""

Effect = Literal["read", "keyed", "once"]
"""What may be done about a call that was cut off in the middle.

``read`` changes nothing and is repeated. ``keyed`` is repeated under the same key, by which the
service knows it. ``once`` is not repeated: the model is told that its end is unknown.
"""

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds that a call may take where a tool does not give a time of its own."""

OptionsT = TypeVar("OptionsT", bound=pydantic.BaseModel)
ArgumentsT = TypeVar("ArgumentsT", bound="Arguments")


class HandError(Exception):
    """A tool could not do what was asked, and changed nothing; the text is for the model."""


class OutcomeUnknownError(HandError):
    """A tool that changes something was cut off: it may have had its effect; the text says so."""


class SetUpError(Exception):
    """A hand cannot be set up as it is configured; the message is one line for the operator."""


class Options(pydantic.BaseModel):
    """What an operator may say about a hand in the file of agents."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Address = Annotated[str, pydantic.Field(pattern=r"^https?://[^/?#\s]+$")]
"""Where an API is, without a path."""


class Arguments(pydantic.BaseModel):
    """What the model gives a tool; the docstring is the tool's description."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of the environment that a hand needs."""

    name: str
    purpose: str
    required: bool = True
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One call of a tool."""

    arguments: Mapping[str, Json]
    key: str
    """Of a ``keyed`` tool, the same for each try at the same effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandTool:
    """A tool that a hand gives to the model."""

    name: str
    description: str
    schema: Mapping[str, Json]
    """The JSON schema of its arguments."""
    effect: Effect
    call: Callable[[Use], Awaitable[Json]]
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that a call may take."""
    approve: bool = False
    """Whether each call needs a person's approval unless the operator says otherwise."""
    acts: bool = False
    """Whether it changes something that others than the operator see."""
    source: str | None = None
    """Where its answers come from, if other people may have written them."""

    @property
    def definition(self) -> dict[str, Json]:
        """What the Messages API is told of it."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": dict(self.schema),
        }


def needs_approval(tool: HandTool, *, has_read_outside: bool) -> bool:
    """Return whether a call needs a person's approval where nothing is configured about it.

    Args:
        tool: The tool.
        has_read_outside: Whether the conversation has read text that other people wrote, which may
            be what makes the model want the call.
    """
    return tool.approve or (tool.acts and has_read_outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool that the Messages API runs itself."""

    name: str
    entry: Mapping[str, Json]
    """Its place among the `tools` of a request."""


def _no_tools() -> Sequence[HandTool]:
    return ()


def _no_problem() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """A set of tools, as it is open."""

    name: str
    tools: Callable[[], Sequence[HandTool]] = _no_tools
    """Returns its tools; those of an MCP server are known when it has once been there."""
    server_tools: tuple[ServerTool, ...] = ()
    problem: Callable[[], str | None] = _no_problem
    """Returns why it does not work now, and what to do, in one line for the operator."""
    for_model: bool = True
    """Whether the model gets its tools, or the agent's own code alone."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts that must be in no answer and no error, besides its secret variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What a hand is opened with."""

    options: Mapping[str, Json]
    """As they stand in the file of agents; `options_of` checks them."""
    variables: Mapping[str, str]
    """The variables of the environment that may be used, by name."""


def _no_check(setup: SetUp) -> None:
    """Find nothing wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of hand, as `app.hands.kinds` lists it."""

    name: str
    """By which an agent asks for it."""
    summary: str
    options: type[pydantic.BaseModel]
    open: Callable[[SetUp], AbstractAsyncContextManager[Hand]]
    variables: tuple[Variable, ...] = ()
    check: Callable[[SetUp], object] = _no_check
    """Checks what its options alone do not tell, without opening anything; raises `SetUpError`."""
    package: str | None = None
    """The package that it needs besides those of the daemon, from the dependency group `hands`."""


def options_of(options: type[OptionsT], given: Mapping[str, Json], name: str) -> OptionsT:
    """Check what an operator says about a hand.

    Raises:
        SetUpError: If it is wrong; the message names each key.
    """
    try:
        return options.model_validate(dict(given))
    except pydantic.ValidationError as error:
        raise SetUpError(f"{name}: {field_errors(error)}") from None


def tool_of(
    name: str,
    arguments: type[ArgumentsT],
    call: Callable[[ArgumentsT, Use], Awaitable[Json]],
    *,
    effect: Effect,
    timeout: float = DEFAULT_TIMEOUT,
    approve: bool = False,
    acts: bool = False,
    source: str | None = None,
) -> HandTool:
    """Make a tool of a function; the class of its arguments describes it and checks them."""

    async def checked(use: Use) -> Json:
        try:
            given = arguments.model_validate(dict(use.arguments))
        except pydantic.ValidationError as error:
            raise HandError(f"Invalid arguments. {field_errors(error)}") from None
        return await call(given, use)

    schema = arguments.model_json_schema()
    description = schema.pop("description")
    return HandTool(
        name=name,
        description=description,
        schema=schema,
        effect=effect,
        call=checked,
        timeout=timeout,
        approve=approve,
        acts=acts,
        source=source,
    )


def field_errors(error: pydantic.ValidationError) -> str:
    """Return which fields are wrong and how, without the values, which may be secrets."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(problems)
