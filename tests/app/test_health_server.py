"""What the HTTP API answers, over a real port."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
import trio
import trio.testing
from http_daemon import AGENT_IDS, TOKEN, make_daemon, served, status

from actp_supervise import open_supervisor
from app.facts import to_json
from app.health_server import HealthServer
from app.status import HealthState
from app.store.protocol import (
    AgentRegistration,
    CostEntry,
    RunOutcome,
    Store,
    StoreError,
    StoreUnavailable,
    TableMissing,
    TaskStatus,
    ToolCall,
    Turn,
)


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


class Failing(Store):
    """A store that answers whatever it is asked with an error."""

    where = "a database that fails"

    def __init__(self, error: StoreError) -> None:
        self._error = error

    async def perform(self, verb, arguments):
        raise self._error


AWAY = Failing(StoreUnavailable("connection to db.internal refused"))


async def add_task(client, **changes):
    body = {"agent_type": "content", "goal": "Draft three hooks"} | changes
    return await client.post("/agents/task", json=body)


async def test_an_agent_is_listed_with_its_status_and_health(client):
    answer = await client.get("/agents")
    assert answer.status_code == 200
    assert [agent["agent_id"] for agent in answer.json()] == list(AGENT_IDS)
    for agent in answer.json():
        assert agent["status"] == "running"
        assert agent["uptime"] == 61.5
        assert agent["error_count"] == 0
        assert agent["last_run_at"] == "2026-11-23T07:00:00.000Z"
        assert agent["health"]["heartbeat_age"] == 1.5


@pytest.mark.parametrize(
    ("state", "code"), [("healthy", 200), ("degraded", 200), ("critical", 503)]
)
async def test_health_is_503_only_when_critical(daemon, client, state, code):
    daemon.state = replace(daemon.state, status=HealthState(state), reasons=("social crashed",))
    answer = await client.get("/health")
    assert answer.status_code == code
    assert answer.json() == to_json(daemon.state)


async def test_livez_answers_whatever_the_store_does(daemon, client):
    daemon.store = AWAY
    assert (await client.get("/livez")).status_code == 200


async def test_readyz_is_200_when_tasks_can_be_taken(client):
    answer = await client.get("/readyz?verbose")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"daemon": "ok", "store": "ok"}}


async def test_readyz_is_503_without_the_store(daemon, client):
    daemon.store = AWAY
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Not ready: store (cannot be reached)."


async def test_readyz_is_503_while_the_store_can_only_be_read(daemon, client):
    daemon.records.away_because = "database is locked"
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "store (cannot be written to)" in answer.json()["detail"]


async def test_readyz_is_503_while_draining(daemon, client):
    daemon.stopping = True
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "stopping" in answer.json()["detail"]


async def test_readyz_is_503_while_agents_are_being_started(daemon, client):
    daemon.supervisor.statuses["content"] = status(status="starting")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Not ready: daemon (is starting)."


@pytest.mark.parametrize("path", ["/agents/content", "/agents/content/status"])
async def test_an_agent_comes_with_its_runs_and_tool_statistics(store, client, path):
    await store.touch_worker("worker", "instance", {}, silent_after=1000.0)
    await store.start_run("run-1", "content", "instance")
    await store.finish_run("run-1", RunOutcome.CRASHED, error="ValueError: no")
    for error in (None, "no such template"):
        await store.record_tool_call(
            ToolCall(
                id=f"call-{error}",
                agent_id="content",
                run_id="run-1",
                task_id=None,
                tool="find_templates",
                arguments={},
                duration=0.5,
                error=error,
            )
        )
    agent = (await client.get(path)).json()
    assert agent["agent_id"] == "content"
    assert [(run["id"], run["outcome"], run["error"]) for run in agent["runs"]] == [
        ("run-1", "crashed", "ValueError: no")
    ]
    (tool,) = agent["tool_stats"]
    assert (tool["tool"], tool["calls"], tool["errors"]) == ("find_templates", 2, 1)


async def test_an_unknown_agent_is_404_and_the_known_ones_are_named(client):
    answer = await client.get("/agents/contnet")
    assert answer.status_code == 404
    assert "known are social, content, acquisition, revenue" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_restart_is_begun_at_once_and_answered_with_202(daemon, client, method):
    answer = await client.request(method, "/agents/social/restart")
    assert answer.status_code == 202
    assert answer.json() == {"agent_id": "social", "action": "restart", "status": "running"}
    assert answer.headers["location"] == "/agents/social"
    assert answer.headers["cache-control"] == "no-store"
    assert daemon.supervisor.asked == [("restart", "social")]


async def test_a_restart_asked_for_while_one_is_under_way_is_that_one(daemon, client):
    for _ in range(3):
        assert (await client.post("/agents/social/restart")).status_code == 202
    assert (await client.post("/agents/content/restart")).status_code == 202
    assert daemon.supervisor.asked == [("restart", "social"), ("restart", "content")]
    daemon.supervisor.may_finish.set()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.post("/agents/social/restart")
    assert daemon.supervisor.asked[2:] == [("restart", "social")]


async def test_head_of_the_restart_address_restarts_nothing(daemon, client):
    assert (await client.head("/agents/social/restart")).status_code == 405
    assert daemon.supervisor.asked == []


async def test_a_command_that_fails_is_logged_and_harms_nobody(daemon, client, caplog):
    assert (await client.post("/agents/social/start")).status_code == 202
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert "Failed: start social" in caplog.text
    assert (await client.post("/agents/social/stop")).status_code == 202
    assert daemon.supervisor.asked == [("start", "social"), ("stop", "social")]


@pytest.mark.parametrize("action", ["restart", "stop", "start"])
async def test_a_disabled_agent_takes_no_commands(daemon, client, action):
    daemon.supervisor.statuses["social"] = status(
        status="disabled", enabled=False, why_disabled="ENABLE_SOCIAL_MEDIA_AGENT is false"
    )
    answer = await client.post(f"/agents/social/{action}")
    assert answer.status_code == 409
    assert "ENABLE_SOCIAL_MEDIA_AGENT is false" in answer.json()["detail"]
    assert daemon.supervisor.asked == []


async def test_agents_take_no_commands_while_the_daemon_stops(daemon, client):
    daemon.stopping = True
    assert (await client.post("/agents/social/restart")).status_code == 503
    assert daemon.supervisor.asked == []


async def test_a_posted_task_is_queued_and_wakes_its_agent(daemon, store, client):
    answer = await add_task(client, context={"tone": "dry"}, priority=5)
    assert answer.status_code == 201
    task = answer.json()
    assert task["status"] == "queued"
    assert task["context"] == {"tone": "dry"}
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert daemon.supervisor.asked == [("notify", "content")]
    assert (await client.get(f"/tasks/{task['id']}")).json() == task
    assert (await store.task(task["id"])).priority == 5


async def test_a_task_for_an_agent_that_only_another_daemon_runs_is_queued(daemon, store, client):
    await store.register_agents(
        "elsewhere", [AgentRegistration(agent_id="legal", class_name="x:Y", model="m")]
    )
    assert (await add_task(client, agent_type="legal")).status_code == 201
    assert daemon.supervisor.asked == []


async def test_one_idempotency_key_makes_one_task(store, client):
    headers = {"Idempotency-Key": "order-66"}
    body = {"agent_type": "content", "goal": "Once", "context": {"n": 1.5}}
    answers = [await client.post("/agents/task", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len(await store.tasks()) == 1
    other = await client.post("/agents/task", json=body | {"goal": "Twice"}, headers=headers)
    assert other.status_code == 409
    assert len(await store.tasks()) == 1


async def test_tasks_are_listed_newest_first_and_filtered(store, client):
    first = (await add_task(client, goal="one")).json()["id"]
    second = (await add_task(client, goal="two", agent_type="social")).json()["id"]
    await store.cancel_task(first)

    async def listed(query):
        return [task["id"] for task in (await client.get(f"/tasks{query}")).json()]

    assert await listed("") == [second, first]
    assert await listed("?status=cancelled") == [first]
    assert await listed("?agent_type=social") == [second]
    assert await listed("?status=queued&agent_type=content") == []
    assert await listed("?limit=1") == [second]


async def test_a_queued_task_is_cancelled_at_once_and_can_be_retried(daemon, client):
    path = (await add_task(client)).headers["location"]
    for _ in range(2):
        cancelled = await client.post(f"{path}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    daemon.supervisor.asked.clear()
    retried = await client.post(f"{path}/retry")
    assert (retried.status_code, retried.json()["status"]) == (200, "queued")
    assert daemon.supervisor.asked == [("notify", "content")]


async def test_a_running_task_is_asked_to_end_and_cannot_be_retried(daemon, store, client):
    path = (await add_task(client)).headers["location"]
    await store.claim_task("content", worker_id="w", instance="i", token="t", lease=60)
    assert (await client.post(f"{path}/retry")).status_code == 409
    daemon.supervisor.asked.clear()
    answer = await client.post(f"{path}/cancel")
    assert answer.status_code == 202
    assert answer.json()["cancel_requested"] is True
    assert daemon.supervisor.asked == [("notify", "content")], "it need not wait for its lease"


async def test_a_task_that_is_over_can_be_neither_cancelled_nor_retried(store, client):
    path = (await add_task(client)).headers["location"]
    await store.claim_task("content", worker_id="w", instance="i", token="t", lease=60)
    await store.finish_task(path.rpartition("/")[2], "t", TaskStatus.SUCCEEDED, result={"n": 1})
    for action in ("cancel", "retry"):
        answer = await client.post(f"{path}/{action}")
        assert answer.status_code == 409
        assert "succeeded" in answer.json()["detail"]


async def test_jobs_come_with_their_next_run_time(client):
    (job,) = (await client.get("/scheduler/jobs")).json()
    assert job["name"] == "content-daily-pipeline"
    assert job["next_run_time"] == "2026-11-24T06:00:00.000Z"


async def test_a_job_is_run_paused_and_resumed(daemon, client):
    path = "/scheduler/jobs/content-daily-pipeline"
    assert (await client.post(f"{path}/run")).status_code == 202
    assert daemon.routines.asked == ["content-daily-pipeline"]
    assert (await client.post(f"{path}/pause")).json()["paused_by"] == "an operator"
    assert (await client.post(f"{path}/pause", json={"by": "Ada"})).json()["paused_by"] == "Ada"
    wrong = await client.post(f"{path}/pause", json={"by": ""})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "by")
    assert (await client.post(f"{path}/resume")).json()["paused"] is False


async def test_the_time_of_a_job_is_changed_and_put_back(client):
    path = "/scheduler/jobs/content-daily-pipeline"
    answer = await client.put(path, json={"cron": "30 7 * * *"})
    assert answer.status_code == 200
    assert (answer.json()["cron"], answer.json()["configured"]) == ("30 7 * * *", "0 6 * * *")
    assert (await client.put(path, json={"cron": None})).json()["cron"] == "0 6 * * *"


@pytest.mark.parametrize("body", [{"cron": "0 25 * * *"}, {"cron": 7}, {}, {"corn": "0 7 * * *"}])
async def test_what_is_no_time_of_a_job_is_422_and_named(client, body):
    answer = await client.put("/scheduler/jobs/content-daily-pipeline", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.put("/scheduler/jobs/none", json=body)).status_code == 404


async def test_a_job_that_runs_is_not_run_once_more(daemon, client):
    daemon.routines.job = replace(daemon.routines.job, running=True)
    answer = await client.post("/scheduler/jobs/content-daily-pipeline/run")
    assert answer.status_code == 409
    assert "runs just now" in answer.json()["detail"]
    assert daemon.routines.asked == []


async def test_an_agent_that_paused_itself_is_not_resumed_by_word_alone(daemon, client):
    daemon.supervisor.statuses["content"] = status("content", paused="the key is wrong")
    answer = await client.post("/agents/content/resume")
    assert answer.status_code == 409
    assert "the key is wrong. Restarted, it tries again" in answer.json()["detail"]
    assert daemon.supervisor.asked == []


async def test_a_disabled_job_is_not_run(daemon, client):
    daemon.routines.job = replace(
        daemon.routines.job, disabled="its class has no run_daily_pipeline"
    )
    answer = await client.post("/scheduler/jobs/content-daily-pipeline/run")
    assert answer.status_code == 409
    assert "no run_daily_pipeline" in answer.json()["detail"]


async def test_without_the_store_what_needs_it_is_503_and_the_rest_goes_on(daemon, client):
    daemon.store = AWAY
    for path in ("/tasks", "/tasks/x", "/agents/content"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "db.internal" not in answer.text
    assert (await add_task(client)).status_code == 503
    # What can be no id is not there, and no database is asked.
    assert (await client.get("/tasks/%00")).status_code == 404
    for path in ("/agents", "/scheduler/jobs", "/"):
        assert (await client.get(path)).status_code == 200
    assert (await client.post("/agents/content/restart")).status_code == 202


async def test_a_missing_table_is_503_and_says_how_to_see_which(daemon, client):
    daemon.store = Failing(TableMissing("no such table: actp_agent_tasks"))
    answer = await client.get("/tasks")
    assert answer.status_code == 503
    assert "--dry-run" in answer.json()["detail"]


async def test_an_error_of_ours_is_a_500_that_tells_nothing(daemon, client, caplog):
    def broken():
        raise RuntimeError("secret-key in /etc/worker")

    daemon.health = broken
    answer = await client.get("/health")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret-key" not in answer.text
    assert "secret-key" in caplog.text


async def test_the_turns_of_a_task_are_told_after_those_that_are_known(client, store):
    await store.add_task("t1", "content", "Draft three hooks")
    for number in range(3):
        await store.record_turn(
            Turn(
                id=f"turn-{number}",
                task_id="t1",
                agent_id="content",
                run_id=None,
                step=number,
                role="assistant",
                content=[{"type": "text", "text": "so"}],
            )
        )

    async def told(query):
        return [turn["id"] for turn in (await client.get(f"/tasks/t1/turns{query}")).json()]

    assert await told("") == ["turn-0", "turn-1", "turn-2"]
    assert await told("?after=turn-0&limit=1") == ["turn-1"]
    assert (await client.get("/tasks/none/turns")).status_code == 404
    assert (await client.get("/tasks/t1/turns?limit=0")).status_code == 422


async def test_an_agent_s_spend_is_told_by_day_with_days_without_any(client, store):
    await store.record_cost(
        CostEntry(
            id="c",
            agent_id="content",
            run_id=None,
            task_id=None,
            model="m",
            input_tokens=3,
            output_tokens=5,
            cost_usd=0.25,
        )
    )
    spend = (await client.get("/agents/content")).json()["spend"]
    assert len(spend) == 14
    assert [day["cost_usd"] for day in spend] == [0.0] * 13 + [0.25]
    today = (await store.ping()).date().isoformat()
    assert spend[-1] | {"day": today} == spend[-1]
    assert (spend[-1]["calls"], spend[-1]["input_tokens"], spend[-1]["output_tokens"]) == (1, 3, 5)


async def test_the_daemons_that_share_the_store_are_told(client, store):
    await store.touch_worker("studio", "i1", {"content": "running"}, silent_after=60)
    (worker,) = (await client.get("/workers")).json()
    assert (worker["worker_id"], worker["agents"]) == ("studio", {"content": "running"})


async def test_no_answer_shows_a_secret(store):
    daemon = make_daemon(store, api_token=TOKEN)
    daemon.supervisor.statuses["content"] = status(doing=f"posting with {TOKEN}")
    task = await store.add_task("t", "content", f"use {TOKEN}", context={TOKEN: [TOKEN]})
    async with served(daemon) as client:
        for path in ("/", "/agents", "/agents/content", f"/tasks/{task.id}", "/tasks"):
            answer = await client.get(path)
            assert "[redacted]" in answer.text
            assert TOKEN not in answer.text
            assert int(answer.headers["content-length"]) == len(answer.content)


async def test_every_answer_carries_the_security_headers(client):
    for path in ("/", "/health", "/static/page.js", "/nothing", "/agents/nobody"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert not [name for name in headers if name.startswith("access-control")]


async def test_asked_to_stop_by_its_supervisor_the_server_ends_by_itself(daemon):
    with trio.fail_after(60):
        async with open_supervisor(name="root") as supervisor:
            address = await supervisor.start(HealthServer(daemon).start, 0, name="web")
            async with httpx.AsyncClient(base_url=address) as client:
                assert (await client.post("/agents/social/restart")).status_code == 202
                await supervisor.stop("web")
                with pytest.raises(httpx.ConnectError):
                    await client.get("/livez")


async def test_it_refuses_to_serve_others_without_a_token(store):
    with pytest.raises(ValueError, match="WORKER_API_TOKEN"):
        await HealthServer(make_daemon(store, health_host="0.0.0.0")).start(0)
