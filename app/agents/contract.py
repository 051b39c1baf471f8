"""What a class must be to run as an agent, and what it is given.

A class of one's own takes the place of one that ships by `<PREFIX>CLASS=package.module:Class`. It
needs `async def run_as_daemon(self, poll_interval)`, which runs until it is asked to stop, and a
constructor that takes an `AgentContext` (or nothing). The routines of R23 are methods of the same
names, `async` and without arguments; those that it lacks are not run. To have the task queue, the
tools and the records as well, derive it from `app.agents.base.DomainAgent`.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from .spec import AgentOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo

    from anthropic import AsyncAnthropic

    from app.hands import Hands
    from app.store.protocol import Store

    from .activity import Activity
    from .prices import PriceTable


class Agent(Protocol):
    """What the daemon asks of an agent."""

    async def run_as_daemon(self, poll_interval: float) -> None:
        """Work until asked to stop.

        Inside, `actp_supervise.current_child()` says when that is: `stopping`, `cancel_on_stop()`.
        To return is to end; an error is a crash, after which a new instance is made and run.

        Args:
            poll_interval: Seconds between two looks for work.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentContext:
    """What an agent is given: who it is, and its ways out of its loop."""

    agent_id: str
    model: str
    worker_id: str
    instance: str
    """The daemon's start, unlike `worker_id` never the same twice."""
    run_id: str | None
    """The row of this run in `actp_agent_runs`."""
    store: Store
    """The store, callable from the agent's loop; it waits while the database is away."""
    activity: Activity
    make_client: Callable[[], AsyncAnthropic]
    """Makes the client of our own conversations, which book what they do by themselves."""
    wait_for_work: Callable[[float], Awaitable[None]]
    """Returns after so many seconds, or sooner when a task was posted."""
    prices: PriceTable
    daily_budget_usd: float | None
    timezone: tzinfo
    task_lease: float
    options: AgentOptions = field(default_factory=AgentOptions)
    """How it holds its conversations."""
    hands: Hands | None = None
    """What it can do besides its own methods; they live on Trio's side."""
    redact: Callable[[str], str] = str
    """Takes secrets out of a text; before it is cut, for the half of one is not known."""
    clients: list[AsyncAnthropic] = field(default_factory=list, repr=False, compare=False)
    """What `claude` has made."""
    is_routine: bool = False
    """Whether it is a routine's: then nothing is gained by waiting for long."""

    def claude(self) -> AsyncAnthropic:
        """Make a client of Claude's API, to be called in the agent's own loop.

        Its calls of the messages API are counted, kept within the budgets, repeated and shown as
        those of a `DomainAgent` are: see `app.agents.counted`.
        """
        from .counted import counted  # takes seconds to import, and not every class needs it

        client = counted(self)
        self.clients.append(client)
        return client

    async def aclose(self) -> None:
        """Close what was made here."""
        for client in self.clients:
            await client.close()
        self.clients.clear()


class AgentClassError(Exception):
    """A class cannot be an agent; the message is one line for the operator."""


def load_agent_class(path: str) -> type[Agent]:
    """Import a class by `package.module:Class` and check that it can be an agent.

    Raises:
        AgentClassError: If there is no such class, or it cannot be one.
    """
    module_name, separator, class_name = path.partition(":")
    if not (separator and module_name and class_name):
        raise AgentClassError(f"{path!r} is not of the form package.module:Class")
    try:
        module = importlib.import_module(module_name)
        cls = getattr(module, class_name, None)
    except (Exception, SystemExit) as error:
        raise AgentClassError(
            f"cannot import {module_name!r} for {path!r}: {type(error).__name__}: {error}"
        ) from error
    if not inspect.isclass(cls):
        raise AgentClassError(f"module {module_name!r} has no class {class_name!r}")
    _check(cls, path)
    return cast("type[Agent]", cls)


def make_agent(cls: type[Agent], context: AgentContext) -> Agent:
    """Make an instance; its constructor gets what it has parameters for."""
    arguments, keywords = _arguments(cls, context, str(cls))
    return cls(*arguments, **keywords)


def takes_context(cls: type[Agent]) -> bool:
    """Return whether the class is given a context, without which it has no queue and no tools."""
    arguments, keywords = _arguments(cls, None, str(cls))
    return bool(arguments or keywords.keys() - {"model"})


def has_routine(cls: type[Agent], method: str) -> bool:
    """Say whether the class has a routine of that name."""
    return inspect.iscoroutinefunction(getattr(cls, method, None))


def _check(cls: type, path: str) -> None:
    method = getattr(cls, "run_as_daemon", None)
    if not inspect.iscoroutinefunction(method):
        raise AgentClassError(f"{path!r} has no 'async def run_as_daemon(self, poll_interval)'")
    try:
        inspect.signature(method).bind(None, 1.0)
    except TypeError as error:
        raise AgentClassError(
            f"{path!r}: run_as_daemon must take a poll_interval: {error}"
        ) from None
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise AgentClassError(f"{path!r} is abstract; it does not define {missing}")
    _arguments(cls, None, path)


def _arguments(
    cls: type, context: AgentContext | None, path: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the constructor is to be called with: `context` and `model`, by name."""
    offered = {"context": context, "model": None if context is None else context.model}
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError) as error:
        raise AgentClassError(
            f"{path!r}: what its constructor takes is not known: {error}"
        ) from None
    takes_context = "context" in parameters
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keywords |= {key: value for key, value in offered.items() if key not in parameters}
            continue
        if name in offered:
            value = offered[name]
        elif parameter.default is not inspect.Parameter.empty:
            continue
        elif takes_context or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            raise AgentClassError(
                f"{path!r}: its constructor wants {name!r}, which nobody can give; it may take "
                "'context' and 'model'"
            )
        else:  # the context by another name
            value, takes_context = context, True
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            keywords[name] = value
    return tuple(positional), keywords
