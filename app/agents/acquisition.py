"""The acquisition agent: prospects, and deals on their way through the pipeline."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.store.protocol import DomainTable, Query, Row

from .base import Cursor, DomainAgent, most_of, part_of
from .tools import JSON, ToolError, current_call, tool

Stage = Literal["prospect", "contacted", "qualified", "proposal", "won", "lost"]
Short = Annotated[str, Field(min_length=1, max_length=200)]
Notes = Annotated[str, Field(min_length=1, max_length=2_000)]

CLOSED = ("won", "lost")
QUIET_AFTER = timedelta(days=7)
"""A deal without a change for so long wants a look."""

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
empty."""

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
            source: Where they were found.
            value_usd: What the deal may be worth, in US dollars.
            notes: What is known of them.
        """
        equal: dict[str, Any] = {"name": name, "company": company}
        same = await self.store.select(TABLE, Query(equal=equal, limit=100))
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
        return await self.routine(
            "run_pipeline_advance",
            "Go through the deals in the context, which are due, have no next action, or have not "
            "changed for a week. Decide for each what the next step is and note the next action "
            "with its day; move a deal to lost if there is no sense in going on.",
            context={
                "deals": [self._in_short(deal) for deal in waiting[:50]],
                "in_all": len(waiting),
            },
            needs_tool=True,
        )

    async def run_daily_prospecting(self) -> dict[str, Any]:
        """Turn what is known of possible customers into prospects with a first step."""
        prospects = await self.store.select(TABLE, Query(equal={"stage": "prospect"}, limit=1_000))
        without_step = [deal for deal in prospects if deal["next_action_at"] is None]
        if not without_step and not await self.store.recall(self.agent_id, limit=1):
            return {"text": "Nothing is remembered, and no prospect lacks a step.", "turns": 0}
        return await self.routine(
            "run_daily_prospecting",
            "Look through your memory for people and companies that could become customers and "
            "are in no deal yet, and add them as prospects. Then look at the deals at stage "
            "prospect and note the first next action of those that have none.",
        )

    async def _open_deal(self, deal_id: str) -> Row:
        rows = await self.store.select(TABLE, Query(equal={"id": deal_id}))
        if not rows:
            raise ToolError(f"deal_id: there is no deal {deal_id!r}")
        if rows[0]["stage"] in CLOSED:
            raise ToolError(f"deal_id: the deal is closed, as {rows[0]['stage']}")
        return rows[0]

    def _in_short(self, deal: Row) -> dict[str, Any]:
        names = ("id", "name", "company", "stage", "value_usd", "next_action")
        due: datetime | None = deal["next_action_at"]
        day = due.astimezone(self.context.timezone).date().isoformat() if due else None
        return {
            **{name: deal[name] for name in names if deal[name] is not None},
            **({"due": day} if day else {}),
            "notes": (deal["notes"] or "")[-500:],
        }


def _wants_look(deal: Row, now: datetime) -> bool:
    due: datetime | None = deal["next_action_at"]
    quiet: bool = now - deal["updated_at"] > QUIET_AFTER
    return due is None or due <= now or quiet
