"""The social media agent: engagement actions, queued and settled."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.store.protocol import DomainTable, Query

from .base import Cursor, DomainAgent, most_of, part_of
from .tools import JSON, ToolError, current_call, tool

Platform = Annotated[str, Field(min_length=1, max_length=40, pattern="^[a-z0-9_.-]+$")]
Action = Literal["like", "comment", "follow", "reply", "share", "message"]
Status = Literal["queued", "approved", "rejected", "done", "failed", "unknown", "skipped"]

OPEN = ("queued", "approved")
"""What an action is that nobody has carried out."""

WITH_WORDS = {"comment", "reply", "message"}
"""Actions that need something to say."""

TABLE = DomainTable.ENGAGEMENT_ACTIONS


class SocialMediaDomainAgent(DomainAgent):
    """Decides whom to engage with on social media, and keeps the list of it."""

    prompt: ClassVar[str] = """\
You are the social media agent of EverReach. You decide which posts and people are worth engaging
with, and keep the queue of engagement actions: likes, comments, follows, replies, shares and
messages. Nothing that you queue is carried out before a person has approved it: then a tool of
theirs does it, or they do it themselves. You settle an action when you are told what became of it.

Before you queue an action, look whether one for the same target is there already. Write comments
and messages as a person would: specific to the target, friendly, short, without sales talk, never
the same text twice. Give the reason for every action. Rather queue three good actions than ten
indifferent ones, and learn from those that the person rejected."""

    @tool(effect="read")
    async def list_engagement_actions(
        self,
        status: Status | None = None,
        platform: Platform | None = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: Cursor = None,
    ) -> JSON:
        """List engagement actions, the newest first.

        Args:
            status: Only those; by default all. Queued ones wait for a person, approved ones to be
                carried out; of unknown ones nobody knows whether they were.
            platform: Only those on this platform, in lower case, such as "linkedin".
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        given = {"status": status, "platform": platform}
        equal = {name: value for name, value in given.items() if value}
        rows = await self.store.select(TABLE, Query(equal=equal, limit=most_of(cursor, limit)))
        return {"source": TABLE, **part_of("actions", rows, cursor, limit)}

    @tool(effect="keyed", target=("platform", "action", "target"))
    async def queue_engagement_action(
        self,
        platform: Platform,
        action: Action,
        target: Annotated[str, Field(min_length=1, max_length=500)],
        content: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None,
        reason: Annotated[str, Field(max_length=500)] | None = None,
    ) -> JSON:
        """Queue an engagement action, unless the same one waits in the queue already.

        Args:
            platform: Where, in lower case, such as "linkedin" or "x".
            action: What to do.
            target: The address or handle of the post or person.
            content: What to say; needed for comment, reply and message.
            reason: Why it is worth doing.
        """
        if action in WITH_WORDS and content is None:
            raise ToolError(f"content: a {action} needs the text that is to be said")
        same = {"platform": platform, "action": action, "target": target}
        there = await self.store.select(
            TABLE, Query(equal=same, one_of={"status": [*OPEN, "rejected"]})
        )
        others = [row for row in there if row["id"] != current_call().key]
        if others and others[0]["status"] == "rejected":
            return {"rejected_before_by_a_person": others[0]}
        if others:
            return {"already_queued": others[0]}
        values: dict[str, Any] = {**same, "content": content, "reason": reason, "status": "queued"}
        return {"queued": await self.store.insert(TABLE, current_call().key, values)}

    @tool(effect="keyed", target="call")
    async def settle_engagement_action(
        self,
        action_id: str,
        status: Literal["done", "failed", "skipped"],
        result: Annotated[str, Field(max_length=1_000)] | None = None,
    ) -> JSON:
        """Note what became of a queued action.

        Args:
            action_id: The id of the action.
            status: How it ended.
            result: What came of it, or why it failed or was skipped.
        """
        rows = await self.store.select(TABLE, Query(equal={"id": action_id}))
        if not rows:
            raise ToolError(f"action_id: there is no action {action_id!r}")
        if rows[0]["status"] not in OPEN:
            raise ToolError(f"action_id: it is settled already, as {rows[0]['status']}")
        values = {"status": status, "result": result, "settled_at": await self.now()}
        return {"settled": await self.store.update(TABLE, action_id, values)}
