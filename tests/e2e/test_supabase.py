"""The daemon on a Supabase project: everything that it does on SQLite, against PostgreSQL."""

from __future__ import annotations

import json
import signal
from datetime import timedelta

import pytest
from daemons import IDLER, SupabasePlace, until

from app.store.migrate import migrate

LIKE = "List the engagement actions and queue a like for the post 'Hiring is broken'"
SLOW = f"{LIKE} [simulate: slow 0.7]"


async def done(place, task_id):
    await until(lambda: place.task(task_id)["status"] == "succeeded")


async def test_a_task_is_done_and_everything_is_on_record(supabase):
    async with supabase.daemon() as daemon:
        assert daemon.logged("starting")["store"] == f"Supabase project {supabase.project.url}"
        task_id = await daemon.post("social", LIKE, context={"by": "Ünïcode 🎉"}, priority=3)
        await done(supabase, task_id)
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    task = supabase.task(task_id)
    assert (task["attempts"], task["error"], task["lease_token"]) == (1, None, None)
    assert task["context"] == {"by": "Ünïcode 🎉"}
    assert task["result"]["tool_calls"] == 2
    calls = supabase.rows("select tool, error, task_id from actp_tool_call_log order by seq")
    assert calls == [
        {"tool": tool, "error": None, "task_id": task_id}
        for tool in ("list_engagement_actions", "queue_engagement_action")
    ]
    (action,) = supabase.rows("select target, status from actp_engagement_actions")
    assert action == {"target": "Hiring is broken", "status": "queued"}
    (costs,) = supabase.rows("select count(*), sum(cost_usd) as usd from anthropic_cost_log")
    assert (costs["count"], float(costs["usd"])) == (3, pytest.approx(task["result"]["usd"]))
    assert set(supabase.statuses().values()) == {"stopped"}
    runs = supabase.rows("select agent_id, outcome, error from actp_agent_runs order by agent_id")
    assert runs == [
        {"agent_id": agent_id, "outcome": "stopped", "error": None}
        for agent_id in ("acquisition", "content", "revenue", "social")
    ]
    (worker,) = supabase.rows("select worker_id, ended_at is not null as ended from actp_workers")
    assert worker == {"worker_id": task["worker_id"], "ended": True}
    assert supabase.locks == []
    assert not supabase.database.exists()


@pytest.mark.long
async def test_a_routine_fires_when_it_is_due_and_one_that_was_missed_is_made_up_for(supabase):
    fired = "select outcome, error from actp_job_runs where scheduled_at = ? and outcome > ''"
    done_well = [{"outcome": "succeeded", "error": None}]
    due = supabase.use_zone(8, within=-1)
    supabase.fired("revenue.run_daily_check", due - timedelta(days=1))
    async with supabase.daemon("--agents", "revenue"):
        assert await until(lambda: supabase.rows(fired, due)) == done_well
    due = supabase.use_zone(6, within=10)
    async with supabase.daemon("--agents", "content") as daemon:
        jobs = {job["name"]: job for job in await daemon.get("/scheduler/jobs")}
        assert jobs["content.run_daily_pipeline"]["next_run_time"] == f"{due:%FT%T}.000Z"
        assert await until(lambda: supabase.rows(fired, due)) == done_well


@pytest.mark.long
async def test_sigterm_drains_and_what_waits_stays_queued(supabase):
    async with supabase.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        waiting = await daemon.post("social", "Recall what we know")
        await until(lambda: supabase.task(in_flight)["status"] == "running")
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert supabase.task(in_flight)["status"] == "succeeded"
    assert (supabase.task(waiting)["status"], supabase.task(waiting)["attempts"]) == ("queued", 0)


@pytest.mark.long
async def test_a_second_signal_hands_back_what_is_in_flight(supabase):
    async with supabase.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", "Recall what we know [simulate: slow 60]")
        await until(lambda: supabase.task(in_flight)["status"] == "running")
        daemon.signal(signal.SIGTERM)
        await until(lambda: daemon.logged("stop_requested"))
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    task = supabase.task(in_flight)
    assert (task["status"], task["attempts"], task["lease_token"]) == ("queued", 0, None)


@pytest.mark.long
async def test_after_kill_9_the_next_start_finishes_the_task_once(supabase):
    async with supabase.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        # In the middle: the like is queued, the conversation goes on.
        await until(lambda: supabase.rows("select 1 from actp_engagement_actions"))
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    assert supabase.task(in_flight)["status"] == "running"
    # The lease is 60 s, and nobody waits for it.
    async with supabase.daemon("--agents", "social") as daemon:
        await done(supabase, in_flight)
        assert daemon.logged("worker_died")
    assert supabase.task(in_flight)["attempts"] == 2
    assert len(supabase.rows("select * from actp_engagement_actions")) == 1
    first, *_ = supabase.rows("select outcome from actp_agent_runs order by started_at")
    assert first["outcome"] == "interrupted"


async def test_agents_are_listed_and_restarted_by_commands_beside_the_daemon(supabase):
    supabase.use_class(IDLER, "Idler")
    async with supabase.daemon("--agents", "social", WORKER_ID="desk") as daemon:
        await until(lambda: supabase.statuses().get("social") == "running")
        listed = json.loads((await supabase.run("--list-agents", "--json")).out)
        assert {agent["agent_id"]: (agent["status"], agent["worker_id"]) for agent in listed} == {
            "acquisition": ("disabled", "desk"),
            "content": ("disabled", "desk"),
            "revenue": ("disabled", "desk"),
            "social": ("running", "desk"),
        }
        ended = await supabase.run("--restart-agent", "social")
        assert (ended.code, ended.err) == (0, "")
        assert "The restart of social is requested" in ended.out
        runs = "select outcome from actp_agent_runs order by started_at"
        await until(lambda: len(supabase.rows(runs)) == 2)
        assert [run["outcome"] for run in supabase.rows(runs)] == ["stopped", None]
        await daemon.until_agent("social", "running")
        assert (await daemon.get("/agents/social"))["crashes"] == 0


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("anon_key", []),
        ("anon_key", ["--list-agents"]),
        ("authenticated_key", ["--dry-run"]),
        ("of another project", []),
        ("of another project", ["--restart-agent", "social"]),
    ],
)
async def test_a_key_that_is_not_the_service_roles_is_one_line_and_exit_code_2(
    supabase, key, arguments
):
    wrong = getattr(supabase.project, key, supabase.project.service_key[:-4] + "AAAA")
    ended = await supabase.run(*arguments, SUPABASE_SERVICE_ROLE_KEY=wrong)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: SUPABASE_SERVICE_ROLE_KEY is not the service role's key")
    assert wrong not in line


HOW_TO_MAKE_THEM = "To make what is missing, run: python -m app.main --migrate"


@pytest.mark.long
async def test_agents_whose_tables_are_missing_are_disabled_and_the_others_start(
    tmp_path, claude, new_project
):
    migrate(new_project.db_url)
    place = SupabasePlace(tmp_path, claude, project=new_project)
    place.rows("drop table actp_revenue_goals")
    place.rows("alter table actp_deal_log drop column stage")
    lacking = (
        f"Supabase project {new_project.url}: table actp_deal_log lacks column stage; "
        f"table actp_revenue_goals is missing. {HOW_TO_MAKE_THEM}"
    )
    ended = await place.run("--dry-run")
    assert (ended.code, ended.err) == (1, f"error: {lacking}\n")
    assert "disabled   revenue      table actp_revenue_goals is missing" in ended.out
    async with place.daemon() as daemon:
        assert daemon.logged("tables_missing")["message"] == lacking
        assert daemon.logged("starting")["disabled"] == {
            "acquisition": "table actp_deal_log lacks column stage",
            "revenue": "table actp_revenue_goals is missing",
        }
        health = await daemon.get("/health")
        assert (health["status"], health["agents"]) == ("degraded", 2)
        assert lacking in health["reasons"]
        await daemon.until("/readyz", lambda ready: ready["status"] == "ready")
        revenue = (await daemon.get("/agents"))[3]
        assert (revenue["agent_id"], revenue["status"]) == ("revenue", "disabled")
        assert revenue["why_disabled"] == "table actp_revenue_goals is missing"
        listed = json.loads((await place.run("--list-agents", "--json")).out)
        assert [agent["status"] for agent in listed] == ["disabled", "running"] * 2
        await done(place, await daemon.post("social", LIKE))


@pytest.mark.long
async def test_a_project_without_any_table_says_how_to_make_them_and_works_once_they_are(
    tmp_path, claude, new_project
):
    place = SupabasePlace(tmp_path, claude, project=new_project)
    for arguments in (["--dry-run"], ["--list-agents"], ["--restart-agent", "social"]):
        ended = await place.run(*arguments)
        assert ended.code == 1
        (line,) = ended.err.splitlines()
        assert line.endswith("run: python -m app.main --migrate")
    async with place.daemon() as daemon:
        health = await daemon.get("/health")
        assert (health["status"], health["agents"]) == ("degraded", 0)
        assert HOW_TO_MAKE_THEM in health["reasons"][0]
        assert (await daemon.http.get("/livez")).status_code == 200
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        assert "Traceback" not in daemon.log.read_text()
    ended = await place.run("--migrate", SUPABASE_DB_URL=new_project.db_url)
    assert (ended.code, ended.err) == (0, "")
    assert (await place.run("--dry-run")).code == 0
    async with place.daemon() as daemon:
        assert daemon.logged("tables_missing") is None
        await done(place, await daemon.post("social", LIKE))
