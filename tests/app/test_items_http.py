"""Drafts, actions, deals, goals and reports over HTTP: listed, decided about, and their pages."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

import jsonschema
import pytest
import trio
from http_daemon import TOKEN, make_daemon, served

from app.facts import to_json
from app.items import KINDS, release_of
from app.settings import load_settings
from app.store.protocol import DomainTable, Query, TaskStatus
from app.web.item_inputs import BODIES, FILTERS, LINES, TEXTS
from app.web.openapi import document

ROWS = {
    "drafts": {"name": "Tea", "platform": "x", "hook": "I", "body": "Drank.", "tags": ["tea"]},
    "actions": {"platform": "x", "action": "comment", "target": "@ada", "content": "Well put."},
    "deals": {"name": "Ada", "company": "Engines Ltd", "stage": "prospect", "value_usd": 900.0},
    "goals": {"period": "2026-11", "metric": "revenue_usd", "target": 10.0, "actual": 2.5},
    "reports": {
        "kind": "daily_check",
        "period": "2026-11-23",
        "text": "Well.",
        "metrics": {"a": 1},
    },
}
NEW = {"drafts": {"status": "draft"}, "actions": {"status": "queued"}}
CHANGES = {
    "drafts": {"hook": "You"},
    "actions": {"content": "Very well put."},
    "deals": {"stage": "contacted"},
    "goals": {"target": 12.0},
    "reports": {"text": "Quite well."},
}
kinds = pytest.mark.parametrize("name", list(KINDS))


async def add(store, name, row_id="i1", **changes):
    values = {**ROWS[name], **NEW.get(name, {}), **changes}
    return await store.insert(KINDS[name].table, row_id, values)


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


@kinds
async def test_items_are_listed_with_all_that_is_known_of_them(client, store, name):
    row = await add(store, name, agent_id="mine", from_outside="a page of the web")

    (item,) = (await client.get(f"/{name}")).json()

    assert set(item) == {field.name for field in dataclasses.fields(KINDS[name].row)}
    assert {key: item[key] for key in ROWS[name]} == ROWS[name]
    assert (item["id"], item["agent_id"], item["from_outside"]) == (
        "i1",
        "mine",
        "a page of the web",
    )
    assert item["status"] == KINDS[name].new
    assert (item["created_at"], item["reviews"]) == (to_json(row["created_at"]), [])
    assert (await client.get(f"/{name}/i1")).json() == item


@kinds
async def test_items_are_listed_by_status_and_agent(client, store, name):
    await add(store, name, "i1", agent_id="one")
    await add(store, name, "i2", status="approved", agent_id="two")

    async def ids(**query):
        return [item["id"] for item in (await client.get(f"/{name}", params=query)).json()]

    assert await ids() == ["i2", "i1"]
    assert await ids(limit=1) == ["i2"]
    assert await ids(status=KINDS[name].new) == ["i1"]
    assert await ids(status="approved") == ["i2"]
    assert await ids(agent_id="one") == ["i1"]


@kinds
async def test_the_next_page_has_what_is_behind_this_one(client, store, name):
    for number in range(5):
        await add(store, name, f"i{number}", agent_id="one")
    await add(store, name, "other", agent_id="two")
    address, pages = f"/{name}?agent_id=one&limit=2", []
    while address is not None:
        answer = await client.get(address)
        pages.append([item["id"] for item in answer.json()])
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
        address = None if link is None else link[1]
        await add(store, name, f"new{len(pages)}", agent_id="one")
    assert pages == [["i4", "i3"], ["i2", "i1"], ["i0"]]


@kinds
async def test_a_page_behind_an_item_that_is_gone_says_so(client, store, name):
    await add(store, name)
    answer = await client.get(f"/{name}?cursor=i2")
    assert answer.status_code == 422
    assert "begin with the first one" in answer.json()["errors"][0]["detail"]
    assert (await client.get(f"/{name}?cursor=i1")).json() == []


async def test_a_list_of_items_leads_to_the_older_ones_and_back(client, store):
    for number in range(3):
        await add(store, "drafts", f"i{number}")
    first = (await client.get("/ui/drafts?limit=2")).text
    assert "Newest" not in first
    (older,) = re.findall(r'href="([^"]+)" rel="next"', first)
    second = (await client.get(older.replace("&amp;", "&"))).text
    assert 'id="draft-i0"' in second
    assert 'id="draft-i1"' not in second
    assert "Newest" in second
    assert 'rel="next"' not in second


async def test_templates_are_no_drafts(client, store):
    await add(store, "drafts", "t1", status="template")

    assert (await client.get("/drafts")).json() == []
    assert (await client.get("/drafts/t1")).status_code == 404
    assert (await client.post("/drafts/t1", json={"approve": True})).status_code == 404


@kinds
async def test_an_item_is_approved_and_it_is_kept_who_and_when(client, store, name):
    await add(store, name)

    body = {"approve": True, "comment": "Good.", "by": "Grace"}
    answer = await client.post(f"/{name}/i1", json=body)

    item = answer.json()
    assert (answer.status_code, item["status"]) == (200, "approved")
    (review,) = item["reviews"]
    assert (review["verdict"], review["comment"], review["reviewed_by"]) == (
        "approved",
        "Good.",
        "Grace",
    )
    assert review["reviewed_at"] >= item["created_at"]


@kinds
async def test_an_item_is_rejected_with_the_reason(client, store, name):
    await add(store, name)

    item = (await client.post(f"/{name}/i1", json={"approve": False, "comment": "Dull."})).json()

    assert item["status"] == "rejected"
    (review,) = item["reviews"]
    assert (review["verdict"], review["comment"], review["reviewed_by"]) == (
        "rejected",
        "Dull.",
        "API",
    )


@kinds
async def test_an_item_is_changed_and_what_it_was_is_kept(client, store, name):
    await add(store, name)

    item = (await client.post(f"/{name}/i1", json={"changes": CHANGES[name]})).json()

    ((column, value),) = CHANGES[name].items()
    assert (item[column], item["status"]) == (value, KINDS[name].new)
    (review,) = item["reviews"]
    assert review["verdict"] == "edited"
    assert (review["before"], review["after"]) == ({column: ROWS[name][column]}, CHANGES[name])


@kinds
async def test_an_item_is_changed_and_approved_in_one_step(client, store, name):
    await add(store, name)

    body = {"approve": True, "changes": CHANGES[name]}
    item = (await client.post(f"/{name}/i1", json=body)).json()

    ((column, value),) = CHANGES[name].items()
    assert (item[column], item["status"]) == (value, "approved")
    assert [review["verdict"] for review in item["reviews"]] == ["approved"]


@kinds
async def test_the_same_again_is_answered_alike_and_another_decision_is_told(client, store, name):
    shown = await add(store, name)
    body = {"approve": False, "by": "Grace", "seen": to_json(shown["updated_at"])}

    first = await client.post(f"/{name}/i1", json=body)
    again = await client.post(f"/{name}/i1", json=body)
    other = await client.post(f"/{name}/i1", json={**body, "by": "Ada"})

    assert again.json() == first.json()
    assert other.status_code == 409


async def test_what_is_not_possible_as_it_stands_says_by_whom_it_was_decided(client, store):
    await add(store, "drafts", status="draft")
    await client.post("/drafts/i1", json={"approve": False, "by": "Grace"})

    approve = await client.post("/drafts/i1", json={"approve": True})
    edit = await client.post("/drafts/i1", json={"changes": {"hook": "You"}})

    assert approve.status_code == edit.status_code == 409
    assert "cannot be approved: it is rejected by Grace at 20" in approve.json()["detail"]
    assert "cannot be changed any more" in edit.json()["detail"]


async def test_an_item_that_has_changed_since_it_was_seen_is_not_decided(client, store):
    shown = await add(store, "deals")
    await trio.sleep(0.01)  # in reality: the moments of SQLite are milliseconds
    await store.update(DomainTable.DEAL_LOG, "i1", {"notes": "Called."})

    answer = await client.post(
        "/deals/i1", json={"approve": True, "seen": to_json(shown["updated_at"])}
    )

    assert answer.status_code == 409
    assert "changed meanwhile" in answer.json()["detail"]
    assert await store.reviews() == []


async def test_a_deal_that_is_rejected_is_lost_and_has_no_next_action(client, store):
    await add(store, "deals", next_action="Call", next_action_at=await store.ping())

    item = (await client.post("/deals/i1", json={"approve": False})).json()

    assert (item["stage"], item["next_action"], item["next_action_at"]) == ("lost", None, None)


async def test_what_was_carried_out_by_hand_is_kept_as_done(client, store):
    await add(store, "actions", status="approved")

    item = (await client.post("/actions/i1", json={"done": True, "by": "Grace"})).json()

    assert (item["status"], item["reviews"][0]["verdict"]) == ("done", "done")
    again = await client.post("/actions/i1", json={"approve": True})
    assert again.status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"approve": "yes"},
        {"approve": False, "changes": {"hook": "You"}},
        {"approve": True, "done": True},
        {"done": False},
        {"changes": {}},
        {"changes": {"status": "approved"}},
        {"changes": {"hook": ""}},
        {"changes": {"hook": None}},
        {"approve": True, "comment": "x" * 4001},
        {"approve": True, "why": "x"},
        {"approve": True, "seen": "yesterday"},
    ],
)
async def test_what_is_no_decision_about_an_item_decides_nothing(client, store, body):
    await add(store, "drafts")

    assert (await client.post("/drafts/i1", json=body)).status_code == 422
    assert await store.reviews() == []


@kinds
async def test_an_item_that_is_not_there_is_a_404(client, name):
    assert (await client.get(f"/{name}/nope")).status_code == 404
    assert (await client.post(f"/{name}/nope", json={"approve": True})).status_code == 404
    assert (await client.get(f"/ui/{name}/nope")).status_code == 404
    assert (await client.get(f"/{name}", params={"status": "maybe"})).status_code == 422


async def test_a_decision_needs_the_token_where_there_is_one(store):
    await add(store, "drafts")
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        assert (await client.post("/drafts/i1", json={"approve": True})).status_code == 401
    assert await store.reviews() == []


async def test_a_decision_is_an_event(daemon, client, store):
    await add(store, "drafts")

    await client.post("/drafts/i1", json={"approve": True, "by": "Grace"})

    (event,) = [event for event in daemon.events.recent() if event.kind == "item_reviewed"]
    assert event.text == "draft i1 approved by Grace"
    assert event.fields == {"what": "draft", "item": "i1", "verdict": "approved"}


# What an approval releases.


@pytest.fixture
def releasing(tmp_path):
    """The settings of a daemon whose social agent has a tool that carries out actions."""
    file = tmp_path / "agents.toml"
    file.write_text('[agents.social]\n[agents.social.release]\ntool = "mcp__poster__publish"\n')
    return load_settings({"WORKER_AGENTS": str(file)}, env_file=None)


async def test_an_approval_posts_one_task_that_releases_it(daemon, client, store, releasing):
    daemon.settings = releasing
    await add(store, "actions")

    body = {"approve": True, "by": "Grace"}
    item = (await client.post("/actions/i1", json=body)).json()
    await client.post("/actions/i1", json=body)

    (task,) = await store.tasks()
    release = release_of(task.context)
    assert (task.agent_type, task.status) == ("social", TaskStatus.QUEUED)
    assert (release.kind, release.id, release.review) == ("actions", "i1", item["reviews"][0]["id"])


async def test_without_a_tool_an_approval_posts_nothing(client, store):
    for name in KINDS:
        await add(store, name)
        await client.post(f"/{name}/i1", json={"approve": True})

    assert await store.tasks() == []


# The pages.


@kinds
async def test_the_page_shows_each_item_with_a_form_to_decide(client, store, name):
    await add(store, name, from_outside="a page of the web")

    page = (await client.get(f"/ui/{name}")).text

    assert f'data-item="/{name}/i1"' in page
    assert 'value="approved"' in page
    assert 'value="rejected"' in page
    for column in (*LINES[name], *TEXTS[name]):
        assert f'name="{column}"' in page
    assert "a page of the web" in page
    assert f'href="/ui/{name}/i1"' in page


@kinds
async def test_the_page_of_an_item_shows_what_was_said_and_changed(client, store, name):
    await add(store, name)
    await client.post(f"/{name}/i1", json={"changes": CHANGES[name], "by": "Grace"})
    await client.post(f"/{name}/i1", json={"approve": False, "comment": "No <b>", "by": "Ada"})

    page = (await client.get(f"/ui/{name}/i1")).text

    assert "rejected by Ada" in page
    assert "No &lt;b&gt;" in page
    assert "edited by Grace" in page
    assert "What was changed" in page


@kinds
async def test_a_page_without_items_says_so(client, name):
    assert "There is none here" in (await client.get(f"/ui/{name}")).text


async def test_rows_that_were_made_by_hand_blank_no_page_and_no_list(client, store):
    for name, kind in KINDS.items():
        await store.insert(kind.table, "i1", NEW.get(name, {}))
        assert (await client.get(f"/ui/{name}")).status_code == 200
        assert (await client.get(f"/{name}")).json()[0]["id"] == "i1"
    await store.insert(DomainTable.VIRAL_TEMPLATES, "i2", {"status": "draft", "tags": {"a": 1}})
    assert (await client.get("/drafts/i2")).json()["tags"] == []


# What is said of the kinds in several places.


@kinds
def test_the_forms_and_bodies_of_a_kind_are_about_what_can_be_changed(name):
    kind = KINDS[name]
    (changes,) = [
        each
        for each in get_args(BODIES[name].model_fields["changes"].annotation)
        if each is not type(None)
    ]
    assert set(changes.model_fields) == set(kind.edits)
    assert {*LINES[name], *TEXTS[name]} <= set(kind.edits)
    fields = {field.name for field in dataclasses.fields(kind.row)}
    assert set(kind.edits) <= fields


@kinds
def test_the_statuses_of_a_query_are_those_that_an_item_can_have(name):
    schema = FILTERS[name].model_json_schema()["properties"]["status"]
    named = set(re.findall(r"'(\w+)'", str(schema))) & set(KINDS[name].statuses)
    assert named == set(KINDS[name].statuses)


@kinds
async def test_each_kind_is_what_its_table_has(store, name):
    (await store.select(KINDS[name].table, Query()))
    row = await add(store, name)
    fields = {field.name for field in dataclasses.fields(KINDS[name].row)} - {"reviews"}
    assert fields <= set(row)
    assert set(KINDS[name].shown) <= set(row)


SAID = [
    {"approve": approve, "done": done, "changes": changes}
    for approve in (None, True, False)
    for done in (None, True)
    for changes in (None, {}, {"text": "other"})
]


async def test_the_description_says_which_decisions_there_are(client, store):
    described = document(["social"], secured=False)
    schema = {"$ref": "#/components/schemas/ReportDecision", **described}
    for number, said in enumerate(SAID):
        report = {"kind": "cost_audit", "text": "all well"}
        await store.insert(DomainTable.REPORTS, f"r{number}", report)
        given = {name: value for name, value in said.items() if value is not None}
        is_described = jsonschema.Draft202012Validator(schema).is_valid(given)
        answer = await client.post(f"/reports/r{number}", json=given)
        assert (answer.status_code != 422) is is_described, (said, answer.text)
