"""The agents' own tables, which their tools read and write row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.store.verbs import Noun, verb


class DomainTable(StrEnum):
    """The agents' own tables, which their tools read and write row by row."""

    ENGAGEMENT_ACTIONS = "actp_engagement_actions"
    VIRAL_TEMPLATES = "actp_viral_templates"
    DEAL_LOG = "actp_deal_log"
    REVENUE_GOALS = "actp_revenue_goals"
    WEEKLY_SNAPSHOTS = "actp_weekly_snapshots"
    REPORTS = "actp_reports"


DOMAIN_COLUMNS: Mapping[DomainTable, Mapping[str, str]] = {
    DomainTable.ENGAGEMENT_ACTIONS: {
        "platform": "text",
        "action": "text",  # like, comment, follow, reply, share, message
        "target": "text",  # a post's or a person's address or handle
        "content": "text",
        "reason": "text",
        "status": "text",  # queued, approved, rejected, done, failed, unknown, skipped
        "result": "text",
        "settled_at": "moment",
    },
    DomainTable.VIRAL_TEMPLATES: {
        "name": "text",
        "platform": "text",
        "hook": "text",
        "body": "text",
        "tags": "json",
        "score": "number",
        "uses": "integer",
        "status": "text",  # template, archived; draft, approved, rejected, done, failed, unknown
        "template_id": "text",  # a draft's template
        "source": "text",  # where a template was found
        "result": "text",  # what came of a draft once it was approved
    },
    DomainTable.DEAL_LOG: {
        "name": "text",
        "company": "text",
        "contact": "text",
        "source": "text",
        "stage": "text",  # prospect, contacted, qualified, proposal, won, lost
        "value_usd": "number",
        "next_action": "text",
        "next_action_at": "moment",
        "notes": "text",
        "status": "text",  # approved, rejected; none for what nobody has looked at
    },
    DomainTable.REVENUE_GOALS: {
        "period": "text",  # 2026-11, 2026-W47 or 2026-11-23
        "metric": "text",
        "target": "number",
        "actual": "number",
        "notes": "text",
        "status": "text",  # approved, rejected; none for what nobody has looked at
    },
    DomainTable.WEEKLY_SNAPSHOTS: {
        "week": "text",  # ISO week, 2026-W47
        "metrics": "json",
        "summary": "text",
    },
    DomainTable.REPORTS: {
        "kind": "text",  # daily_check, weekly_report, cost_audit
        "period": "text",  # 2026-W47 or 2026-11-23
        "text": "text",
        "metrics": "json",
        "flag": "text",  # what in it needs a look of the operator's
        "status": "text",  # approved, rejected; none for what nobody has looked at
        "sent_by": "text",  # telegram
        "sent_at": "moment",
        "not_sent": "text",  # why it was not sent
    },
}
"""Columns of each domain table and their kind, without those that all have."""

COMMON_COLUMNS: Mapping[str, str] = {
    "agent_id": "text",  # whose agent's it is
    "from_outside": "text",  # who wrote what stands in it, where other people may have
}
"""Columns that every domain table has besides `id`, `created_at` and `updated_at`."""


def domain_columns(table: DomainTable) -> dict[str, str]:
    """Return all columns of a domain table with their kind, those that every one has included."""
    own = DOMAIN_COLUMNS[table]
    moments = {"created_at": "moment", "updated_at": "moment"}
    return {"id": "text", **own, **COMMON_COLUMNS, **moments}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rows of a domain table, in which order. Conditions are and-ed."""

    equal: Mapping[str, Any] = field(default_factory=dict)
    one_of: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """Text columns that are one of several texts, or empty."""
    contains: Mapping[str, str] = field(default_factory=dict)
    """Text columns that contain a text, upper and lower case alike."""
    order_by: str = "created_at"
    """Rows without a value there come last, in either direction."""
    descending: bool = True
    before: str | None = None
    """The id of a row: only rows that come behind it, the newest first; none if it is not there."""
    limit: int = 20


Row = dict[str, Any]
"""A row of a domain table: its columns by name, moments as aware datetimes, json as values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """What in a table that was there before would refuse every row of the worker."""

    table: str
    column: str
    """Empty where it is the whole table."""
    why: str
    command: str
    """The SQL that helps."""

    def __str__(self) -> str:
        of_column = f"column {self.column} of " if self.column else ""
        return f"{of_column}table {self.table} {self.why} ({self.command})"


class Tables(Noun):
    """Rows of the agents' own tables."""

    @verb
    async def select(self, table: DomainTable, query: Query) -> list[Row]:
        """Return rows; unknown columns are a `StoreError`."""

    @verb
    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        """Add a row under an id of the caller's; if that id is there, return it unchanged."""

    @verb
    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        """Change columns of a row and its `updated_at`; None if there is no such row."""
