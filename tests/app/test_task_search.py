"""Tasks are searched over HTTP, page by page, and changed by what they are found with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain
from urllib.parse import quote

import pytest
from http_daemon import TOKEN, make_daemon, served
from store_calls import claim

from app.store.protocol import Before, TaskStatus

SECRET = "sk-ant-a-key-that-nobody-may-see"
NORTHWIND = {"t0", "t1", "t2"}


@pytest.fixture
async def client(store):
    for number in range(3):
        await store.add_task(f"t{number}", "social", f"Write to Northwind, letter {number}")
    await store.add_task("t3", "content", "Draft three hooks")
    async with served(make_daemon(store)) as client:
        yield client


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [task["id"] for task in answer.json()]


async def pages(client, address):
    """Follow the links; gives the ids of each page."""
    found = []
    while address:
        answer = await client.get(address)
        found.append(ids(answer))
        address = answer.links["next"]["url"] if "next" in answer.links else None
    return found


async def test_tasks_are_found_by_their_goal(client):
    assert set(ids(await client.get("/tasks?q=northwind"))) == NORTHWIND
    assert ids(await client.get("/tasks", params={"q": "letter 1"})) == ["t1"]
    assert ids(await client.get("/tasks?q=northwind&agent_type=content")) == []
    assert ids(await client.get("/tasks?q=content")) == ["t3"]


async def test_the_links_lead_through_all_tasks_each_of_which_is_on_one_page(store, client):
    for number in range(4, 251):
        await store.add_task(f"t{number}", "content", f"Task {number}")
    newest_first = [f"t{number}" for number in range(250, -1, -1)]
    found = await pages(client, "/tasks?limit=200")
    assert found == [newest_first[:200], newest_first[200:]]
    found = await pages(client, "/tasks")
    assert [len(page) for page in found] == [50, 50, 50, 50, 50, 1]
    assert list(chain(*found)) == newest_first


async def test_the_links_keep_what_is_searched_for(client):
    assert await pages(client, "/tasks?q=northwind&limit=2") == [["t2", "t1"], ["t0"]]
    assert await pages(client, "/tasks?q=NORTHWIND%2C%20letter&limit=3") == [["t2", "t1", "t0"]]
    found = await pages(client, "/tasks?status=queued&agent_type=social&limit=1&since=2020-01-01")
    assert found == [["t2"], ["t1"], ["t0"]]


async def test_tasks_are_found_by_when_they_were_made(store, client):
    first, second = (await store.task("t0")).created_at, (await store.task("t1")).created_at
    later = (first + timedelta(microseconds=1)).isoformat()
    assert "t0" in ids(await client.get("/tasks", params={"since": first.isoformat()}))
    if first != second:
        assert "t0" not in ids(await client.get("/tasks", params={"since": later}))
    assert ids(await client.get("/tasks", params={"until": later, "q": "letter 0"})) == ["t0"]
    assert ids(await client.get("/tasks", params={"until": first.isoformat()})) == []
    # A plus that was not escaped is a space.
    assert "t0" in ids(await client.get("/tasks?since=2020-01-01T08:00:00+01:00"))
    assert ids(await client.get("/tasks?until=2020-01-01T08:00:00+01:00")) == []


async def test_a_day_is_meant_whole_and_in_the_worker_s_zone(store):
    asked = []

    class Listening(Before):
        async def perform(self, verb, arguments):
            if verb.name == "tasks":
                asked.append((arguments["since"], arguments["until"]))
            return await super().perform(verb, arguments)

    async with served(make_daemon(Listening(store))) as client:  # in New York
        await client.get("/tasks?since=2026-11-28&until=2026-11-28")
        await client.get("/tasks?since=0001-01-01&until=9999-12-31")
    assert asked[0] == (
        datetime(2026, 11, 28, 5, tzinfo=UTC),
        datetime(2026, 11, 29, 5, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("until=2026-11-28T08:00:00", "until"),
        ("since=2026-02-30", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("q=", "q"),
        ("q=" + "a" * 201, "q"),
        ("cursor=a%20b", "cursor"),
        ("cursor=nothing", "cursor"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused_and_not_repeated(client, query, field):
    answer = await client.get(f"/tasks?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    given = query.partition("=")[2]
    assert not given or given not in answer.text + str(answer.headers)


async def test_a_page_whose_task_was_deleted_says_so_and_is_not_the_end(store, client):
    address = (await client.get("/tasks?limit=2")).links["next"]["url"]
    assert ids(await client.get(address)) == ["t1", "t0"]
    assert (await client.get(address.replace("t2", "t9"))).status_code == 422


async def test_a_search_finds_no_secret_that_is_not_shown(store):
    """Who may read could else ask for more and more of it, a character at a time."""
    environ = {"ANTHROPIC_API_KEY": SECRET}
    await store.add_task("t1", "social", f"Use {SECRET} for it")
    for number in range(60):
        await store.add_task(f"more{number}", "social", f"Do it {number}")
    task = await claim(store)
    await store.finish_task(task.id, "k1", TaskStatus.FAILED, error=f"refused: {SECRET}")
    async with served(make_daemon(store, environ=environ)) as client:
        for guess in (SECRET, SECRET[:8], SECRET[-5:]):
            for limit in (1, 200):
                answer = await client.get(f"/tasks?q={quote(guess)}&limit={limit}")
                assert ids(answer) == []
                assert "Link" not in answer.headers
        assert ids(await client.get("/tasks?q=refused")) == ["t1"]


async def test_what_is_searched_for_is_not_repeated_to_who_may_not_read(store):
    environ = {"WORKER_READ_TOKEN": "a-token-to-read-with"}
    async with served(make_daemon(store, api_token=TOKEN, environ=environ)) as client:
        for path in ("/tasks", "/ui/tasks"):
            for accept in ("text/html", "*/*"):
                answer = await client.get(f"{path}?q=zqwx&limit=1", headers={"Accept": accept})
                assert answer.status_code == 401
                assert "zqwx" not in answer.text + str(answer.headers)


async def test_many_are_counted_before_they_are_changed(store, client):
    asked = {"q": "northwind", "dry_run": True}
    answer = await client.post("/tasks/cancel", json=asked)
    assert answer.json() == {"tasks": 3}
    assert {task.status for task in await store.tasks()} == {TaskStatus.QUEUED}
    assert (await client.post("/tasks/cancel", json={"q": "northwind"})).json() == {"tasks": 3}
    assert (await client.post("/tasks/cancel", json=asked)).json() == {"tasks": 0}
    assert (await client.post("/tasks/retry", json=asked)).json() == {"tasks": 3}
    retried = await client.post("/tasks/retry", json={"q": "letter 2", "since": "2020-01-01"})
    assert retried.json() == {"tasks": 1}
    assert ids(await client.get("/tasks?status=cancelled")) == ["t1", "t0"]


async def test_counting_needs_the_token_as_changing_does(store):
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        assert (await client.post("/tasks/cancel", json={"dry_run": True})).status_code == 401
