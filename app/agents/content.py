"""The content agent: templates of what went viral, and drafts made from them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from app.store.protocol import DomainTable, Query, Row

from .base import Cursor, DomainAgent, most_of, part_of
from .tools import JSON, ToolError, current_call, tool

Platform = Annotated[str, Field(min_length=1, max_length=40, pattern="^[a-z0-9_.-]+$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Hook = Annotated[str, Field(min_length=1, max_length=500)]
Body = Annotated[str, Field(min_length=1, max_length=8_000)]
Limit = Annotated[int, Field(ge=1, le=100)]

TABLE = DomainTable.VIRAL_TEMPLATES

WEAR = 1.0
"""Points of its score that a template loses by each draft made from it, or every day would have the
same three."""


class ContentCreationDomainAgent(DomainAgent):
    """Collects what went viral, and drafts content from it."""

    prompt: ClassVar[str] = """\
You are the content agent of EverReach. You keep a collection of templates, the patterns behind
posts that went viral, and draft posts from them.

A template is a pattern and not a post: its hook and body name what varies in {braces}. Its score
from 0 to 100 says how well it works for us: judge the hook first, then how easily it carries our
topics, and give little for a trick that has worn out. A draft is finished text that somebody only
has to approve: it keeps the template's pattern, fits its platform, has one thought and no filler,
and states nothing as a fact that you do not know."""

    @tool(effect="read")
    async def find_viral_templates(
        self,
        search: Annotated[str, Field(max_length=200)] | None = None,
        platform: Platform | None = None,
        limit: Limit = 10,
        cursor: Cursor = None,
    ) -> JSON:
        """Find templates, the best score first; those without a score come last.

        Args:
            search: A text that the template's name, hook or body contains.
            platform: Only those for this platform, in lower case, such as "linkedin".
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        most = most_of(cursor, limit)
        equal = {"status": "template", **({"platform": platform} if platform else {})}
        rows: dict[str, Row] = {}
        for column in ("name", "hook", "body"):
            contains = {column: search} if search else {}
            query = Query(equal=equal, contains=contains, order_by="score", limit=most)
            rows |= {row["id"]: row for row in await self.store.select(TABLE, query)}
            if not search:
                break
        best = sorted(rows.values(), key=lambda row: row["score"] or 0.0, reverse=True)
        return {"source": TABLE, **part_of("templates", best, cursor, limit)}

    @tool(effect="keyed", target=("platform", "name"))
    async def save_viral_template(
        self,
        name: Name,
        platform: Platform,
        hook: Hook,
        body: Body,
        tags: Annotated[list[str], Field(max_length=20)] | None = None,
    ) -> JSON:
        """Save a template, unless there is one of that name for that platform.

        Args:
            name: What to call it.
            platform: Where it works, in lower case.
            hook: Its first line, with {braces} around what varies.
            body: The pattern of the rest.
            tags: Words to find it by.
        """
        same = {"name": name, "platform": platform, "status": "template"}
        there = await self.store.select(TABLE, Query(equal=same))
        if there and there[0]["id"] != current_call().key:
            return {"already_there": there[0]}
        values = {**same, "hook": hook, "body": body, "tags": tags or [], "uses": 0}
        return {"saved": await self.store.insert(TABLE, current_call().key, values)}

    @tool(effect="keyed", target="call")
    async def score_viral_template(
        self, template_id: str, score: Annotated[float, Field(ge=0, le=100)]
    ) -> JSON:
        """Give a template a score.

        Args:
            template_id: The id of the template.
            score: How well it works for us, from 0 to 100.
        """
        await self._template(template_id)
        return {"scored": await self.store.update(TABLE, template_id, {"score": score})}

    @tool(effect="keyed", target=("template_id", "platform", "variant"))
    async def draft_content(
        self,
        template_id: str,
        platform: Platform,
        title: Name,
        hook: Hook,
        body: Body,
        variant: Annotated[int, Field(ge=1, le=10)] = 1,
    ) -> JSON:
        """Save a draft that was written from a template.

        Args:
            template_id: The id of the template.
            platform: For which platform it is, in lower case.
            title: What to call the draft.
            hook: Its first line, as it is to appear.
            body: The rest of the text, as it is to appear.
            variant: 2, 3 and so on for further drafts from the same template and platform.
        """
        template = await self._template(template_id)
        values: dict[str, Any] = {
            "name": title,
            "platform": platform,
            "hook": hook,
            "body": body,
            "tags": template["tags"],
            "status": "draft",
            "template_id": template_id,
        }
        row = await self.store.insert(TABLE, current_call().key, values)
        # Counted and not added to, so that it is right however often this is done.
        drafts = await self.store.select(
            TABLE, Query(equal={"template_id": template_id}, limit=10_000)
        )
        await self.store.update(TABLE, template_id, {"uses": len(drafts)})
        return {"drafted": row}

    @tool(effect="read")
    async def list_drafts(
        self, platform: Platform | None = None, limit: Limit = 20, cursor: Cursor = None
    ) -> JSON:
        """List the drafts, the newest first.

        Args:
            platform: Only those for this platform, in lower case.
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        equal = {"status": "draft", **({"platform": platform} if platform else {})}
        rows = await self.store.select(TABLE, Query(equal=equal, limit=most_of(cursor, limit)))
        return {"source": TABLE, **part_of("drafts", rows, cursor, limit)}

    async def run_daily_pipeline(self) -> dict[str, Any]:
        """Score the templates that have no score, and draft from the best ones."""
        templates = await self.store.select(
            TABLE, Query(equal={"status": "template"}, order_by="score", limit=1_000)
        )
        unscored = [row for row in templates if row["score"] is None]
        rested = sorted(
            (row for row in templates if row["score"] is not None),
            key=lambda row: WEAR * (row["uses"] or 0) - row["score"],
        )
        return await self.routine(
            "run_daily_pipeline",
            "Run today's content pipeline. First score the templates that have no score yet. Then "
            "draft one piece of content from each of the best three templates, for its own "
            "platform. If there are fewer than three templates, save new ones first, from what you "
            "know of patterns that work.",
            context={
                "templates": len(templates),
                "without_score": [_in_short(row) for row in unscored[:20]],
                "best": [_in_short(row) for row in rested[:5]],
            },
            needs_tool=True,
        )

    async def _template(self, template_id: str) -> Row:
        rows = await self.store.select(
            TABLE, Query(equal={"id": template_id, "status": "template"})
        )
        if not rows:
            raise ToolError(f"template_id: there is no template {template_id!r}")
        return rows[0]


def _in_short(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "name", "platform", "hook", "score", "uses")}
