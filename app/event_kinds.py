"""The kinds of events: what each says, how it is coloured, and what it adds to the figures.

Whoever publishes one names its member; the page, the terminal, `/metrics` and the reference follow.
Those about the tree have the names of the library's events (`actp_supervise.events`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.figures import Tally, add, count, durations
from app.status import tone_of_facts
from app.tones import Tone

if TYPE_CHECKING:
    from collections.abc import Mapping


class EventKind(StrEnum):
    """One kind of event; OFF are the steps, of which a task brings dozens."""

    tone: Tone
    """By its kind alone; what came of it counts for more (`tone_of_event`)."""
    description: str
    tallies: tuple[Tally, ...]

    def __new__(cls, value: str, tone: Tone, description: str, *tallies: Tally) -> EventKind:
        """Make a member of its value and what belongs to it."""
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.tone, kind.description, kind.tallies = tone, description, tallies
        return kind

    @property
    def is_step(self) -> bool:
        """Whether a task at work brings dozens of it."""
        return self.tone is Tone.OFF

    CHILD_STARTED = "child_started", Tone.GOOD, "A run began."
    CHILD_CRASHED = "child_crashed", Tone.BAD, "A run ended by an error."
    CHILD_STALLED = (
        "child_stalled", Tone.BAD, "It gave no sign of life for too long and is ended."
    )  # fmt: skip
    RESTART_SCHEDULED = "restart_scheduled", Tone.WARN, "It will be started again."
    CHILD_FINISHED = "child_finished", Tone.PLAIN, "A run returned."
    CHILD_STOPPED = "child_stopped", Tone.PLAIN, "It was asked to stop and is gone."
    STOP_OVERDUE = "stop_overdue", Tone.WARN, "It was cancelled and is still there."
    CHILD_FAILED = "child_failed", Tone.BAD, "It ended by an error and is not started again."
    RESTART_LIMIT_REACHED = "restart_limit_reached", Tone.BAD, "A supervisor gives up."
    CLOCK_JUMPED = "clock_jumped", Tone.PLAIN, "The wall clock was set, or the machine slept."

    TASK_QUEUED = "task_queued", Tone.NEWS, "A task was posted, or is to be tried again."
    TASK_CLAIMED = "task_claimed", Tone.NEWS, "An agent took it."
    TASK_RELEASED = (
        "task_released", Tone.WARN, "It was handed back to the queue; the text says why."
    )  # fmt: skip
    TASK_CANCEL_REQUESTED = (
        "task_cancel_requested",
        Tone.PLAIN,
        "Somebody asked for it to be cancelled while it is done.",
    )
    TASK_FINISHED = (
        "task_finished",
        Tone.PLAIN,
        "It has ended.",
        count("actp_tasks_finished", "Tasks that ended here, by outcome.", "agent", "outcome"),
        durations(
            "seconds",
            "actp_task_duration_seconds",
            "Time from claim to end of tasks that were done here.",
            "agent",
            "outcome",
        ),
    )
    TASK_PARKED = (
        "task_parked", Tone.WARN, "It waits for a person's approval, and no worker has it."
    )  # fmt: skip
    TASK_LOST = "task_lost", Tone.WARN, "Its lease ran out and another daemon took it."

    APPROVAL_ASKED = (
        "approval_asked",
        Tone.WARN,
        "An agent asks whether it may call a tool.",
        count("actp_approvals_asked", "Approvals that were asked for here.", "agent", "tool"),
    )
    APPROVAL_DECIDED = (
        "approval_decided",
        Tone.PLAIN,
        "A person has decided, or it has expired; the text says who.",
        count("actp_approvals_decided", "Approvals that were decided here.", "agent", "status"),
    )

    ITEM_REVIEWED = (
        "item_reviewed",
        Tone.PLAIN,
        "A person has decided about a draft, an action, a deal, a goal or a report, or changed it.",
        count("actp_items_reviewed", "What people have said of items here.", "what", "verdict"),
    )

    TOOL_CALLED = (
        "tool_called",
        Tone.OFF,
        "A tool was called.",
        durations(
            "seconds", "actp_tool_duration_seconds", "Time that calls of tools took.",
            "agent", "tool",
        ),
        count("actp_tool_errors", "Calls of tools that failed.", "agent", "tool", only_if="failed"),
    )  # fmt: skip
    MODEL_CALLED = (
        "model_called",
        Tone.OFF,
        "The model answered.",
        count("actp_model_calls", "Calls of the model.", "agent", "model"),
        durations(
            "seconds", "actp_model_call_duration_seconds", "Time that calls of the model took.",
            "agent", "model",
        ),
        add("usd", "actp_cost_usd", "Spend in US dollars.", "agent", "model"),
        *(
            add(
                f"{use}_tokens",
                "actp_tokens",
                "Tokens by use: input, output, cache_read, cache_write.",
                "agent",
                "model",
                use=use,
            )
            for use in ("input", "output", "cache_read", "cache_write")
        ),
    )  # fmt: skip
    TURN = (
        "turn",
        Tone.OFF,
        "A step of the conversation was written down; `GET /tasks/{task_id}/turns` has it.",
    )
    AGENT_STATUS = "agent_status", Tone.PLAIN, "An agent's status is another."

    ROUTINE_STARTED = (
        "routine_started",
        Tone.NEWS,
        "It began.",
        durations("late", "actp_routine_lateness_seconds", "How late routines began.", "routine"),
    )
    ROUTINE_FINISHED = (
        "routine_finished",
        Tone.PLAIN,
        "It has ended, or was left out.",
        count("actp_routine_runs", "Runs of routines.", "routine", "outcome"),
        durations(
            "seconds", "actp_routine_duration_seconds", "Time that runs of routines took.",
            "routine",
        ),
    )  # fmt: skip

    HEALTH_CHANGED = "health_changed", Tone.PLAIN, "`/health` says something else."
    STORE_AWAY = "store_away", Tone.BAD, "The store cannot be reached; the text says why."
    STORE_BACK = "store_back", Tone.GOOD, "It can be again."
    LOOP_BLOCKED = "loop_blocked", Tone.BAD, "Some code held up everything else."
    TOKENS_WRONG = "tokens_wrong", Tone.WARN, "Many wrong tokens came from one address."
    SETTINGS_RELOADED = "settings_reloaded", Tone.NEWS, "The settings were read anew."
    DAEMON_STOPPING = "daemon_stopping", Tone.WARN, "The daemon was asked to stop."


def tone_of_event(kind: str, facts: Mapping[str, Any]) -> Tone:
    """Return how bad it is that an event happened: by what came of it, else by its kind.

    >>> tone_of_event("child_crashed", {}).name, tone_of_event("task_queued", {}).name
    ('BAD', 'NEWS')
    >>> tone_of_event("task_finished", {"outcome": "failed"}).name
    'BAD'
    """
    return tone_of_facts(facts) or _TONES.get(kind, Tone.PLAIN)


_TONES: Final = {kind.value: kind.tone for kind in EventKind}
