"""The jobs of acquisition, content and social: with what they have to go on, and without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from agents_at_work import QUICK

from app.agents.acquisition import MOST_SHOWN, AcquisitionDomainAgent, urgency
from app.agents.content import OFFERED, REST, ContentCreationDomainAgent, rested_templates
from app.agents.social import SocialMediaDomainAgent
from app.agents.spec import AgentOptions
from app.demo.claude import Reply
from app.hands import Wanted, open_hands
from app.items import KINDS, Said, decide, item_of
from app.store.protocol import DomainTable, Query, Verdict

DEALS = DomainTable.DEAL_LOG
TEMPLATES = DomainTable.VIRAL_TEMPLATES
ACTIONS = DomainTable.ENGAGEMENT_ACTIONS
IDEAL = "Makers of small steam engines in Wales."


class Acquisition(AcquisitionDomainAgent):
    patience = QUICK


class Content(ContentCreationDomainAgent):
    patience = QUICK


async def run(place, cls, method, *, searches=False, **about):
    """Run a routine with what the file says of the business, and perhaps a search of the web."""
    agent_id = {Acquisition: "acquisition", Content: "content"}[cls]
    options = AgentOptions(about=about)
    wanted = [Wanted(name="web_search")] if searches else []
    async with open_hands(wanted, {}) as hands:
        return await place.routine(cls, method, agent_id=agent_id, options=options, hands=hands)


def told(place):
    """Return what the last conversation began with."""
    return place.claude.requests[-1]["messages"][0]["content"][0]["text"]


def job(place):
    """Return what the model was told that it is."""
    return place.claude.requests[-1]["system"][0]["text"]


async def says(store, name, row_id, verdict, comment=None):
    """Have a person decide about an item."""
    found = await item_of(store, KINDS[name], row_id)
    said = Said(verdict=verdict, comment=comment, by="Grace")
    return await decide(store, KINDS[name], *found, said)


# Acquisition.


async def test_without_an_ideal_customer_prospecting_asks_nothing_and_says_why(at_work, store):
    await store.remember("acquisition", "a tip", "Ada may want engines.")

    result = await run(at_work, Acquisition, "run_daily_prospecting", searches=True)

    assert not at_work.claude.requests
    assert result["turns"] == 0
    assert "ideal_customer in [agents.acquisition.about]" in result["text"]
    (task,) = await store.tasks()
    assert task.result == result


async def test_without_a_search_and_a_memory_prospecting_asks_nothing_and_says_why(at_work):
    result = await run(at_work, Acquisition, "run_daily_prospecting", ideal_customer=IDEAL)

    assert not at_work.claude.requests
    assert "web_search in the tools of [agents.acquisition]" in result["text"]


async def test_prospecting_searches_the_web_for_the_ideal_customer_and_leaves_out_who_is_known(
    at_work, store
):
    await store.insert(DEALS, "d1", {"name": "Ada", "company": "Engines Ltd", "stage": "won"})
    await store.insert(DEALS, "d2", {"name": "Bob", "stage": "contacted"})
    await says(store, "deals", "d2", Verdict.REJECTED, "Too far away.")

    await run(at_work, Acquisition, "run_daily_prospecting", searches=True, ideal_customer=IDEAL)

    assert f"Ideal customer:\n{IDEAL}" in job(at_work)
    assert "Search the web for companies and people that fit the ideal customer" in told(at_work)
    assert '"company": "Engines Ltd"' in told(at_work)
    assert '"rejected": [{"name": "Bob", "why": "Too far away."}]' in told(at_work)
    tools = [tool["name"] for tool in at_work.claude.requests[-1]["tools"]]
    assert {"web_search", "add_prospect"} <= set(tools)


async def test_without_a_search_prospecting_looks_through_its_memory(at_work, store):
    await store.remember("acquisition", "a tip", "Ada may want engines.")

    await run(at_work, Acquisition, "run_daily_prospecting", ideal_customer=IDEAL)

    assert "Look through your memory for companies and people" in told(at_work)


async def test_prospects_without_a_step_get_one_also_where_nobody_is_looked_for(at_work, store):
    await store.insert(DEALS, "d1", {"name": "Ada", "stage": "prospect"})

    await run(at_work, Acquisition, "run_daily_prospecting", searches=True)

    assert "Note the first next action of the prospects" in told(at_work)
    assert "Look for no others: the file of agents does not say whom" in told(at_work)
    assert '"id": "d1"' in told(at_work)


async def test_whom_a_person_rejected_is_not_added_again(at_work, store):
    ada = {"name": "Ada", "company": "Engines Ltd"}
    await store.insert(DEALS, "d1", {**ada, "stage": "prospect"})
    await says(store, "deals", "d1", Verdict.REJECTED, "We know her.")

    answer = await at_work.call(Acquisition, "add_prospect", **ada)

    assert answer["rejected_before_by_a_person"]["id"] == "d1"
    assert len(await store.select(DEALS, Query())) == 1


async def test_the_pipeline_advance_takes_the_longest_overdue_first(at_work, store):
    now = await store.ping()
    for row_id, days in [("yesterday", 1), ("month", 30), ("week", 7), ("today", 0)]:
        due = now - timedelta(days=days, minutes=1)
        values = {"name": row_id, "stage": "contacted", "next_action_at": due}
        await store.insert(DEALS, row_id, values)
    await store.insert(DEALS, "unplanned", {"name": "unplanned", "stage": "prospect"})

    await run(at_work, Acquisition, "run_pipeline_advance")

    ids = ["month", "week", "yesterday", "today", "unplanned"]
    places = [told(at_work).index(f'"id": "{row_id}"') for row_id in ids]
    assert places == sorted(places)
    assert '"days_overdue": 30' in told(at_work)


def test_deals_without_a_step_come_before_quiet_ones_and_the_longest_left_alone_first():
    now = datetime(2026, 11, 29, 9, 0, tzinfo=UTC)

    def deal(name, *, due=None, changed=1):
        at = None if due is None else now + timedelta(days=due)
        return {
            "name": name,
            "next_action_at": at,
            "updated_at": now - timedelta(days=changed),
        }

    deals = [
        deal("quiet", due=1, changed=9),
        deal("quiet for longer", due=30, changed=20),
        deal("without a step"),
        deal("without a step for longer", changed=50),
        deal("overdue", due=-1, changed=90),
        deal("overdue for longer", due=-8),
    ]
    deals.sort(key=lambda deal: urgency(deal, now))
    assert [deal["name"] for deal in deals] == [
        "overdue for longer",
        "overdue",
        "without a step for longer",
        "without a step",
        "quiet for longer",
        "quiet",
    ]


async def test_of_many_deals_those_that_waited_longest_are_shown(at_work, store):
    now = await store.ping()
    for number in range(MOST_SHOWN + 5):
        due = now - timedelta(days=number + 1)
        values = {"name": "x", "stage": "contacted", "next_action_at": due}
        await store.insert(DEALS, f"{number:02}", values)

    await run(at_work, Acquisition, "run_pipeline_advance")

    assert f'"id": "{MOST_SHOWN + 4:02}"' in told(at_work)
    assert '"id": "04"' not in told(at_work)
    assert f'"in_all": {MOST_SHOWN + 5}' in told(at_work)


# Content.


async def add_template(store, row_id, score, **changes):
    values = {"name": row_id, "platform": "x", "hook": "h", "score": score, "status": "template"}
    return await store.insert(TEMPLATES, row_id, {**values, **changes})


def drafted(template_id, at):
    return {"template_id": template_id, "created_at": at}


def test_two_days_never_offer_the_same_templates_where_there_are_enough():

    now = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
    templates = [
        {"id": f"t{number}", "score": 100.0 - number, "uses": 0} for number in range(2 * OFFERED)
    ]
    drafts, days = [], []
    for _ in range(30):
        offered = [row["id"] for row in rested_templates(templates, drafts, now)[:OFFERED]]
        assert len(offered) == OFFERED
        days.append(set(offered))
        drafts = [drafted(template_id, now) for template_id in offered] + drafts
        for row in templates:
            row["uses"] += row["id"] in offered
        now += timedelta(days=1)
    assert all(not one & next_one for one, next_one in pairwise(days))


def test_a_template_rests_for_a_week_and_then_the_best_comes_first():

    now = datetime(2026, 11, 29, 6, 0, tzinfo=UTC)
    templates = [{"id": f"t{number}", "score": 90.0 - number, "uses": 1} for number in range(6)]
    drafts = [
        drafted("t0", now - timedelta(days=1)),
        drafted("t1", now - REST),
        drafted("t0", now - 2 * REST),
    ]
    offered = [row["id"] for row in rested_templates(templates, drafts, now)]
    assert offered == ["t1", "t2", "t3", "t4", "t5"]


async def test_the_pipeline_is_told_of_brand_audience_and_what_was_drafted_before(at_work, store):
    for number in range(4):
        await add_template(store, f"t{number}", 50.0)
    draft = {"name": "Old", "platform": "x", "hook": "I drank tea.", "status": "draft"}
    await store.insert(TEMPLATES, "d1", {**draft, "template_id": "t0"})
    await says(store, "drafts", "d1", Verdict.REJECTED, "No more tea.")

    await run(at_work, Content, "run_daily_pipeline", brand="Steam for all.", audience="Engineers.")

    assert "Brand:\nSteam for all.\n\nAudience:\nEngineers." in job(at_work)
    assert '"hook": "I drank tea."' in told(at_work)
    assert '"a_person_said": "rejected", "comment": "No more tea."' in told(at_work)
    rested = told(at_work).partition('"best"')[2].partition('"drafted_before"')[0]
    assert '"id": "t0"' not in rested
    assert '"id": "t1"' in rested


async def test_with_a_search_the_pipeline_researches_what_goes_viral(at_work, store):
    for number in range(4):
        await add_template(store, f"t{number}", 50.0)

    await run(at_work, Content, "run_daily_pipeline", searches=True)

    assert "search the web for what has gone viral" in told(at_work)
    assert "web_search" in [tool["name"] for tool in at_work.claude.requests[-1]["tools"]]


@pytest.mark.parametrize("rested", [0, OFFERED - 1, OFFERED])
async def test_without_a_search_new_templates_are_made_where_too_few_have_rested(
    at_work, store, rested
):
    for number in range(rested):
        await add_template(store, f"t{number}", 50.0)

    await run(at_work, Content, "run_daily_pipeline")

    missing = OFFERED - rested
    asked = f"You cannot search the web, so first save {missing} new templates" in told(at_work)
    assert asked is (missing > 0)
    assert ("say in your report that they are not from research" in told(at_work)) is asked


async def test_where_a_template_was_seen_is_kept_with_it(at_work, store):
    template = {"name": "List", "platform": "x", "hook": "{n} things", "body": "{things}"}

    await at_work.call(
        Content, "save_viral_template", **template, source="https://example.org/post"
    )

    (row,) = await store.select(TEMPLATES, Query())
    assert row["source"] == "https://example.org/post"


async def test_drafts_are_listed_with_what_a_person_said_of_them(at_work, store):
    for row_id in ("d1", "d2"):
        await store.insert(TEMPLATES, row_id, {"name": row_id, "status": "draft"})
    await says(store, "drafts", "d1", Verdict.APPROVED, "More like this.")

    listed = await at_work.call(Content, "list_drafts")
    waiting = await at_work.call(Content, "list_drafts", status="draft")

    newest, oldest = listed["drafts"]
    assert (newest["id"], newest["status"]) == ("d2", "draft")
    assert "a_person_said" not in newest
    assert (oldest["status"], oldest["a_person_said"]) == ("approved", "approved")
    assert oldest["comment"] == "More like this."
    assert [row["id"] for row in waiting["drafts"]] == ["d2"]


# Social.


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [(Verdict.APPROVED, "already_queued"), (Verdict.REJECTED, "rejected_before_by_a_person")],
)
async def test_what_a_person_decided_about_is_not_queued_again(at_work, store, verdict, answer):
    like = {"platform": "x", "action": "like", "target": "@ada"}
    await store.insert(ACTIONS, "a1", {**like, "status": "queued"})
    await says(store, "actions", "a1", verdict)

    told = await at_work.call(SocialMediaDomainAgent, "queue_engagement_action", **like)

    assert told[answer]["id"] == "a1"
    assert len(await store.select(ACTIONS, Query())) == 1


async def test_an_action_that_was_approved_can_be_settled(at_work, store):
    await store.insert(ACTIONS, "a1", {"platform": "x", "action": "like", "status": "queued"})
    await says(store, "actions", "a1", Verdict.APPROVED)

    answer = await at_work.call(
        SocialMediaDomainAgent, "settle_engagement_action", action_id="a1", status="done"
    )

    assert answer["settled"]["status"] == "done"


async def test_a_routine_with_a_search_may_end_in_one_answer(at_work):
    at_work.claude.plan(Reply(text="Nobody fits."))

    result = await run(
        at_work, Acquisition, "run_daily_prospecting", searches=True, ideal_customer=IDEAL
    )

    assert result["text"] == "Nobody fits."
