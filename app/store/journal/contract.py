"""What was done: turns of conversations, calls of tools, effects, and fires of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.store.verbs import JSON, Noun, Seconds, verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One step of the conversation about a task (`actp_task_turns`)."""

    id: str
    task_id: str
    agent_id: str
    run_id: str | None
    step: int
    """Which reply of the model it belongs to, from 1; 0 is the opening."""
    role: str
    """user (the opening), assistant, or tool (what the tools of that step answered)."""
    content: JSON
    """A list of blocks, as the model's API has them."""
    meta: dict[str, Any] | None = None
    """What is known of the step beside its blocks (`app.agents.history`); None in what a daemon
    before 0.3 has recorded."""
    created_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool (`actp_tool_call_log`)."""

    id: str
    agent_id: str
    run_id: str | None
    task_id: str | None
    tool: str
    arguments: dict[str, Any]
    duration: float
    """Seconds."""
    error: str | None = None
    """What the model was told went wrong; None where it went well."""
    result: str | None = None
    """What the model was told, cut to a bounded length."""
    called_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStats:
    """How one tool of an agent has done in a time span."""

    tool: str
    calls: int
    errors: int
    mean_duration: float
    max_duration: float
    last_called_at: datetime


class Kept(StrEnum):
    """What is kept for a time: see `Journal.forget_old`."""

    TURNS = "turns"
    TASKS = "tasks"
    """Tasks that are over, with their turns."""
    RUNS = "runs"
    TOOL_CALLS = "tool_calls"
    COSTS = "costs"
    FIRES = "fires"
    EFFECTS = "effects"
    APPROVALS = "approvals"
    WORKERS = "workers"
    HISTORY = "history"
    """How many tasks ended, by quarters of an hour."""
    REQUESTS = "requests"
    """Which claims and reservations were made, so that a copy that arrives late does nothing."""


class Effect(StrEnum):
    """What is known of an effect that a tool is about to have."""

    NEW = "new"
    """Never begun: go on, then call `finish_effect`."""
    DONE = "done"
    """Done before; its stored result is to be handed back instead of doing it again."""
    UNKNOWN = "unknown"
    """Begun and never finished: its worker was killed in the middle. Verify by reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectState:
    """The answer to `begin_effect`."""

    state: Effect
    result: JSON = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """One moment of one scheduled job, claimed by one daemon (`actp_job_runs`)."""

    job_name: str
    scheduled_at: datetime
    worker_id: str
    claimed_at: datetime
    finished_at: datetime | None
    outcome: str | None
    """One of the scheduler's outcomes; None while it runs."""
    error: str | None


class Journal(Noun):
    """What agents and the scheduler have done."""

    @verb
    async def record_turn(self, turn: Turn, *, token: str | None = None) -> bool:
        """Record a step of a conversation.

        Args:
            turn: The step.
            token: The claim under which its task is done; None for no check.

        Returns:
            False if the task is not held by that claim any more; then nothing is recorded.
        """

    @verb
    async def record_answer(
        self, turn: Turn, *, call: ToolCall, effect: str | None = None, token: str | None = None
    ) -> bool:
        """Record what a tool answered: as a step, in the log of calls, and as an effect's result.

        All in one transaction. Where the claim is lost the step alone is not recorded, because the
        tool was called all the same.

        Args:
            turn: The step; its content is the effect's result.
            call: The call for the log.
            effect: The effect that is finished by it.
            token: As of `record_turn`.

        Returns:
            As `record_turn`.
        """

    @verb
    async def turns(
        self, task_id: str, *, after: str | None = None, limit: int = 200
    ) -> list[Turn]:
        """Return the steps of a task's conversation, in order.

        Args:
            task_id: The task.
            after: The id of the last one that is known already; of one that is not there, from
                the beginning.
            limit: The most to return.
        """

    @verb
    async def forget_old(self, what: Kept, *, older_than: Seconds, limit: int) -> int:
        """Delete what is over for long, the oldest first; return how much it was.

        The sums of costs stay, as does the latest fire of each job, and what a task needs that is
        not over: it may wait for a person for longer than anything is kept.

        Args:
            what: Of which kind.
            older_than: Seconds that it is over at least.
            limit: The most to delete at once, for that takes time.
        """

    @verb
    async def record_tool_call(self, call: ToolCall) -> None:
        """Log a tool call."""

    @verb
    async def tool_calls(
        self, *, agent_id: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[ToolCall]:
        """Return logged calls, newest first."""

    @verb
    async def tool_stats(self, agent_id: str, *, within: Seconds = 86_400.0) -> list[ToolStats]:
        """Return statistics by tool over the last `within` seconds, most called first."""

    @verb
    async def begin_effect(
        self, key: str, *, agent_id: str, task_id: str | None, token: str | None = None
    ) -> EffectState:
        """Ask leave for an effect that must not happen twice, and note that it begins.

        Repeated with the `token` that began it, it is new again: so a lost answer is not taken
        for a kill in the middle.
        """

    @verb
    async def finish_effect(self, key: str, result: JSON) -> None:
        """Note that an effect happened, with what is to be answered if it is asked for again."""

    @verb
    async def drop_effect(self, key: str) -> None:
        """Note that an effect did not happen after all, so that it may be tried again."""

    @verb
    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        """Claim one moment of one job; exactly one of several daemons gets True.

        Repeated by the daemon that has it, it is True again until the fire is finished. No moment
        of a routine that is paused (`Registry.set_routine_paused`) can be claimed.
        """

    @verb
    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record how the run of a claimed moment ended.

        What was marked interrupted, because its daemon was taken for dead, ends as this says.
        """

    @verb
    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""

    @verb
    async def fires(self, job_name: str, *, limit: int = 20) -> list[Fire]:
        """Return a job's fires, latest moment first."""
