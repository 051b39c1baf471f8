"""The hands of one agent: opened together, called by the names of their tools."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.service import make_redactor

from .contract import (
    Hand,
    HandError,
    HandTool,
    Json,
    Kind,
    OutcomeUnknownError,
    ServerTool,
    SetUp,
    SetUpError,
    Use,
    Variable,
    options_of,
)
from .kinds import KINDS
from .untrusted import from_outside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

logger = logging.getLogger(__name__)

_UNKNOWN_END: Final = (
    " It may have had its effect, or not. Do not simply call it again: find out with a tool that "
    "reads, or say in your last answer that it is not known."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A hand that an agent asks for."""

    name: str
    options: Mapping[str, Json] = field(default_factory=dict)
    optional: bool = False
    """Whether the agent works without it, where it cannot be set up."""
    for_model: bool = True
    """Whether the model gets its tools, or the agent's own code alone."""


def variables_of(names: Iterable[str]) -> tuple[Variable, ...]:
    """Return the variables that some kinds of hands can be given; unknown kinds have none."""
    found = {
        variable.name: variable
        for name in names
        if name in KINDS
        for variable in KINDS[name].variables
    }
    return tuple(found.values())


def check_hands(wanted: Sequence[Wanted], variables: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the hands that an agent asks for, a line each; opens nothing.

    Args:
        wanted: The hands.
        variables: The variables that are set.
    """
    problems = []
    for one in wanted:
        try:
            _check(one, variables)
        except SetUpError as error:
            problems.append(str(error))
    return problems


def _check(wanted: Wanted, variables: Mapping[str, str]) -> Kind:
    kind = KINDS.get(wanted.name)
    if kind is None:
        near = difflib.get_close_matches(wanted.name, KINDS, n=1)
        hint = f", did you mean {near[0]!r}" if near else ""
        raise SetUpError(f"there is no tool {wanted.name!r}{hint}; known are {', '.join(KINDS)}")
    missing = [
        variable.name
        for variable in kind.variables
        if variable.required and not variables.get(variable.name)
    ]
    if missing:
        raise SetUpError(f"{kind.name}: {', '.join(missing)} must be set")
    if kind.package is not None and find_spec(kind.package) is None:
        raise SetUpError(
            f"{kind.name}: the package {kind.package!r} is not installed: pip install --group hands"
        )
    options_of(kind.options, wanted.options, kind.name)
    kind.check(SetUp(options=wanted.options, variables=variables))
    return kind


@asynccontextmanager
async def open_hands(
    wanted: Sequence[Wanted], variables: Mapping[str, str]
) -> AsyncIterator[Hands]:
    """Open the hands that an agent asks for, and close them in reverse order.

    An MCP server that is away is no reason not to open: `Hands.problems` has it, and it is tried
    again by a supervisor's backoff for as long as the block lasts.

    Args:
        wanted: The hands.
        variables: The variables of the environment that they may use.

    Raises:
        SetUpError: If one cannot be set up as it is configured.
    """
    async with AsyncExitStack() as stack:
        hands = []
        secrets = []
        lacking = []
        for one in wanted:
            try:
                kind = _check(one, variables)
                setup = SetUp(options=one.options, variables=variables)
                hand = await stack.enter_async_context(kind.open(setup))
            except SetUpError as error:
                if not one.optional:
                    raise
                lacking.append(str(error))
                continue
            hands.append(replace(hand, for_model=one.for_model))
            secrets += [
                variables[variable.name]
                for variable in kind.variables
                if variable.secret and variables.get(variable.name)
            ]
        yield Hands(hands, secrets, lacking)


class Hands:
    """The hands of one agent; its workers share them.

    Args:
        hands: What is open.
        secrets: Texts that are taken out of every answer and every error.
        lacking: Why optional ones are not open.
    """

    def __init__(
        self, hands: Sequence[Hand], secrets: Iterable[str] = (), lacking: Sequence[str] = ()
    ) -> None:
        self._hands = tuple(hands)
        self.lacking = tuple(lacking)
        """Why hands that the agent works without are not open, a line each."""
        self._redact = make_redactor(
            [*secrets, *(secret for hand in hands for secret in hand.secrets)]
        )

    @property
    def server_tools(self) -> tuple[ServerTool, ...]:
        """The tools that the Messages API runs itself, by name."""
        found = [tool for hand in self._hands for tool in hand.server_tools]
        return tuple(sorted(found, key=lambda tool: tool.name))

    @property
    def problems(self) -> tuple[str, ...]:
        """Why some of it does not work now: reasons for the health of the agent."""
        found = (hand.problem() for hand in self._hands)
        return tuple(self._redact(problem) for problem in found if problem is not None)

    def tools(self) -> tuple[HandTool, ...]:
        """Return the tools that can be called, by name.

        A conversation keeps those that it began with: a tool more or less would make the cache of
        its prompt worthless.
        """
        return self._of(self._hands)

    def tools_for_model(self) -> tuple[HandTool, ...]:
        """Return the tools that the model may call, by name."""
        return self._of([hand for hand in self._hands if hand.for_model])

    def _of(self, hands: Iterable[Hand]) -> tuple[HandTool, ...]:
        found = {tool.name: tool for hand in hands for tool in hand.tools()}
        return tuple(found[name] for name in sorted(found))

    async def call(self, name: str, arguments: Mapping[str, Json], *, key: str) -> Json:
        """Call a tool; its time-out is an error of the tool.

        Args:
            name: The tool.
            arguments: As the model gave them.
            key: Of a keyed tool, the same for each try at the same effect.

        Returns:
            The answer as JSON; what other people may have written is marked (`from_outside`).

        Raises:
            HandError: If nothing came of it; the text is for the model.
            OutcomeUnknownError: If it may have had its effect all the same.
        """
        tool = next((tool for tool in self.tools() if tool.name == name), None)
        if tool is None:
            raise HandError(f"There is no tool {name!r}.")
        try:
            with trio.fail_after(tool.timeout):
                answer = await tool.call(Use(arguments=arguments, key=key))
        except trio.TooSlowError:
            raise _cut_off(tool, f"{name} took longer than {tool.timeout:.0f} s.") from None
        except HandError as error:
            raise type(error)(self._redact(str(error))) from None
        except Exception as error:
            extra = {"action": "tool_failed", "tool": name}
            logger.error("Tool %s failed", name, exc_info=error, extra=extra)
            raise _cut_off(tool, f"{name} failed for a reason not in its arguments.") from None
        answer = self._cleaned(answer)
        return answer if tool.source is None else from_outside(tool.source, answer)

    def _cleaned(self, value: Json) -> Json:
        """Return an answer without secrets: a page or a server may show what it was sent."""
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {str(name): self._cleaned(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._cleaned(item) for item in value]
        return value


def _cut_off(tool: HandTool, text: str) -> HandError:
    """Return what the model is told of a call that did not come to its end."""
    if tool.effect == "read":
        return HandError(f"{text} It changes nothing: go on without it, or ask for less.")
    if tool.effect == "keyed":
        safe = " It may have had its effect; the same call again is safe."
        return OutcomeUnknownError(text + safe)
    return OutcomeUnknownError(text + _UNKNOWN_END)
