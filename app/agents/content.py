"""The content agent: templates of what went viral, and drafts made from them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.items import KINDS
from app.store.protocol import DomainTable, Query, ReviewRow, Row, Verdict

from .base import Cursor, DomainAgent, most_of, part_of
from .tools import JSON, ToolError, current_call, tool

Platform = Annotated[str, Field(min_length=1, max_length=40, pattern="^[a-z0-9_.-]+$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Hook = Annotated[str, Field(min_length=1, max_length=500)]
Body = Annotated[str, Field(min_length=1, max_length=8_000)]
Limit = Annotated[int, Field(ge=1, le=100)]

TABLE = DomainTable.VIRAL_TEMPLATES

DRAFTS = KINDS["drafts"]
Status = Literal["draft", "approved", "rejected", "done", "failed", "unknown"]

WEAR = 1.0
"""Points of its score that a template loses by each draft made from it."""

REST = timedelta(days=7)
"""How long a template rests after a draft made from it, or every day would have the same three."""

OFFERED = 3
"""Templates from which a day's drafts are made."""

MOST_REMEMBERED = 500
"""Drafts that are looked through for when a template was used last."""

MOST_TOLD = 30
"""Drafts that the pipeline is told of, so that it writes none of them again."""


class ContentCreationDomainAgent(DomainAgent):
    """Collects what went viral, and drafts content from it."""

    prompt: ClassVar[str] = """\
You are the content agent of EverReach. You keep a collection of templates, the patterns behind
posts that went viral, and draft posts from them.

A template is a pattern and not a post: its hook and body name what varies in {braces}, and its
source is the address where you saw it at work. Its score from 0 to 100 says how well it works for
us: judge the hook first, then how easily it carries our topics, and give little for a trick that
has worn out. A draft is finished text that a person only has to approve: it keeps the template's
pattern, fits its platform, the brand and the audience, has one thought and no filler, says nothing
that another draft has said, and states nothing as a fact that you do not know. Learn from what the
person said of earlier drafts."""

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
        source: Annotated[str, Field(min_length=1, max_length=500)] | None = None,
    ) -> JSON:
        """Save a template, unless there is one of that name for that platform.

        Args:
            name: What to call it.
            platform: Where it works, in lower case.
            hook: Its first line, with {braces} around what varies.
            body: The pattern of the rest.
            tags: Words to find it by.
            source: The address where it was seen at work; nothing where you only know it.
        """
        same = {"name": name, "platform": platform, "status": "template"}
        there = await self.store.select(TABLE, Query(equal=same))
        if there and there[0]["id"] != current_call().key:
            return {"already_there": there[0]}
        values = {**same, "hook": hook, "body": body, "tags": tags or [], "uses": 0}
        values |= {"source": source}
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
        self,
        platform: Platform | None = None,
        status: Status | None = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> JSON:
        """List the drafts, the newest first, with what a person has said of each.

        Args:
            platform: Only those for this platform, in lower case.
            status: Only those; by default all. A draft waits for a person; an approved one waits
                to be published, and one that is done has been.
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        rows = await self._drafts(most_of(cursor, limit), platform=platform, status=status)
        said = await self._said()
        shown = [{**row, **said.get(row["id"], {})} for row in rows]
        return {"source": TABLE, **part_of("drafts", shown, cursor, limit)}

    async def run_daily_pipeline(self) -> dict[str, Any]:
        """Find what goes viral, score what has no score, and draft from what has rested."""
        templates = await self.store.select(
            TABLE, Query(equal={"status": "template"}, order_by="score", limit=1_000)
        )
        drafts = await self._drafts(MOST_REMEMBERED)
        unscored = [row for row in templates if row["score"] is None]
        rested = rested_templates(templates, drafts, await self.now())
        said = await self._said()
        return await self.routine(
            "run_daily_pipeline",
            " ".join(
                (
                    "Run today's content pipeline.",
                    self._research(len(rested)),
                    "Score the templates that have no score yet.",
                    f"Then draft one piece of content from each of {OFFERED} templates, for its "
                    "own platform: from the best ones in the context, which have not been used of "
                    "late, or from new ones. The context has what was drafted before, and what a "
                    "person said of it: say something else.",
                )
            ),
            context={
                "templates": len(templates),
                "without_score": [_in_short(row) for row in unscored[:20]],
                "best": [_in_short(row) for row in rested[: OFFERED + 2]],
                "drafted_before": [
                    {**_draft_in_short(row), **said.get(row["id"], {})}
                    for row in drafts[:MOST_TOLD]
                ],
            },
            needs_tool=True,
        )

    def _research(self, rested: int) -> str:
        """Return what is to be done to have new templates."""
        missing = max(1, OFFERED - rested)
        if self.can_search:
            return (
                "First search the web for what has gone viral in the last days with this audience "
                f"and on its platforms, and save the patterns behind it, at least {missing}, as "
                "templates, each with the address where you saw it."
            )
        if rested >= OFFERED:
            return ""
        return (
            f"You cannot search the web, so first save {missing} new templates from what you know "
            "of patterns that work, and say in your report that they are not from research."
        )

    async def _drafts(
        self, limit: int, *, platform: str | None = None, status: str | None = None
    ) -> list[Row]:
        """Return drafts, the newest first."""
        wanted = DRAFTS.statuses if status is None else (status,)
        equal = {} if platform is None else {"platform": platform}
        query = Query(equal=equal, one_of={"status": wanted}, limit=limit)
        return await self.store.select(TABLE, query)

    async def _said(self) -> dict[str, dict[str, Any]]:
        """Return what a person said last of each draft, by its id."""
        said: dict[str, dict[str, Any]] = {}
        for review in await self.store.reviews(table_name=TABLE, limit=MOST_REMEMBERED):
            said.setdefault(review.row_id, _verdict(review))
        return said

    async def _template(self, template_id: str) -> Row:
        rows = await self.store.select(
            TABLE, Query(equal={"id": template_id, "status": "template"})
        )
        if not rows:
            raise ToolError(f"template_id: there is no template {template_id!r}")
        return rows[0]


def rested_templates(templates: list[Row], drafts: list[Row], now: datetime) -> list[Row]:
    """Return the templates from which the next drafts are to be made, the best first.

    One that was drafted from within the last week rests. Where fewer than three are left, those
    that have rested longest come after them.

    Args:
        templates: All templates.
        drafts: The drafts made from them, the newest first.
        now: The present moment.
    """
    used: dict[str, datetime] = {}
    for draft in drafts:
        used.setdefault(draft["template_id"], draft["created_at"])
    scored = [row for row in templates if row["score"] is not None]
    rested = [row for row in scored if row["id"] not in used or now - used[row["id"]] >= REST]
    rested.sort(key=lambda row: WEAR * (row["uses"] or 0) - row["score"])
    tired = [row for row in scored if row not in rested]
    tired.sort(key=lambda row: used[row["id"]])
    return rested + tired[: max(0, OFFERED - len(rested))]


def _in_short(row: Row) -> dict[str, Any]:
    names = ("id", "name", "platform", "hook", "score", "uses", "from_outside")
    return {name: row[name] for name in names if row[name] is not None}


def _draft_in_short(row: Row) -> dict[str, Any]:
    names = ("name", "platform", "hook", "status", "from_outside")
    return {name: row[name] for name in names if row[name] is not None}


def _verdict(review: ReviewRow) -> dict[str, Any]:
    """Return what a person said, as it stands beside a draft."""
    said = {} if review.verdict is Verdict.EDITED else {"a_person_said": str(review.verdict)}
    return {**said, **({"comment": review.comment} if review.comment else {})}
