"""DomainAgent: takes tasks from the queue, has Claude do them with tools, records how it went.

Derive from it, give it a `prompt`, and mark methods with `@tool`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from app.hands import MARK, outside_of

from .assistant import Assistant
from .patience import Patience
from .tools import JSON, tool, tools_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from app.store.protocol import MemoryRow, TaskRow

    from .contract import AgentContext
    from .outcomes import Outcome


class DomainAgent:
    """An agent that does tasks by conversations with Claude.

    What belongs to a conversation is in the conversation: the agent may hold several at once.

    Args:
        context: Who it is, and its ways out of its loop.
    """

    prompt: ClassVar[str]
    """Its job, told to the model."""
    max_turns: ClassVar[int] = 30
    """Replies of the model for one task, where MAX_TURNS says nothing else."""
    max_tokens: ClassVar[int] = 32_000
    """Tokens of one reply, its thinking included, where MAX_TOKENS says nothing else."""
    needs_tool: ClassVar[bool] = False
    """Whether a task has failed that ended without any tool having been called."""
    patience: ClassVar[Patience] = Patience()
    """How long it repeats calls of the model that fail."""

    def __init__(self, context: AgentContext) -> None:
        self.context = context
        self.store = context.store
        self.agent_id = context.agent_id
        self._activity = context.activity

    @cached_property
    def _assistant(self) -> Assistant:
        return Assistant(
            self.context,
            prompt=self.prompt,
            tools=tools_of(self),
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            needs_tool=self.needs_tool,
            patience=self.patience,
            converse=self.converse,
            ended=self.routine_ended,
        )

    async def run_as_daemon(self, poll_interval: float) -> None:
        """Do tasks until asked to stop; the one in flight is finished.

        Args:
            poll_interval: Seconds between two looks at an empty queue.
        """
        await self._assistant.work(poll_interval)

    async def converse(
        self,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        key: str,
        task_id: str | None = None,
        needs_tool: bool = False,
    ) -> Outcome:
        """Ask Claude to reach a goal with this agent's tools: see `Assistant.converse`.

        All tasks and routines pass through here, so that a class of its own may change how.
        """
        return await self._assistant.converse(
            goal, context=context, key=key, task_id=task_id, needs_tool=needs_tool
        )

    async def routine(
        self,
        name: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        needs_tool: bool = False,
    ) -> dict[str, Any]:
        """Do a routine's work with Claude, as a task that is begun at once: see `Assistant.do`."""
        return await self._assistant.do(name, goal, context=context, needs_tool=needs_tool)

    async def routine_ended(self, name: str, task: TaskRow, outcome: Outcome) -> None:
        """Do what a routine has to do once its conversation is over, on whatever day that is.

        It may be done again for the same task, after a kill.

        Args:
            name: The routine.
            task: Its task, which is still claimed.
            outcome: How the conversation ended.
        """

    # For routines and tools.

    @property
    def can_search(self) -> bool:
        """Whether its model has a tool that searches: the API's own, or one of its hands'."""
        hands = self.context.hands
        if hands is None:
            return False
        names = [tool.name for tool in hands.server_tools]
        names += [tool.name for tool in hands.tools_for_model()]
        return any("search" in name for name in names)

    async def now(self) -> datetime:
        """Return the present moment, by the store's clock, in the worker's zone."""
        return (await self.store.ping()).astimezone(self.context.timezone)

    @tool(effect="keyed", target="call")
    async def remember(
        self,
        key: Annotated[str, Field(min_length=1, max_length=200)],
        value: Annotated[str, Field(min_length=1, max_length=4_000)],
    ) -> JSON:
        """Keep something for later conversations; a key that is there already is overwritten.

        Args:
            key: A short name to find it by, such as "tone of voice".
            value: What to keep.
        """
        await self.store.remember(self.agent_id, key, value)
        return {"remembered": key}

    @tool(effect="read")
    async def recall(
        self,
        search: Annotated[str, Field(max_length=200)] | None = None,
        limit: Annotated[int, Field(ge=1, le=50)] = 10,
        cursor: Cursor = None,
    ) -> JSON:
        """Look up what was kept in earlier conversations, the newest first.

        Args:
            search: A text that the key or the value contains; without it, all.
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        memories = await self.store.recall(
            self.agent_id, search=search, limit=most_of(cursor, limit)
        )
        told = [
            {"key": memory.key, **_value_of(memory), "kept_at": memory.updated_at}
            for memory in memories
        ]
        return {"source": "own memory", **part_of("memories", told, cursor, limit)}


def _value_of(memory: MemoryRow) -> dict[str, Any]:
    """Return what was kept, and who may have written it where that is known."""
    outside = outside_of(memory.value)
    if outside is None:
        return {"value": memory.value}
    source, value = outside
    return {MARK: source, "value": value}


# For tools that list.

Cursor = Annotated[str, Field(pattern=r"^\d{1,6}$")] | None
"""The parameter by which a tool that lists is asked to go on."""


def most_of(cursor: str | None, limit: int) -> int:
    """Return how many rows to look up for `part_of`: one more than are shown up to there."""
    return int(cursor or 0) + limit + 1


def part_of(name: str, rows: Sequence[JSON], cursor: str | None, limit: int) -> dict[str, Any]:
    """Return the rows of one call, and where the next one goes on if there are more.

    >>> part_of("deals", [1, 2, 3], None, 2)
    {'deals': [1, 2], 'next_cursor': '2'}
    >>> part_of("deals", [1, 2, 3], "2", 2)
    {'deals': [3]}
    """
    begin = int(cursor or 0)
    end = begin + limit
    more = {"next_cursor": str(end)} if len(rows) > end else {}
    return {name: list(rows[begin:end]), **more}
