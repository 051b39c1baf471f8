"""The tools of the four agents, over their own tables."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from store_calls import cost

from app.agents.acquisition import AcquisitionDomainAgent as Acquisition
from app.agents.base import DomainAgent
from app.agents.content import ContentCreationDomainAgent as Content
from app.agents.contract import load_agent_class
from app.agents.revenue import RevenueAnalyticsDomainAgent as Revenue
from app.agents.social import SocialMediaDomainAgent as Social
from app.agents.spec import AGENT_SPECS
from app.agents.tools import tools_of
from app.store.protocol import DomainTable, Query

ACTIONS = DomainTable.ENGAGEMENT_ACTIONS
TEMPLATES = DomainTable.VIRAL_TEMPLATES
DEALS = DomainTable.DEAL_LOG
GOALS = DomainTable.REVENUE_GOALS
SNAPSHOTS = DomainTable.WEEKLY_SNAPSHOTS


# The reference.


def rows(name):
    """Return the rows of the reference's tables whose first cell is such a name, as cells by it."""
    text = (Path(__file__).parents[2] / "docs/reference/agents.md").read_text()
    lines = re.findall(rf"^\| `({name})` \| (.*) \|$", text, re.MULTILINE)
    return {first: cells.split(" | ") for first, cells in lines}


def test_the_reference_names_the_tools_and_tables_of_each_agent():
    in_common = {each.name for each in tools_of(DomainAgent)}
    in_fact = {}
    for spec in AGENT_SPECS:
        tools = {each.name for each in tools_of(load_agent_class(spec.class_path))}
        in_fact[spec.agent_id] = [tools - in_common, set(spec.tables)]
    named = {
        agent_id: [set(re.findall(r"`(\w+)`", cell)) for cell in cells[1:]]
        for agent_id, cells in rows(r"\w+").items()
    }
    assert named == in_fact
    assert in_common == {"recall", "remember"}


def test_the_reference_says_when_each_routine_is_called():
    in_fact = {}
    for spec in AGENT_SPECS:
        for routine in spec.routines:
            _, hours, *_, weekday = routine.cron.split()
            times = " and ".join(f"{hour}:00" for hour in hours.split(","))
            when = f"Sunday {times}" if weekday == "0" else times
            in_fact[f"{spec.agent_id}.{routine.method}"] = when
    assert {job: cells[0] for job, cells in rows(r"\w+\.\w+").items()} == in_fact


# Social.


async def test_an_action_is_queued_once_as_long_as_it_waits(at_work, store):
    like = {"platform": "x", "action": "like", "target": "@ada"}

    first = await at_work.call(Social, "queue_engagement_action", **like)
    second = await at_work.call(Social, "queue_engagement_action", **like)

    assert first["queued"]["status"] == "queued"
    assert second["already_queued"]["id"] == first["queued"]["id"]
    assert len(await store.select(ACTIONS, Query())) == 1


async def test_what_is_said_in_an_action_must_be_given(at_work):
    comment = {"platform": "x", "action": "comment", "target": "@ada"}

    assert "content" in await at_work.call(Social, "queue_engagement_action", **comment)

    queued = await at_work.call(Social, "queue_engagement_action", **comment, content="Well put.")
    assert queued["queued"]["content"] == "Well put."


async def test_actions_are_listed_by_status_and_platform(at_work, store):
    for number, (platform, status) in enumerate([("x", "queued"), ("x", "done"), ("yt", "queued")]):
        row = {"platform": platform, "status": status, "action": "like", "target": "@ada"}
        await store.insert(ACTIONS, f"a{number}", row)

    answer = await at_work.call(Social, "list_engagement_actions", status="queued", platform="x")

    assert answer["source"] == "actp_engagement_actions"
    assert [row["id"] for row in answer["actions"]] == ["a0"]


async def test_an_action_is_settled_once(at_work, store):
    await store.insert(ACTIONS, "a1", {"platform": "x", "action": "like", "status": "queued"})
    done = {"action_id": "a1", "status": "done", "result": "liked"}

    answer = await at_work.call(Social, "settle_engagement_action", **done)
    again = await at_work.call(Social, "settle_engagement_action", **done)
    unknown = await at_work.call(Social, "settle_engagement_action", **{**done, "action_id": "b"})

    assert answer["settled"]["status"] == "done"
    assert answer["settled"]["settled_at"]
    assert "settled already, as done" in again
    assert "no action 'b'" in unknown


# Content.


async def add_template(store, row_id="t1", **changes):
    values = {
        "name": "Before and after",
        "platform": "linkedin",
        "hook": "I used to {old}.",
        "body": "Then {change}.",
        "tags": ["story"],
        "uses": 0,
        "status": "template",
    }
    return await store.insert(TEMPLATES, row_id, {**values, **changes})


async def test_a_template_is_saved_once_per_name_and_platform(at_work, store):
    template = {"name": "List", "platform": "x", "hook": "{n} things", "body": "{things}"}

    first = await at_work.call(Content, "save_viral_template", **template)
    again = await at_work.call(Content, "save_viral_template", **template)
    elsewhere = await at_work.call(
        Content, "save_viral_template", **{**template, "platform": "linkedin"}
    )

    assert first["saved"]["status"] == "template"
    assert again["already_there"]["id"] == first["saved"]["id"]
    assert "saved" in elsewhere


async def test_templates_are_found_by_any_of_their_texts_the_best_first(at_work, store):
    await add_template(store, "t1", name="One", hook="About tea", score=10.0)
    await add_template(store, "t2", name="Tea for two", score=90.0)
    await add_template(store, "t3", body="More TEA")
    await add_template(store, "t4", name="Coffee", score=99.0)
    await add_template(store, "t5", name="A tea draft", status="draft")

    answer = await at_work.call(Content, "find_viral_templates", search="tea")

    assert [row["id"] for row in answer["templates"]] == ["t2", "t1", "t3"]


async def test_a_template_is_scored_from_0_to_100(at_work, store):
    await add_template(store)

    answer = await at_work.call(Content, "score_viral_template", template_id="t1", score=72.5)
    too_much = await at_work.call(Content, "score_viral_template", template_id="t1", score=101)
    unknown = await at_work.call(Content, "score_viral_template", template_id="t9", score=1)

    assert answer["scored"]["score"] == 72.5
    assert "score: Input should be less than or equal to 100" in too_much
    assert "no template 't9'" in unknown


async def test_a_draft_belongs_to_its_template_which_counts_its_uses(at_work, store):
    await add_template(store)
    draft = {"template_id": "t1", "platform": "x", "title": "Tea", "hook": "I", "body": "Drank."}

    answer = await at_work.call(Content, "draft_content", **draft)
    await at_work.call(Content, "draft_content", **draft, variant=2)
    listed = await at_work.call(Content, "list_drafts", platform="x")
    of_a_draft = await at_work.call(
        Content, "draft_content", **{**draft, "template_id": answer["drafted"]["id"]}
    )

    assert answer["drafted"]["template_id"] == "t1"
    assert answer["drafted"]["tags"] == ["story"]
    assert len(listed["drafts"]) == 2
    (template,) = await store.select(TEMPLATES, Query(equal={"id": "t1"}))
    assert template["uses"] == 2
    assert "no template" in of_a_draft


# Acquisition.


async def test_a_prospect_is_added_unless_an_open_deal_is_there(at_work, store):
    ada = {"name": "Ada", "company": "Engines Ltd", "value_usd": 5_000}

    first = await at_work.call(Acquisition, "add_prospect", **ada)
    again = await at_work.call(Acquisition, "add_prospect", **ada)
    await store.update(DEALS, first["added"]["id"], {"stage": "lost"})
    later = await at_work.call(Acquisition, "add_prospect", **ada)

    assert first["added"]["stage"] == "prospect"
    assert again["already_there"]["id"] == first["added"]["id"]
    assert "added" in later


async def test_deals_are_listed_by_stage_the_most_urgent_first(at_work, store):
    now = await store.ping()
    for row_id, stage, days in [("a", "prospect", 9), ("b", "prospect", 1), ("c", "won", 0)]:
        due = now + timedelta(days=days)
        await store.insert(DEALS, row_id, {"name": row_id, "stage": stage, "next_action_at": due})
    await store.insert(DEALS, "d", {"name": "d", "stage": "prospect"})

    answer = await at_work.call(Acquisition, "list_deals", stage="prospect")

    assert [deal["id"] for deal in answer["deals"]] == ["b", "a", "d"]


async def test_a_deal_moves_on_with_the_reason_and_never_out_of_its_end(at_work, store):
    await store.insert(
        DEALS, "d1", {"name": "Ada", "stage": "prospect", "notes": "Met.", "next_action": "Call"}
    )
    move = {"deal_id": "d1", "note": "She agreed."}

    moved = await at_work.call(Acquisition, "move_deal", **move, stage="qualified")
    same = await at_work.call(Acquisition, "move_deal", **move, stage="qualified")
    won = await at_work.call(Acquisition, "move_deal", **move, stage="won")
    closed = await at_work.call(Acquisition, "move_deal", **move, stage="prospect")

    first, second = moved["moved"]["notes"].splitlines()
    assert first == "Met."
    assert second.endswith("prospect -> qualified: She agreed.")
    assert moved["moved"]["next_action"] == "Call"
    assert "at qualified already" in same
    assert "next_action" not in won["moved"]
    assert "closed, as won" in closed


async def test_a_next_action_has_a_day_that_is_not_over(at_work, store):
    await store.insert(DEALS, "d1", {"name": "Ada", "stage": "prospect"})
    today = (await store.ping()).date()
    call = {"deal_id": "d1", "next_action": "Call her"}

    noted = await at_work.call(
        Acquisition, "note_next_action", **call, due=str(today + timedelta(days=3))
    )
    over = await at_work.call(
        Acquisition, "note_next_action", **call, due=str(today - timedelta(days=2))
    )

    assert noted["noted"]["next_action"] == "Call her"
    assert "must be today" in over
    (deal,) = await store.select(DEALS, Query())
    berlin = deal["next_action_at"].astimezone(at_work.context().timezone)
    assert berlin.date() == today + timedelta(days=3)


# Revenue.


async def test_a_goal_is_one_per_period_and_metric_and_is_compared_with_its_actual(at_work, store):
    goal = {"period": "2026-11", "metric": "revenue_usd"}

    first = await at_work.call(Revenue, "set_revenue_goal", **goal, target=10_000)
    second = await at_work.call(Revenue, "set_revenue_goal", **goal, target=8_000, notes="Less.")
    goal_id = first["goal"]["id"]
    await at_work.call(Revenue, "record_actual", goal_id=goal_id, actual=6_000)
    answer = await at_work.call(Revenue, "compare_goals", period="2026-11")
    unknown = await at_work.call(Revenue, "record_actual", goal_id="g9", actual=1)

    assert second["goal"]["id"] == goal_id
    assert answer["goals"] == [
        {
            **goal,
            "id": goal_id,
            "target": 8_000,
            "actual": 6_000,
            "notes": "Less.",
            "reached_percent": 75.0,
            "missing": 2_000,
        }
    ]
    assert "no goal 'g9'" in unknown


@pytest.mark.parametrize("period", ["2026", "2026-W4", "next week", "2026-11-2"])
async def test_a_period_is_a_month_a_week_or_a_day(at_work, period):
    answer = await at_work.call(
        Revenue, "set_revenue_goal", period=period, metric="revenue_usd", target=1
    )

    assert "period: String should match pattern" in answer


async def test_costs_are_audited_by_agent_by_model_and_by_day(at_work, store):
    await store.record_cost(cost("c1", 0.5, agent_id="social"))
    await store.record_cost(cost("c2", 2.0, agent_id="content", cache_read_tokens=90))
    await store.record_cost(cost("c3", 0.25, agent_id="social", model="haiku"))

    answer = await at_work.call(Revenue, "audit_costs", days=2)

    spent = answer["total_usd"] - 2.75  # the calls of this conversation itself
    assert 0 < spent < 0.1
    assert answer["by_agent"]["content"] == 2.0
    assert next(iter(answer["by_agent"])) == "content"
    assert answer["by_model"]["haiku"] == 0.25
    assert len(answer["by_day"]) == 2
    assert sum(answer["by_day"].values()) == pytest.approx(answer["total_usd"])
    assert 0 < answer["cache_share"] < 1


async def test_a_weeks_snapshot_is_one_and_gains_what_is_added(at_work, store):
    week = {"week": "2026-W47"}

    await at_work.call(
        Revenue, "save_weekly_snapshot", **week, summary="Good.", metrics={"leads": 3}
    )
    await at_work.call(
        Revenue, "save_weekly_snapshot", **week, summary="Very good.", metrics={"deals": 1}
    )
    answer = await at_work.call(Revenue, "list_weekly_snapshots")

    (snapshot,) = answer["snapshots"]
    assert snapshot["summary"] == "Very good."
    assert snapshot["metrics"] == {"leads": 3, "deals": 1}
