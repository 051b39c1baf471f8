"""The acquisition agent: prospects, and deals on their way through the pipeline."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.store.protocol import DomainTable, Query, Row, Verdict

from .base import Cursor, DomainAgent, most_of, part_of
from .tools import JSON, ToolError, current_call, tool

Stage = Literal["prospect", "contacted", "qualified", "proposal", "won", "lost"]
Short = Annotated[str, Field(min_length=1, max_length=200)]
Notes = Annotated[str, Field(min_length=1, max_length=2_000)]

CLOSED = ("won", "lost")
QUIET_AFTER = timedelta(days=7)
"""A deal without a change for so long wants a look."""

MOST_SHOWN = 50
"""Deals that the pipeline advance shows at once, those that have waited longest."""

MOST_KNOWN = 300
"""Names of deals that prospecting is told of, so that it offers none of them again."""

NOT_AGAIN = 20
"""Prospects that a person has rejected, with the reasons, that prospecting is told of."""

IDEAL_CUSTOMER = "ideal_customer"
"""What the file of agents calls the description of whom to look for."""

TABLE = DomainTable.DEAL_LOG


class AcquisitionDomainAgent(DomainAgent):
    """Finds prospects and moves deals on."""

    prompt: ClassVar[str] = """\
You are the acquisition agent of EverReach. You keep the log of deals: you add prospects, move deals
from stage to stage (prospect, contacted, qualified, proposal, then won or lost), and see to it that
every open deal has a next action with a date.

Move a deal only when something happened that justifies it, and say what that was in the note. A
next action is one concrete step that one person can do in one sitting, with the day on which it is
due. Never invent a company, a person, a conversation or an amount: what you do not know stays
empty. A prospect fits the ideal customer that the operator describes, and its source is the address
where you found it. A person looks through what you add: what they rejected is not added again."""

    @tool(effect="read")
    async def list_deals(
        self,
        stage: Stage | None = None,
        search: Annotated[str, Field(max_length=200)] | None = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: Cursor = None,
    ) -> JSON:
        """List deals, the one whose next action is due first before the others.

        Args:
            stage: Only those at this stage.
            search: A text that the deal's name contains.
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        query = Query(
            equal={"stage": stage} if stage else {},
            contains={"name": search} if search else {},
            order_by="next_action_at",
            descending=False,
            limit=most_of(cursor, limit),
        )
        rows = await self.store.select(TABLE, query)
        return {"source": TABLE, **part_of("deals", rows, cursor, limit)}

    @tool(effect="keyed", target=("name", "company"))
    async def add_prospect(
        self,
        name: Short,
        company: Short | None = None,
        contact: Short | None = None,
        source: Short | None = None,
        value_usd: Annotated[float, Field(ge=0, le=1e9)] | None = None,
        notes: Notes | None = None,
    ) -> JSON:
        """Add a prospect as a new deal, unless an open deal of that name and company is there.

        Args:
            name: What to call the deal: the person or the project.
            company: The company.
            contact: An address or handle at which they can be reached.
            source: Where they were found: the address of the page, if it was one.
            value_usd: What the deal may be worth, in US dollars.
            notes: What is known of them.
        """
        equal: dict[str, Any] = {"name": name, "company": company}
        same = await self.store.select(TABLE, Query(equal=equal, limit=100))
        rejected = [deal for deal in same if deal["status"] == Verdict.REJECTED]
        if rejected:
            return {"rejected_before_by_a_person": rejected[0]}
        there = [deal for deal in same if deal["stage"] not in CLOSED]
        if there and there[0]["id"] != current_call().key:
            return {"already_there": there[0]}
        values: dict[str, Any] = {
            "name": name,
            "company": company,
            "contact": contact,
            "source": source,
            "value_usd": value_usd,
            "notes": notes,
            "stage": "prospect",
        }
        return {"added": await self.store.insert(TABLE, current_call().key, values)}

    @tool(effect="keyed", target="call")
    async def move_deal(self, deal_id: str, stage: Stage, note: Notes) -> JSON:
        """Move an open deal to another stage.

        Args:
            deal_id: The id of the deal.
            stage: Where to.
            note: What happened that justifies it; it is added to the deal's notes.
        """
        deal = await self._open_deal(deal_id)
        if deal["stage"] == stage:
            raise ToolError(f"stage: the deal is at {stage} already")
        day = (await self.now()).date()
        line = f"{day} {deal['stage']} -> {stage}: {note}"
        values: dict[str, Any] = {
            "stage": stage,
            "notes": "\n".join(filter(None, (deal["notes"], line))),
        }
        if stage in CLOSED:
            values |= {"next_action": None, "next_action_at": None}
        return {"moved": await self.store.update(TABLE, deal_id, values)}

    @tool(effect="keyed", target="call")
    async def note_next_action(self, deal_id: str, next_action: Short, due: date) -> JSON:
        """Note the next step of an open deal, in place of the one before.

        Args:
            deal_id: The id of the deal.
            next_action: One concrete step.
            due: The day on which it is due; today or later.
        """
        await self._open_deal(deal_id)
        today = (await self.now()).date()
        if due < today:
            raise ToolError(f"due: must be today, {today}, or later")
        at = datetime.combine(due, time(), self.context.timezone)
        values = {"next_action": next_action, "next_action_at": at}
        return {"noted": await self.store.update(TABLE, deal_id, values)}

    async def run_pipeline_advance(self) -> dict[str, Any]:
        """See to the deals that are due, have no next action, or have been quiet for long."""
        query = Query(order_by="next_action_at", descending=False, limit=10_000)
        deals = await self.store.select(TABLE, query)
        now = (await self.now()).astimezone(UTC)
        waiting = [deal for deal in deals if deal["stage"] not in CLOSED and _wants_look(deal, now)]
        if not waiting:
            return {"text": "No deal is due, without a next action, or quiet.", "turns": 0}
        waiting.sort(key=lambda deal: urgency(deal, now))
        return await self.routine(
            "run_pipeline_advance",
            "Go through the deals in the context, which are due, have no next action, or have not "
            "changed for a week; the one that is overdue for longest comes first. Decide for each "
            "what the next step is and note the next action with its day; move a deal to lost if "
            "there is no sense in going on.",
            context={
                "deals": [self._in_short(deal, now) for deal in waiting[:MOST_SHOWN]],
                "in_all": len(waiting),
            },
            needs_tool=True,
        )

    async def run_daily_prospecting(self) -> dict[str, Any]:
        """Look for customers such as the operator describes, and give prospects a first step."""
        ideal = self.context.options.about.get(IDEAL_CUSTOMER)
        prospects = await self.store.select(TABLE, Query(equal={"stage": "prospect"}, limit=1_000))
        without_step = [deal for deal in prospects if deal["next_action_at"] is None]
        memories = await self.store.recall(self.agent_id, limit=1)
        why_not = self._why_not_look(ideal, remembers=bool(memories))
        if why_not is not None and not without_step:
            text = f"Nothing to go on: {why_not}, and no prospect lacks a next action."
            return {"text": text, "turns": 0}
        goal, context = [], {}
        if why_not is None:
            where = "Search the web" if self.can_search else "Look through your memory"
            goal.append(
                f"{where} for companies and people that fit the ideal customer, and add at most "
                "five that fit well as prospects: with how they can be reached, where you found "
                "them, and in the notes why they fit. Leave out those in the context, which are "
                "known already or were rejected. Rather add none than one that does not fit."
            )
            context = await self._known()
        if without_step:
            goal.append(
                "Note the first next action of the prospects in the context that have none."
            )
            now = (await self.now()).astimezone(UTC)
            context["without_next_action"] = [
                self._in_short(deal, now) for deal in without_step[:MOST_SHOWN]
            ]
        if why_not is not None:
            goal.append(f"Look for no others: {why_not}.")
        return await self.routine("run_daily_prospecting", " ".join(goal), context=context)

    def _why_not_look(self, ideal: str | None, *, remembers: bool) -> str | None:
        """Return why there is no looking for customers; None where there is something to go on."""
        if ideal is None:
            return (
                "the file of agents does not say whom to look for ("
                f"{IDEAL_CUSTOMER} in [agents.{self.agent_id}.about])"
            )
        if not self.can_search and not remembers:
            return (
                "there is no tool that searches (web_search in the tools of "
                f"[agents.{self.agent_id}]), and nothing is remembered"
            )
        return None

    async def _known(self) -> dict[str, Any]:
        """Return whom prospecting is not to offer, and what a person said of some of them."""
        deals = await self.store.select(TABLE, Query(limit=MOST_KNOWN))
        reviews = await self.store.reviews(
            table_name=TABLE, verdict=Verdict.REJECTED, limit=NOT_AGAIN
        )
        names = {deal["id"]: deal["name"] for deal in deals}
        return {
            "known": [
                {name: deal[name] for name in ("name", "company", "from_outside") if deal[name]}
                for deal in deals
            ],
            "rejected": [
                {"name": names.get(review.row_id), "why": review.comment} for review in reviews
            ],
        }

    async def _open_deal(self, deal_id: str) -> Row:
        rows = await self.store.select(TABLE, Query(equal={"id": deal_id}))
        if not rows:
            raise ToolError(f"deal_id: there is no deal {deal_id!r}")
        if rows[0]["stage"] in CLOSED:
            raise ToolError(f"deal_id: the deal is closed, as {rows[0]['stage']}")
        return rows[0]

    def _in_short(self, deal: Row, now: datetime) -> dict[str, Any]:
        names = ("id", "name", "company", "stage", "value_usd", "next_action", "from_outside")
        due: datetime | None = deal["next_action_at"]
        day = due.astimezone(self.context.timezone).date().isoformat() if due else None
        overdue = (now - due).days if due is not None and due <= now else None
        return {
            **{name: deal[name] for name in names if deal[name] is not None},
            **({"due": day} if day else {}),
            **({} if overdue is None else {"days_overdue": overdue}),
            "notes": (deal["notes"] or "")[-500:],
        }


def _wants_look(deal: Row, now: datetime) -> bool:
    due: datetime | None = deal["next_action_at"]
    quiet: bool = now - deal["updated_at"] > QUIET_AFTER
    return due is None or due <= now or quiet


def urgency(deal: Row, now: datetime) -> tuple[int, datetime]:
    """Return by what deals are put in order: the longest overdue, those without a step, quiet ones.

    Within the last two the one that has been left alone for longest comes first.
    """
    due: datetime | None = deal["next_action_at"]
    changed: datetime = deal["updated_at"]
    if due is None:
        return 1, changed
    return (0, due) if due <= now else (2, changed)
