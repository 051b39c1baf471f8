"""The reasons for anything but good health: each kind declared once, and a reason as a value.

`app.health` says when there is one; `/health`, the page, alerts and docs/reference/health.md are
made of what stands here.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from app.facts import fact

if TYPE_CHECKING:
    from collections.abc import Iterable


Name = tuple[str, str | None, str | None]
"""What tells a reason from all others: its kind, its agent, and which of several of these."""


class ReasonKind(StrEnum):
    """One kind of reason: when it holds, and what to do about it."""

    when: str
    """When it holds; it ends when that does."""
    advice: str
    """What to do."""
    shared: bool
    """Whether all daemons that share a store see it alike, so that one of them tells of it."""

    def __new__(cls, value: str, when: str, advice: str, shared: bool = False) -> ReasonKind:  # noqa: FBT001, FBT002
        """Make a member of its value and what belongs to it."""
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.when, kind.advice, kind.shared = when, advice, shared
        return kind

    DAEMON_STOPPING = (
        "daemon_stopping",
        "The daemon was asked to stop, and lets work in flight finish.",
        "Wait; a second SIGTERM ends it at once.",
    )
    LOOP_BLOCKED = (
        "loop_blocked",
        "Code has blocked the loop that all share, now or within the last 300 s.",
        "Give the agent that is named ISOLATION=thread or process.",
    )
    AGENT_TROUBLE = (
        "agent_trouble",
        "An agent is stopped, has crashed, waits for its restart or for the store, or has had no "
        "call of the model succeed for 60 s.",
        "Look at its page for the error. Restart it when the cause is gone.",
    )
    AGENT_PAUSED = (
        "agent_paused",
        "An agent takes no tasks: an operator paused it, or it paused itself for its budget or "
        "its key.",
        "Resume it, or do what its reason says and restart it.",
    )
    STORE_AWAY = (
        "store_away",
        "The store cannot be reached, by the daemon or by an agent.",
        "See that the database runs and can be reached. Nothing is lost meanwhile.",
        True,
    )
    TABLES_MISSING = (
        "tables_missing",
        "The database lacks a table or a column.",
        "Run python -m app.main --migrate, then restart the daemon.",
        True,
    )
    RECORD_GIVEN_UP = (
        "record_given_up",
        "The store refuses a record of the daemon.",
        "The log of the daemon has the record and the error.",
    )
    ROWS_UNREADABLE = (
        "rows_unreadable",
        "A task made by hand could not be read and has failed, within the last 24 hours.",
        "Repair the value that its error names and retry it, or delete the row.",
        True,
    )
    TASKS_FAILING = (
        "tasks_failing",
        "The last three tasks of an agent, or more, all failed; or of six or more that ended "
        "within the hour most did. A success ends the first, a day or an hour either.",
        "Read the error of the last task. When the cause is gone, retry what failed.",
    )
    QUEUE_UNSERVED = (
        "queue_unserved",
        "Tasks are queued for an agent that no daemon runs, or whose class takes none.",
        "Enable or start the agent, or cancel the tasks.",
        True,
    )
    QUEUE_WAITS = (
        "queue_waits",
        "The oldest task that an agent could take has waited longer than WORKER_LONGEST_WAIT. One "
        "that waits on purpose does not count: for its not_before, or for an approval.",
        "See what the agent does. More WORKERS or another daemon do more at once.",
        True,
    )
    ROUTINE_FAILED = (
        "routine_failed",
        "The last run of a routine failed, timed out or was interrupted.",
        "Read its error, then run it again from the page.",
        True,
    )
    ROUTINE_MISSED = (
        "routine_missed",
        "The last time of a routine passed without a run, because no daemon was up.",
        "Run it from the page if it still matters.",
        True,
    )
    ROUTINE_LATE = (
        "routine_late",
        "A routine was due more than five minutes ago and has not begun.",
        "See whether the store is away; else restart the daemon.",
    )
    BUDGET_NEAR = (
        "budget_near",
        "80 % or more of a daily budget is spent: an agent's, or that of all together.",
        "Raise the budget and reload the settings, or let it rest until midnight.",
        True,
    )
    COSTS_UNUSUAL = (
        "costs_unusual",
        "The last cost audit of the revenue agent found a day that cost more than twice as much as "
        "those of the week before, and $1 at least. It ends with the next audit that finds none, "
        "after a day, or when a person has decided about the report.",
        "Look what cost it on the pages of the agents. Approve the report once you know.",
        True,
    )
    APPROVALS_WAIT = (
        "approvals_wait",
        "A tool's call has waited for an approval for a minute.",
        "Approve or deny it on the page, or by --approve or --deny.",
        True,
    )
    SERVER_AWAY = (
        "server_away",
        "An MCP server that an agent uses cannot be reached.",
        "See that its command or address works; the agent goes on without its tools.",
    )
    ERRORS_LOGGED = (
        "errors_logged",
        "An agent of a plain class has logged three errors or more within ten minutes.",
        "Read its lines in the log of the daemon: it catches its errors itself.",
    )
    ALERTS_FAILING = (
        "alerts_failing",
        "An alert could not be delivered, or the heartbeat address does not answer.",
        "Try python -m app.main --alert-test, which says why.",
    )


@fact
class Reason:
    """Why the daemon is not healthy."""

    key: ReasonKind
    agent_id: str | None = None
    """The agent that it is about."""
    text: str
    """What is wrong, with the number, on one line."""
    number: float | None = None
    """How much or how many, where that is a number."""
    since: datetime | None = None
    """Since when."""
    advice: str
    """What to do."""
    what: str | None = None
    """Which of several that are about one agent: a routine, a server."""

    @property
    def name(self) -> Name:
        """What tells it from all other reasons, for as long as it holds."""
        return self.key, self.agent_id, self.what


def reason(
    key: ReasonKind,
    text: str,
    *,
    agent_id: str | None = None,
    number: float | None = None,
    since: datetime | None = None,
    what: str | None = None,
) -> Reason:
    """Make a reason with the advice of its kind."""
    return Reason(
        key=key,
        agent_id=agent_id,
        text=text,
        number=number,
        since=since,
        advice=key.advice,
        what=what,
    )


class Beginnings:
    """Since when each reason holds, of those that do not know it themselves."""

    def __init__(self) -> None:
        self._since: dict[Name, datetime] = {}

    def of(self, reasons: Iterable[Reason], now: datetime) -> tuple[Reason, ...]:
        """Return the reasons that hold now, each with the moment when it was first seen."""
        reasons = tuple(reasons)
        self._since = {each.name: self._since.get(each.name, now) for each in reasons}
        return tuple(
            each if each.since else dataclasses.replace(each, since=self._since[each.name])
            for each in reasons
        )
