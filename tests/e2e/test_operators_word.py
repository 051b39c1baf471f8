"""What an operator says lasts, and holds in two daemons that share a store, in real processes."""

from __future__ import annotations

import json
import signal

from daemons import until

PIPELINE = "content.run_daily_pipeline"


def port_of(daemon):
    return {"WORKER_HEALTH_PORT": daemon.page.rpartition(":")[2]}


async def job_of(daemon):
    return next(job for job in await daemon.get("/scheduler/jobs") if job["name"] == PIPELINE)


async def test_pauses_and_times_hold_in_both_daemons_and_after_both_are_killed(place):
    agents = ("--agents", "social,content")
    async with place.daemon(*agents, WORKER_ID="one") as one:
        async with place.daemon(*agents, WORKER_ID="two") as two:
            await two.until_agent("content", "running")
            assert (await place.run("--pause", "content", **port_of(one))).code == 0
            assert (await place.run("--pause", PIPELINE, **port_of(one))).code == 0
            body = {"cron": "30 7 * * *", "by": "Ada"}
            assert (await one.http.put(f"/scheduler/jobs/{PIPELINE}", json=body)).status_code == 200

            # The other one does no task of it, and soon shows by whom it was paused.
            shown = await two.until("/agents/content", lambda agent: agent["paused_by"])
            assert shown["paused_by"].endswith(" (terminal)")
            assert shown["paused_at"] is not None
            assert shown["health"]["paused"] == "paused by an operator"
            task_id = await two.post("content", "Not now.")
            two.signal(signal.SIGKILL)
            await two.wait()
        one.signal(signal.SIGKILL)
        await one.wait()

    async with place.daemon(*agents, WORKER_ID="three") as three:
        shown = await three.until("/agents/content", lambda agent: agent["paused_by"])
        assert shown["paused_by"].endswith(" (terminal)")
        job = await job_of(three)
        assert job["paused"]
        assert job["paused_by"].endswith(" (terminal)")
        assert (job["cron"], job["changed_by"]) == ("30 7 * * *", "Ada")
        page = (await three.http.get("/ui/agents/content", headers={"Accept": "text/html"})).text
        assert "(terminal)" in page.partition("Paused by")[2][:200]
        assert "by Ada" in page
        listed = json.loads((await place.run("--list-agents", "--json")).out)
        content = next(agent for agent in listed if agent["agent_id"] == "content")
        assert content["paused_by"].endswith(" (terminal)")
        assert content["status"] == "paused"
        assert "content is paused: by " in (await place.run("--list-agents")).out
        assert place.task(task_id)["status"] == "queued"

        assert (await place.run("--resume", "content")).code == 0
        await until(lambda: place.task(task_id)["status"] == "succeeded")
        assert (await place.run("--resume", PIPELINE)).code == 0
        assert not (await job_of(three))["paused"]


async def test_a_request_to_restart_says_whether_it_was_obeyed(idle_place):
    async with idle_place.daemon(WORKER_ID="one") as daemon:
        await daemon.until_agent("social", "running")
        ended = await idle_place.run("--restart-agent", "social", "--wait")
        assert (ended.code, ended.out) == (0, "social was restarted by one.\n")
        request = (await daemon.get("/agents/social"))["restart"]
        assert request["answer"] == "obeyed"
        assert request["asked_by"].endswith(" (terminal)")
        assert request["asked_at"] <= request["answered_at"]
        assert "; obeyed, at " in (await idle_place.run("--list-agents")).out
        page = (await daemon.http.get("/ui/agents/social", headers={"Accept": "text/html"})).text
        assert "Restart asked for at " in page
        assert "obeyed, at " in page

        answer = await daemon.http.post("/agents/social/restart", json={"by": "Ada"})
        assert answer.status_code == 202
        shown = await daemon.until(
            "/agents/social", lambda agent: agent["restart"]["asked_by"] == "Ada"
        )
        await daemon.until("/agents/social", lambda agent: agent["restart"]["answer"] == "obeyed")
        assert shown["restart"]["asked_by"] == "Ada"

        # Nobody here will: it is disabled.
        assert (await idle_place.run("--restart-agent", "content")).code == 0
        assert "restart of content: asked for at" in (await idle_place.run("--list-agents")).out
        assert "not obeyed yet" in (await idle_place.run("--list-agents")).out
