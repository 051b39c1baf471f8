"""The daily routines of the agents: what they look up, what they leave to Claude, what stays."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest
import trio
from agents_at_work import QUICK
from store_calls import EPOCH, cost

from app.agents.acquisition import AcquisitionDomainAgent
from app.agents.content import ContentCreationDomainAgent
from app.agents.outcomes import RoutineFailedError
from app.agents.revenue import RevenueAnalyticsDomainAgent
from app.agents.spec import AGENT_SPECS
from app.demo.claude import Failure, Reply
from app.store.protocol import DomainTable, Query

TEMPLATES = DomainTable.VIRAL_TEMPLATES
DEALS = DomainTable.DEAL_LOG
GOALS = DomainTable.REVENUE_GOALS
SNAPSHOTS = DomainTable.WEEKLY_SNAPSHOTS


class Content(ContentCreationDomainAgent):
    patience = QUICK


class Acquisition(AcquisitionDomainAgent):
    patience = QUICK


class Revenue(RevenueAnalyticsDomainAgent):
    patience = QUICK


CLASSES = {"content": Content, "acquisition": Acquisition, "revenue": Revenue}


def told(place):
    """Return what the last conversation began with."""
    return place.claude.requests[-1]["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("agent_id", "method"),
    [(spec.agent_id, routine.method) for spec in AGENT_SPECS for routine in spec.routines],
)
async def test_every_routine_comes_to_an_end_on_empty_tables(at_work, agent_id, method):
    result = await at_work.routine(CLASSES[agent_id], method, agent_id=agent_id)

    assert result["text"]


async def test_the_content_pipeline_drafts_from_the_best_templates(at_work, store):
    for row_id, score in [("low", 10.0), ("best", 95.0), ("new", None)]:
        await store.insert(
            TEMPLATES,
            row_id,
            {"name": row_id, "platform": "x", "hook": "h", "score": score, "status": "template"},
        )
    draft = {"template_id": "best", "platform": "x", "title": "T", "hook": "H", "body": "B"}
    at_work.claude.plan(
        Reply(
            tools=(
                ("score_viral_template", {"template_id": "new", "score": 50}),
                ("draft_content", draft),
            )
        ),
        Reply(text="One draft."),
    )

    result = await at_work.routine(Content, "run_daily_pipeline", agent_id="content")

    assert result["text"] == "One draft."
    assert told(at_work).index('"best"') < told(at_work).index('"low"')
    (drafted,) = await store.select(TEMPLATES, Query(equal={"status": "draft"}))
    assert drafted["template_id"] == "best"
    calls = await store.tool_calls(agent_id="content")
    assert {call.tool for call in calls} == {"score_viral_template", "draft_content"}
    assert {call.task_id for call in calls} == {result["task_id"]}
    (row,) = await store.costs(since=EPOCH)
    assert (row.agent_id, row.calls) == ("content", 2)


async def test_a_routine_that_is_run_again_on_the_same_day_repeats_no_effect(at_work, store):
    await store.insert(TEMPLATES, "t", {"name": "t", "platform": "x", "status": "template"})
    draft = {"template_id": "t", "platform": "x", "title": "T", "hook": "H", "body": "B"}
    for _ in range(2):
        at_work.claude.plan(Reply(tools=(("draft_content", draft),)), Reply(text="Done."))
        await at_work.routine(Content, "run_daily_pipeline", agent_id="content")

    assert len(await store.select(TEMPLATES, Query(equal={"status": "draft"}))) == 1


async def test_the_pipeline_advances_what_is_due_or_quiet_and_asks_nobody_otherwise(at_work, store):
    now = await store.ping()
    await store.insert(
        DEALS,
        "fine",
        {"name": "Fine", "stage": "contacted", "next_action_at": now + timedelta(days=2)},
    )
    await store.insert(DEALS, "won", {"name": "Won", "stage": "won"})

    result = await at_work.routine(Acquisition, "run_pipeline_advance", agent_id="acquisition")

    assert result["turns"] == 0
    assert not at_work.claude.requests

    await store.insert(DEALS, "none", {"name": "Nothing planned", "stage": "prospect"})
    await store.insert(
        DEALS,
        "due",
        {"name": "Due", "stage": "proposal", "next_action_at": now - timedelta(days=1)},
    )
    await at_work.routine(Acquisition, "run_pipeline_advance", agent_id="acquisition")

    assert '"id": "none"' in told(at_work)
    assert '"id": "due"' in told(at_work)
    assert "Fine" not in told(at_work)


async def test_the_daily_check_is_about_the_goals_that_run_today(at_work, store):
    today = (await store.ping()).astimezone(at_work.context().timezone).date()
    await store.insert(
        GOALS, "g1", {"period": f"{today:%Y-%m}", "metric": "revenue", "target": 10.0}
    )
    await store.insert(GOALS, "g2", {"period": "1999-01", "metric": "revenue", "target": 1.0})

    await at_work.routine(Revenue, "run_daily_check", agent_id="revenue")

    assert '"id": "g1"' in told(at_work)
    assert '"id": "g2"' not in told(at_work)


async def test_the_cost_audit_is_arithmetic_and_says_what_is_unusual(at_work, store):
    """Day by day in the worker's zone: here yesterday ended a second ago."""
    await store.record_cost(cost("c1", 0.7))
    moment = await store.ping() + timedelta(seconds=1)
    into_day = timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second)
    zone = timezone(-into_day)
    with trio.fail_after(60):
        while await store.ping() < moment:  # noqa: ASYNC110  (a clock sets no event)
            await trio.sleep(0.1)
    await store.record_cost(cost("c2", 0.3, agent_id="content"))

    result = await at_work.routine(Revenue, "run_cost_audit", agent_id="revenue", timezone=zone)

    assert list(result["by_day"].values()) == [0, 0, 0, 0, 0, 0, 0.7, 0.3]
    assert result["by_agent"] == {"social": 0.7, "content": 0.3}
    assert "3.0 times as much as usual" in result["text"]
    (memory,) = await store.recall("revenue")
    assert memory.value == result["text"]
    assert not at_work.claude.requests


async def test_the_weekly_report_keeps_the_numbers_even_if_claude_is_away(at_work, store):
    await store.insert(DEALS, "d1", {"name": "Ada", "stage": "proposal", "value_usd": 900.0})
    await store.record_cost(cost("c1", 1.5))
    at_work.claude.plan(Failure(status=401, message="invalid x-api-key"))

    with pytest.raises(RoutineFailedError, match="invalid x-api-key"):
        await at_work.routine(Revenue, "run_weekly_report", agent_id="revenue")

    (snapshot,) = await store.select(SNAPSHOTS, Query())
    assert snapshot["metrics"]["model_spend_usd"] == 1.5
    assert snapshot["metrics"]["open_deals_usd"] == 900.0
    assert snapshot["summary"] is None

    week = {"week": snapshot["week"], "summary": "A good week."}
    at_work.claude.plan(Reply(tools=(("save_weekly_snapshot", week),)), Reply(text="Saved."))
    await at_work.routine(Revenue, "run_weekly_report", agent_id="revenue")

    (snapshot,) = await store.select(SNAPSHOTS, Query())
    assert snapshot["summary"] == "A good week."
    assert snapshot["metrics"]["model_spend_usd"] == 1.5


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([Reply(text="No.", stop_reason="refusal")], "refused"),
        ([Failure(status=400, message="too long")], "too long"),
        ([Failure(status=529, headers={"retry-after": "90"})], "529"),
    ],
)
async def test_a_routine_that_comes_to_no_good_end_says_why(at_work, answers, why):
    at_work.claude.plan(*answers)

    with pytest.raises(RoutineFailedError, match=why):
        await at_work.routine(Content, "run_daily_pipeline", agent_id="content")
