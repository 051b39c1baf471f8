"""Three daemons on one Supabase project, some of which are killed: as real as it can be had here.

One of them is "on another machine": it shares the project and no file.
"""

from __future__ import annotations

import json
import random
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import trio
from daemons import IDLER, PATIENCE, until
from services import Gateway, open_gateway

from actp_supervise.clock import SystemWallClock

pytestmark = pytest.mark.long

GOALS = {
    "content": "Find viral templates and save a viral template named 'No {}' [simulate: slow 0.1]",
    "revenue": "Compare goals and set a revenue goal of 1,000 for 'No {}' [simulate: slow 0.1]",
    "social": "List the engagement actions and queue a like for the post 'No {}'",
}
HOW_MANY = {"content": 30, "revenue": 30, "social": 10}

EFFECTS = {
    "content": "select name as what from actp_viral_templates where name like 'No %%'",
    "revenue": "select metric as what from actp_revenue_goals",
    "social": "select target as what from actp_engagement_actions",
}

NOTING_ROUTINE = """
    async def run_daily_pipeline(self):
        import pathlib, uuid
        pathlib.Path(f"ran-{uuid.uuid4()}").touch()
"""

NOTE_FINISHES = """
    create schema history;
    create table history.finishes (task_id text, status text);
    create function history.note() returns trigger language plpgsql security definer as $$
    begin
        insert into history.finishes values (new.id, new.status);
        return null;
    end $$;
    create trigger note_finishes after update on public.actp_agent_tasks for each row
        when (old.status = 'running' and new.status in ('succeeded', 'failed', 'cancelled'))
        execute function history.note();
"""


UNFINISHED = "select id from actp_agent_tasks where status <> 'succeeded'"


@pytest.fixture
def here(supabase):
    """A machine whose daemons soon notice what became of the others."""
    supabase.environ |= {
        "WORKER_TASK_LEASE": "2",
        "WORKER_HEARTBEAT_INTERVAL": "0.5",
        "WORKER_STALE_THRESHOLD": "4",
    }
    return supabase


@pytest.fixture
def idle_here(here):
    """The same, with agents that start quickly."""
    here.use_class(IDLER, "Idler")
    here.environ["CONTENT_AGENT_CLASS"] = "own:Idler"
    return here


@pytest.fixture
def finishes(project):
    """Has every end of a task noted, also a second one; gives the address of the database."""
    with psycopg.connect(project.db_url) as db:
        db.execute(NOTE_FINISHES)
    yield
    with psycopg.connect(project.db_url) as db:
        db.execute("drop schema history cascade")


@asynccontextmanager
async def three_daemons(here, *arguments):
    """Start *near*, which gets the single agents, and then *kept* and, elsewhere, *far*."""
    there = here.elsewhere("there")
    async with (
        here.daemon(*arguments, WORKER_ID="near") as near,
        here.starting_daemon(*arguments, WORKER_ID="kept") as kept,
        there.starting_daemon(*arguments, WORKER_ID="far") as far,
    ):
        await kept.until_up()
        await far.until_up()
        yield near, kept, far


async def kill(daemon):
    daemon.signal(signal.SIGKILL)
    await daemon.wait()
    return SystemWallClock().now()


def social_runs(place, killed_at):
    """Return who ran the single agent from when to when; those killed, until then."""
    runs = place.rows(
        "select worker_id, started_at, finished_at from actp_agent_runs"
        " where agent_id = 'social' order by started_at"
    )
    for run in runs:
        killed = killed_at.get(run["worker_id"])
        if killed is not None:
            run["finished_at"] = min(run["finished_at"] or killed, killed)
    return runs


def never_two_at_once(runs):
    return all(
        earlier["finished_at"] is not None and earlier["finished_at"] <= later["started_at"]
        for earlier, later in pairwise(runs)
    )


def live_workers(place):
    rows = place.rows("select worker_id from actp_workers where ended_at is null")
    return {row["worker_id"] for row in rows}


async def until_settled(place):
    with trio.fail_after(2 * PATIENCE):
        # Others work on it.
        while place.rows(UNFINISHED):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_two_of_three_are_killed_under_load_and_everything_happens_once(here, finishes):
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    due = here.use_zone(6, within=5)
    here.fired("content.run_daily_pipeline", due - timedelta(days=1))
    agents = ("--agents", ",".join(HOW_MANY))
    async with three_daemons(here, *agents) as (near, kept, far):
        for agent, how_many in HOW_MANY.items():
            for number in range(how_many):
                await kept.post(agent, GOALS[agent].format(number))

        killed_at = {}

        async def die(name, daemon):
            await trio.sleep(rng.uniform(0.2, 3))
            killed_at[name] = await kill(daemon)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die, "near", near)
            nursery.start_soon(die, "far", far)
        assert len(here.rows(UNFINISHED)) > 10, "they were not killed under load"
        await until_settled(here)
        await until(lambda: live_workers(here) == {"kept"})
        assert kept.logged("worker_died")
        await until(lambda: not here.rows("select 1 from actp_job_runs where outcome is null"))
        await kept.until_agent("social", "running")
        assert (await kept.get("/health"))["status"] == "healthy"
        kept.signal(signal.SIGTERM)
        assert await kept.wait() == 0

    tasks = here.rows("select id, attempts from actp_agent_tasks")
    print({n: sum(task["attempts"] == n for task in tasks) for n in (1, 2, 3)})
    ends = here.rows("select task_id, status from history.finishes order by task_id")
    assert ends == [
        {"task_id": task_id, "status": "succeeded"} for task_id in sorted(t["id"] for t in tasks)
    ]
    for agent, how_many in HOW_MANY.items():
        assert len(here.rows(EFFECTS[agent])) == how_many
    costs = here.rows("select request_id from anthropic_cost_log")
    assert len({cost["request_id"] for cost in costs}) == len(costs)
    assert len(here.rows("select 1 from actp_job_runs where scheduled_at = ?", due)) == 1
    runs = social_runs(here, killed_at)
    assert (runs[0]["worker_id"], runs[-1]["worker_id"]) == ("near", "kept")
    assert never_two_at_once(runs)


async def test_of_three_that_start_at_once_one_makes_up_for_a_missed_routine(idle_here):
    idle_here.use_class(f"{IDLER}\n{NOTING_ROUTINE}", "Idler")
    due = idle_here.use_zone(6, within=-5)
    idle_here.fired("content.run_daily_pipeline", due - timedelta(days=1))
    places = [idle_here, idle_here.elsewhere("two"), idle_here.elsewhere("three")]
    async with AsyncExitStack() as stack:
        daemons = [
            await stack.enter_async_context(place.starting_daemon("--agents", "content"))
            for place in places
        ]
        for daemon in daemons:
            await daemon.until_up()
        fire = "select outcome from actp_job_runs where scheduled_at = ?"
        await until(lambda: idle_here.rows(f"{fire} and finished_at is not null", due))
        assert idle_here.rows(fire, due) == [{"outcome": "succeeded"}]
        notes = [note for place in places for note in place.folder.glob("ran-*")]
        assert len(notes) == 1


async def test_who_runs_where_is_listed_and_a_restart_is_obeyed_once(idle_here):
    async with three_daemons(idle_here, "--agents", "social,content"):
        listed = json.loads((await idle_here.run("--list-agents", "--json")).out)
        places = {
            agent["agent_id"]: {
                worker["worker_id"]: worker["status"] for worker in agent["workers"]
            }
            for agent in listed
        }
        assert places == {
            "acquisition": {},
            "content": dict.fromkeys(("near", "kept", "far"), "running"),
            "revenue": {},
            "social": {"near": "running", "kept": "standby", "far": "standby"},
        }
        table = [line.split() for line in (await idle_here.run("--list-agents")).out.splitlines()]
        social = sorted(row[1:3] for row in table if row[:1] == ["social"])
        assert social == [["running", "near"], ["standby", "far"], ["standby", "kept"]]
        runs = "select worker_id, outcome from actp_agent_runs where agent_id = ? order by seq"
        for agent, before in (("social", 1), ("content", 3)):
            assert (await idle_here.run("--restart-agent", agent)).code == 0
            await until(lambda agent=agent, n=before + 1: len(idle_here.rows(runs, agent)) == n)
        await trio.sleep(1)  # in which nobody else obeys
        assert idle_here.rows(runs, "social") == [
            {"worker_id": "near", "outcome": "stopped"},
            {"worker_id": "near", "outcome": None},
        ]
        stopped = [run for run in idle_here.rows(runs, "content") if run["outcome"] is not None]
        ((obeyed, outcome),) = [tuple(run.values()) for run in stopped]
        assert outcome == "stopped"
        assert idle_here.rows(runs, "content")[-1]["worker_id"] == obeyed


async def test_a_single_agent_moves_when_its_daemon_is_killed_or_stopped(idle_here):
    async with three_daemons(idle_here, "--agents", "social,content") as daemons:
        by_name = dict(zip(("near", "kept", "far"), daemons, strict=True))
        killed_at = {"near": await kill(by_name.pop("near"))}
        holder = "select worker_id from actp_leases where name = 'social'"
        await until(lambda: idle_here.rows(holder)[0]["worker_id"] != "near")
        second = idle_here.rows(holder)[0]["worker_id"]
        daemon = by_name.pop(second)
        await daemon.until_agent("social", "running")
        await until(lambda: live_workers(idle_here) == {"kept", "far"})
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        ((last, daemon),) = by_name.items()
        held = idle_here.rows(holder)
        assert held in ([], [{"worker_id": last}])  # handed back, and not left to run out
        await daemon.until_agent("social", "running")
        runs = social_runs(idle_here, killed_at)
        assert [run["worker_id"] for run in runs] == ["near", second, last]
        assert never_two_at_once(runs)


async def test_a_daemon_that_was_cut_off_gives_way_and_its_late_result_is_refused(here, finishes):
    gateway = Gateway(Path(here.project.socket))
    slow = GOALS["social"].format("1") + " [simulate: slow 1]"
    async with (
        open_gateway(gateway) as url,
        here.daemon("--agents", "social", WORKER_ID="far", SUPABASE_URL=url) as far,
        here.daemon("--agents", "social", WORKER_ID="kept") as kept,
    ):
        task_id = await kept.post("social", slow)
        await until(lambda: here.rows(EFFECTS["social"]))
        gateway.fault = lost_connection
        await kept.until_agent("social", "running")
        await until_settled(here)
        await until(lambda: live_workers(here) == {"kept"})
        gateway.fault = None
        await far.until_agent("social", "standby")
        await until(lambda: live_workers(here) == {"kept", "far"})
        assert far.logged("agent_lost")
        assert far.logged("task_succeeded") is None
        assert (await far.get("/agents/social"))["runs_on"] == "kept"
        assert (await far.get("/agents/social"))["crashes"] == 0
        task = here.task(task_id)
        assert (task["worker_id"], task["attempts"]) == ("kept", 2)
        assert len(here.rows(EFFECTS["social"])) == 1
        assert len(here.rows("select 1 from history.finishes")) == 1


async def lost_connection(forward):
    return []
