"""What `--list-agents` makes of the registry when daemons come and go."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from store_calls import register

from app.listing import _with_last_error, listed_agents, table
from app.settings import load_settings
from app.store.protocol import AgentRegistration, RunOutcome


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WORKER_DB_PATH": str(tmp_path / "store.db")}, env_file=None)


async def say(store, worker_id, **statuses):
    await store.touch_worker(worker_id, f"{worker_id}-run", statuses, silent_after=1000.0)


async def test_it_is_shown_who_runs_where(store, settings):
    await register(store, "content", worker_id="a")
    await store.set_status("content", "running", worker_id="a")
    await say(store, "a", content="running")
    await say(store, "b", content="standby")
    await say(store, "c", content="disabled")
    (agent,) = await listed_agents(settings)
    assert agent.status == "running"
    assert [(place.worker_id, place.status) for place in agent.workers] == [
        ("a", "running"),
        ("b", "standby"),
    ]
    _, first, second = table([agent], settings).splitlines()
    assert first.split()[:3] == ["content", "running", "a"]
    assert second.split()[:3] == ["content", "standby", "b"]


@pytest.mark.parametrize("last_word", ["stopped", "running"])
async def test_an_agent_goes_on_where_it_still_runs(store, settings, last_word):
    await register(store, "content", worker_id="a")
    await say(store, "a", content="running")
    await say(store, "b", content="backing_off")
    await store.set_status("content", last_word, worker_id="a")
    await store.forget_worker("a-run")
    (agent,) = await listed_agents(settings)
    assert (agent.status, agent.why) == ("backing_off", None)


async def test_a_disabled_agent_is_listed_with_the_reason(store, settings):
    why = "table actp_deal_log is missing"
    registration = AgentRegistration(
        agent_id="content", class_name="x:Y", model="m", status="disabled", why=why
    )
    await store.register_agents("a", [registration])
    await say(store, "a", content="disabled")
    (agent,) = await listed_agents(settings)
    assert (agent.status, agent.why) == ("disabled", why)
    assert table([agent], settings).splitlines()[-1] == f"disabled: {why}"
    await say(store, "b", content="running")
    (agent,) = await listed_agents(settings)
    assert (agent.status, agent.why) == ("running", None)


@pytest.mark.parametrize(
    ("health", "status", "why"),
    [
        (
            {"paused": "Claude answers 401: no such key"},
            "paused",
            "Claude answers 401: no such key",
        ),
        (
            {"throttled_age": 5.0, "throttled_why": "Claude answers 529"},
            "waiting",
            "Claude answers 529",
        ),
        ({"paused": None, "throttled_age": None}, "running", None),
    ],
)
async def test_one_that_runs_and_does_no_work_says_why(store, settings, health, status, why):
    await register(store, "content", worker_id="a")
    await say(store, "a", content="running")
    await store.record_heartbeat("content", health, status="running", worker_id="a")
    (agent,) = await listed_agents(settings)
    assert (agent.status, agent.why) == (status, why)
    assert agent.last_status == "running"
    notes = table([agent], settings).splitlines()[2:]
    assert notes == ([] if why is None else ["", f"content is {status}: {why}"])


async def test_one_that_crashed_says_of_what(store, settings):
    await register(store, "content", worker_id="a")
    await say(store, "a", content="backing_off")
    await store.set_status("content", "backing_off", worker_id="a")
    (agent,) = await listed_agents(settings)
    assert (agent.status, agent.why) == ("backing_off", None)
    await store.start_run("r1", "content", "a-run")
    error = 'Traceback:\n  File "a.py", line 1, in b\n    c()\nValueError: no such\x1b post\n'
    await store.finish_run("r1", RunOutcome.CRASHED, error=error)
    (agent,) = await listed_agents(settings)
    assert table([agent], settings).splitlines()[-1] == (
        "content is backing off: ValueError: no such\\x1b post"
    )


async def test_where_runs_cannot_be_read_all_else_is_listed(store, settings):
    await register(store, "content", worker_id="a")
    await say(store, "a", content="backing_off")
    await store.set_status("content", "backing_off", worker_id="a")
    (agent,) = await listed_agents(settings)
    with closing(sqlite3.connect(settings.db_path)) as db, db:
        db.execute("drop table actp_agent_runs")
    listed = await _with_last_error(agent, store)
    assert (listed.status, listed.why) == ("backing_off", None)


async def test_one_that_only_stands_by_does_not_run(store, settings):
    await register(store, "content", worker_id="a")
    await store.set_status("content", "stopped", worker_id="a")
    await say(store, "b", content="standby")
    (agent,) = await listed_agents(settings)
    assert agent.status == "stopped"


async def test_what_an_ended_daemon_said_is_not_believed(store, settings):
    await register(store, "content", worker_id="a")
    await store.set_status("content", "running", worker_id="a")
    await say(store, "a", content="running")
    await store.forget_worker("a-run")
    (agent,) = await listed_agents(settings)
    assert agent.status == "unknown"
    assert agent.workers == ()
