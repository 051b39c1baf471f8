"""What agents make for people to decide about: drafts, actions, deals, goals and reports.

Each is a row of one of the agents' own tables. `KINDS` says of each kind once what it is called,
what of it a person may change, and in which state which verdict is possible; the API, the pages,
the commands and the agents read it here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.facts import to_json
from app.store.protocol import DomainTable, NewReview, Query, ReviewRow, Verdict
from app.store.records import moment_text

if TYPE_CHECKING:
    from app.store.protocol import Row, Store

NEW: Final = "new"
"""The status of a row that has none: a person has not looked at it."""

MOST_REVIEWS: Final = 1_000
"""Reviews that are read for one list of items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What all kinds have."""

    id: str
    agent_id: str | None
    """The agent that made it; null for a row of before."""
    status: str
    """Where it stands."""
    from_outside: str | None
    """Who wrote what stands in it, where other people may have."""
    created_at: datetime
    updated_at: datetime
    reviews: list[ReviewRow] = field(default_factory=list)
    """What people have said of it, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft(Item):
    """A text that is ready but for a person's word (`actp_viral_templates`)."""

    name: str | None
    platform: str | None
    hook: str | None
    """Its first line."""
    body: str | None
    tags: list[str]
    template_id: str | None
    """The template that it was made from."""
    result: str | None
    """What came of it once it was approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(Item):
    """What is worth doing on a platform (`actp_engagement_actions`)."""

    platform: str | None
    action: str | None
    """like, comment, follow, reply, share or message."""
    target: str | None
    """The address or handle of a post or person."""
    content: str | None
    """What is said."""
    reason: str | None
    result: str | None
    """What came of it."""
    settled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal(Item):
    """A deal on its way through the pipeline (`actp_deal_log`)."""

    name: str | None
    company: str | None
    contact: str | None
    source: str | None
    """Where they were found."""
    stage: str | None
    """prospect, contacted, qualified, proposal, won or lost."""
    value_usd: float | None
    next_action: str | None
    next_action_at: datetime | None
    notes: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal(Item):
    """What is to be reached in a period (`actp_revenue_goals`)."""

    period: str | None
    """A month, an ISO week or a day."""
    metric: str | None
    target: float | None
    actual: float | None
    """What it has reached; null where nobody recorded it."""
    notes: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Item):
    """What a routine tells the operator (`actp_reports`)."""

    kind: str | None
    """daily_check, weekly_report or cost_audit."""
    period: str | None
    text: str | None
    metrics: dict[str, Any]
    """Its numbers by name."""
    flag: str | None
    """What in it needs a look."""
    sent_by: str | None
    """By which way it was sent; null where it is kept here only."""
    sent_at: datetime | None
    not_sent: str | None
    """Why it was not sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of items."""

    name: str
    """As in addresses and commands."""
    one: str
    """One of them, in words."""
    summary: str
    table: DomainTable
    row: type[Item]
    agent_id: str
    """The agent that makes them, where the row does not say."""
    new: str = NEW
    """The status of one that a person is still to decide about."""
    others: tuple[str, ...] = ("approved", "rejected")
    """The other statuses that one can have."""
    edits: tuple[str, ...]
    """The columns that a person may change."""
    editable: tuple[str, ...]
    """The statuses in which they may."""
    steps: Mapping[Verdict, tuple[str, ...]]
    """Verdict -> the statuses in which it is possible; it becomes the status."""
    rejected: Mapping[str, Any] = field(default_factory=dict)
    """What a rejection sets besides the status."""
    released: tuple[str, ...] = ()
    """The fields that a tool of the user's is given, which carries out what was approved; none
    where nothing is to be carried out."""

    @property
    def releases(self) -> bool:
        """Whether an approval may release it to a tool of the user's."""
        return bool(self.released)

    @property
    def statuses(self) -> tuple[str, ...]:
        """All statuses that one can have, the new ones first."""
        return (self.new, *self.others)

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns that must be as the person saw them when they decided."""
        return tuple(dict.fromkeys(("status", *self.edits, *self.rejected)))


_CARRIED_OUT: Final = ("approved", "rejected", "done", "failed", "unknown")

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            name="drafts",
            one="draft",
            summary="Texts that are ready but for a person's word",
            table=DomainTable.VIRAL_TEMPLATES,
            row=Draft,
            agent_id="content",
            new="draft",
            others=_CARRIED_OUT,
            edits=("name", "platform", "hook", "body", "tags"),
            editable=("draft",),
            steps={
                Verdict.APPROVED: ("draft", "failed", "unknown"),
                Verdict.REJECTED: ("draft", "approved", "failed", "unknown"),
                Verdict.DONE: ("approved", "failed", "unknown"),
            },
            released=("id", "name", "platform", "hook", "body", "tags"),
        ),
        Kind(
            name="actions",
            one="action",
            summary="What is worth doing on social media",
            table=DomainTable.ENGAGEMENT_ACTIONS,
            row=Action,
            agent_id="social",
            new="queued",
            others=(*_CARRIED_OUT, "skipped"),
            edits=("platform", "target", "content", "reason"),
            editable=("queued",),
            steps={
                Verdict.APPROVED: ("queued", "failed", "unknown"),
                Verdict.REJECTED: ("queued", "approved", "failed", "unknown"),
                Verdict.DONE: ("approved", "failed", "unknown"),
            },
            released=("id", "platform", "action", "target", "content", "reason"),
        ),
        Kind(
            name="deals",
            one="deal",
            summary="Deals, from the prospect to the end",
            table=DomainTable.DEAL_LOG,
            row=Deal,
            agent_id="acquisition",
            edits=(
                "name", "company", "contact", "source", "stage", "value_usd", "next_action",
                "next_action_at", "notes",
            ),
            editable=(NEW, "approved"),
            steps={Verdict.APPROVED: (NEW, "rejected"), Verdict.REJECTED: (NEW, "approved")},
            rejected={"stage": "lost", "next_action": None, "next_action_at": None},
        ),
        Kind(
            name="goals",
            one="goal",
            summary="What is to be reached, and what was",
            table=DomainTable.REVENUE_GOALS,
            row=Goal,
            agent_id="revenue",
            edits=("target", "actual", "notes"),
            editable=(NEW, "approved"),
            steps={Verdict.APPROVED: (NEW, "rejected"), Verdict.REJECTED: (NEW, "approved")},
        ),
        Kind(
            name="reports",
            one="report",
            summary="What routines tell the operator",
            table=DomainTable.REPORTS,
            row=Report,
            agent_id="revenue",
            edits=("text",),
            editable=(NEW, "approved", "rejected"),
            steps={Verdict.APPROVED: (NEW, "rejected"), Verdict.REJECTED: (NEW, "approved")},
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a person says of an item."""

    verdict: Verdict
    comment: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    by: str
    """Who says it, and where."""
    seen: datetime | None = None
    """When the item that they looked at was last changed; None where that is not told."""


_CHANGED: Final = "The {one} has changed meanwhile: look at it again."


class NotPossible(Exception):
    """It cannot be decided so, as it stands; the message says why, for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPage:
    """Some of the items that are wanted."""

    items: list[Item]
    next: str | None
    """The cursor of the page behind it; None where it is the last one."""


async def items_of(
    store: Store,
    kind: Kind,
    *,
    status: str | None = None,
    agent_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> ItemPage:
    """Return items with what was said of them, the newest first.

    Args:
        store: Where they are.
        kind: What they are.
        status: Only those that stand there.
        agent_id: Only those of this agent.
        cursor: The id of an item: only those behind it, and none if it is not there.
        limit: The most to return.
    """
    wanted = kind.statuses if status is None else (status,)
    query = Query(
        equal={} if agent_id is None else {"agent_id": agent_id},
        one_of={} if status is None and not _shares_table(kind) else _with_status(wanted),
        before=cursor,
        limit=limit + 1,  # one more, by which it is known that there is a next page
    )
    rows = await store.select(kind.table, query)
    shown = rows[:limit]
    return ItemPage(
        items=await _read(store, kind, shown),
        next=str(shown[-1]["id"]) if len(rows) > len(shown) else None,
    )


async def item_of(store: Store, kind: Kind, item_id: str) -> tuple[Item, Row] | None:
    """Return an item and its row as the store has it; None if it is not there."""
    query = Query(
        equal={"id": item_id}, one_of=_with_status(kind.statuses) if _shares_table(kind) else {}
    )
    rows = await store.select(kind.table, query)
    if not rows:
        return None
    (item,) = await _read(store, kind, rows)
    return item, rows[0]


async def decide(store: Store, kind: Kind, item: Item, row: Row, said: Said) -> ReviewRow:
    """Do what a person says of an item, and keep it.

    Args:
        store: Where it is.
        kind: What it is.
        item: The item as it was shown.
        row: Its row.
        said: What is said.

    Returns:
        The review that is kept; one that was kept before, where the same is said again.

    Raises:
        NotPossible: If it stands where that is not possible, or is another by now.
    """
    last = item.reviews[0] if item.reviews else None
    if last is not None and _is_same(last, said, kind):
        return last
    if said.seen is not None and to_json(said.seen) != to_json(item.updated_at):
        raise NotPossible(_CHANGED.format(one=kind.one))
    _check(kind, item, said)
    changes = dict(said.changes)
    if said.verdict is not Verdict.EDITED:
        changes["status"] = said.verdict.value
    if said.verdict is Verdict.REJECTED:
        changes |= kind.rejected
    review = NewReview(
        id=uuid.uuid4().hex,
        table_name=kind.table,
        row_id=item.id,
        verdict=said.verdict,
        comment=said.comment,
        reviewed_by=said.by,
    )
    kept = await store.review_row(
        review, shown={name: row[name] for name in kind.shown}, changes=changes
    )
    if kept is None:
        raise NotPossible(_CHANGED.format(one=kind.one))
    return kept


def _is_same(last: ReviewRow, said: Said, kind: Kind) -> bool:
    """Whether the last review says the same, as after an answer that was lost."""
    same = (last.verdict, last.comment, last.reviewed_by) == (said.verdict, said.comment, said.by)
    edited = {name: value for name, value in last.after.items() if name in kind.edits}
    if said.verdict is Verdict.REJECTED:
        edited = {name: value for name, value in edited.items() if name not in kind.rejected}
    return same and edited == _plain(said.changes)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a review keeps them."""
    return {
        name: moment_text(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def _check(kind: Kind, item: Item, said: Said) -> None:
    """Refuse what is not possible as the item stands.

    Raises:
        NotPossible: If it is not.
    """
    last = next((each for each in item.reviews if each.verdict is not Verdict.EDITED), None)
    whom = "" if last is None else f" by {last.reviewed_by}"
    when = "" if last is None else f" at {last.reviewed_at:%Y-%m-%d %H:%M} UTC"
    stands = f"it is {item.status}{whom}{when}"
    if said.verdict is not Verdict.EDITED and item.status not in kind.steps.get(said.verdict, ()):
        raise NotPossible(f"The {kind.one} cannot be {said.verdict}: {stands}.")
    if said.changes and item.status not in kind.editable:
        raise NotPossible(f"The {kind.one} cannot be changed any more: {stands}.")


async def _read(store: Store, kind: Kind, rows: Sequence[Row]) -> list[Item]:
    ids = [str(row["id"]) for row in rows]
    said: dict[str, list[ReviewRow]] = {}
    if ids:
        for review in await store.reviews(table_name=kind.table, row_ids=ids, limit=MOST_REVIEWS):
            said.setdefault(review.row_id, []).append(review)
    return [read_item(kind, row, said.get(str(row["id"]), [])) for row in rows]


def read_item(kind: Kind, row: Row, reviews: Sequence[ReviewRow] = ()) -> Item:
    """Make an item of a row. What a person wrote by hand may be of any form."""
    values = {each.name: row.get(each.name) for each in fields(kind.row)}
    values |= {"status": row["status"] or kind.new, "reviews": list(reviews)}
    if "tags" in values:
        tags = values["tags"] if isinstance(values["tags"], list) else []
        values["tags"] = [str(tag) for tag in tags]
    if "metrics" in values and not isinstance(values["metrics"], dict):
        values["metrics"] = {}
    return msgspec.convert(values, kind.row, strict=False)


def _shares_table(kind: Kind) -> bool:
    """Whether rows of another kind stand in its table, as templates do beside drafts."""
    return kind.table is DomainTable.VIRAL_TEMPLATES


def _with_status(statuses: Sequence[str]) -> dict[str, list[str | None]]:
    wanted: list[str | None] = [None if status == NEW else status for status in statuses]
    return {"status": wanted}


# What an approval releases.

RELEASE: Final = "release"
"""Under which name a task's context says what it releases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a task releases to a tool of the user's: an item that a person has approved."""

    kind: str
    id: str
    review: str
    """The review by which it was approved; each approval is one release."""

    @property
    def task_id(self) -> str:
        """The id of its task, which is posted once."""
        return str(uuid.uuid5(_RELEASES, self.review))

    @property
    def context(self) -> dict[str, Any]:
        """The facts of its task."""
        return {RELEASE: {"kind": self.kind, "id": self.id, "review": self.review}}

    @property
    def goal(self) -> str:
        """What its task is about, in words."""
        return f"Carry out the {KINDS[self.kind].one} {self.id}, as a person has approved it."


_RELEASES: Final = uuid.UUID("a5a44f1e-4a4d-5b0e-8f0a-2c6f3f9f6a41")


def release_of(context: Mapping[str, Any]) -> Release | None:
    """Return what a task releases by its facts; None for any other task."""
    match context.get(RELEASE):
        case {"kind": str(kind), "id": str(item_id), "review": str(review)} if kind in KINDS:
            return Release(kind=kind, id=item_id, review=review)
        case _:
            return None
